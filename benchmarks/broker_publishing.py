"""How fast a broker confirms frames that come to it in several ways, beside plain TCP with fsync and an answer each.

    python benchmarks/broker_publishing.py --rounds 3

Four edges publish side by side by nats-py; nothing takes the frames out. *one stream* is the way of the link over a
broker; with *four streams*, each edge has one of its own; of *atomic batches*, 16 messages have one confirmation
(nats-server 2.12). All of them are confirmed after fsync. Result: benchmarks/results/broker-publishing.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import nats
from broker import EDGES, SIZES, Server, cpu_of, message, tcp_rate
from common import HERE, keep_result
from link import header_of
from nats.js.api import StreamConfig

WAYS = {"one stream": (1, 1), "four streams": (4, 1), "atomic batches": (1, 16)}  # streams, messages of a batch


def publishing(rounds: int) -> dict[str, Any]:
    """Frames a second that the broker confirms, beside plain TCP, and its processor time, for ways to publish."""
    found: dict[str, Any] = {}
    for size, (images, numbers, frames) in SIZES.items():
        frames = frames * 16 // 50  # a multiple of a batch
        header = header_of(frames, images, numbers)
        messages = [message(seq, header) for seq in range(frames)]
        each_round: dict[str, list[tuple[float, float, float]]] = {}
        for number in range(rounds):
            floor = tcp_rate(messages)
            for way in list(WAYS) if number % 2 else list(WAYS)[::-1]:
                rate, cpu = asyncio.run(published([b"".join(each) for each in messages], *WAYS[way]))
                each_round.setdefault(way, []).append((rate, rate / floor, cpu))
        found[size] = {
            way: {
                "frames_per_second": round(statistics.median(rate for rate, _, _ in values), 1),
                "over_tcp": round(statistics.median(ratio for _, ratio, _ in values), 2),
                "rounds": [round(ratio, 2) for _, ratio, _ in values],
                "broker_cpu_ms_per_frame": round(statistics.median(cpu for _, _, cpu in values), 2),
            }
            for way, values in each_round.items()
        }
        print(size, found[size], flush=True)
    return found


async def published(messages: list[bytes], streams: int, batch: int) -> tuple[float, float]:
    """Frames a second of four edges that the broker confirms, and its milliseconds of processor time for each."""
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name))
        clients = [await nats.connect(f"nats://127.0.0.1:{server.port}") for _ in EDGES]
        for number in range(streams):
            settings = StreamConfig(name=f"s{number}", subjects=[f"s{number}.*"], allow_atomic=batch > 1)
            await clients[0].jetstream().add_stream(settings)
        before, begun = cpu_of([server.process.pid]), time.perf_counter()

        async def edge(number: int) -> None:
            client, subject = clients[number], f"s{number % streams}.{EDGES[number]}"
            jetstream, ahead = client.jetstream(timeout=60), max(1, 8 * 2**20 // len(messages[0]))
            waiting: deque[asyncio.Future[Any]] = deque()
            for seq, each in enumerate(messages):
                headers = {"Nats-Msg-Id": f"{number}-{seq}"}
                if batch == 1:
                    waiting.append(await jetstream.publish_async(subject, each, headers=headers))
                    while len(waiting) > (ahead if seq + 1 < len(messages) else 0):
                        await waiting.popleft()
                    continue
                headers |= {"Nats-Batch-Id": f"{number}-{seq // batch}", "Nats-Batch-Sequence": f"{seq % batch + 1}"}
                if (seq + 1) % batch:
                    await client.publish(subject, each, headers=headers)
                else:
                    headers["Nats-Batch-Commit"] = "1"
                    said = json.loads((await client.request(subject, each, headers=headers, timeout=60)).data)
                    assert said.get("count") == batch, said

        await asyncio.gather(*map(edge, range(len(EDGES))))
        seconds, total = time.perf_counter() - begun, len(EDGES) * len(messages)
        cpu = 1000 * (cpu_of([server.process.pid]) - before) / total
        stored = [(await clients[0].jetstream().stream_info(f"s{number}")).state for number in range(streams)]
        assert sum(state.messages for state in stored) == total
        for client in clients:
            await client.close()
        server.kill()
        return total / seconds, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    keep_result(HERE / "results" / "broker-publishing.json", publishing(parser.parse_args().rounds))


if __name__ == "__main__":
    main()
