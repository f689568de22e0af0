"""The command ``smartedge`` as the blocks of the documents find it: the same, but small, and on this machine.

Servers run beside the blocks that follow, on free ports, which edges then find. ``SMALLER`` names a folder for what is
known of them. With ``AS_WRITTEN`` in the environment nothing is made small.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from smartedge.config import load_config

SERVERS = {"cloud.example": "127.0.0.1", "proxy.example": "127.0.0.1", "SERVER": "127.0.0.1"}
RUN = (
    *("data.limit.train=80", "data.limit.val=40", "data.limit.test=60", "data.image_size=32", "epochs=1"),
    "train.batch_size=20",
)
MEASURED = ["--cuts", "layer1", "--codecs", "uint8", "--repeats", "1"]
LIMIT_S = 300  # of one command; only one that hangs takes so long


def smaller(words: list[str], known: Path) -> list[str]:
    """The words of a command: with fewer images and less time, and with the addresses of servers that run here."""
    for name, address in SERVERS.items():
        words = [word.replace(name, address) for word in words]
    verb = words[0]
    small = "AS_WRITTEN" not in os.environ
    if small and verb in ("train", "cloud", "edge") and "--front" not in words:
        longer = re.search(r"front_epochs: *[1-9]", Path(words[1]).read_text(encoding="utf-8"))
        for change in [*RUN, *(["train.front_epochs=1"] if longer else [])]:
            words += ["--set", change]
    if verb in ("cloud", "serve"):
        words = _replaced(words, "--listen", "127.0.0.1:0")
        words = _replaced(words, "--listen-udp", "127.0.0.1:0")
    if small and verb in ("profile", "plan"):
        words += MEASURED
    if small and verb == "audit":
        words = [*_replaced(words, "--budget", "5s"), *([] if "--budget" in words else ["--budget", "5s"])]
    if verb == "infer" and "--source" in words and "--once" not in words:
        words += ["--once"]
    if verb == "edge" or (verb == "infer" and "--connect" in words):
        udp = any(word.startswith("udp://") for word in words)
        server = known / ("udp.port" if udp else "cloud.port" if verb == "edge" else "serve.port")
        address = f"{'udp://' if udp else ''}127.0.0.1:{server.read_text()}"
        words = [*_replaced(words, "--connect", None), "--connect", address]
    if small:  # the certificate of few images is loose
        words = [re.sub(r"certificate<=\d+%", "certificate<=100%", word) for word in words]
    return [_as_copied(word) for word in words]


def _as_copied(word: str) -> str:
    """Where the text says that an edge's bundle is copied to the device: the file that is copied."""
    made = Path("factory/bundles", word)
    return str(made) if word.endswith(".bundle") and not Path(word).exists() and made.exists() else word


def _replaced(words: list[str], option: str, value: str | None) -> list[str]:
    """The words with another value of an option, where it is there; None: without the option."""
    if option not in words:
        return words
    at = words.index(option)
    return [*words[:at], *([] if value is None else [option, value]), *words[at + 2 :]]


def begin(words: list[str], known: Path) -> None:
    """Start a server beside what follows, and wait until it listens."""
    number = len(list(known.glob("*.out")))
    output, code = known / f"{number}.out", known / f"{number}.code"
    told = ["--log-format", "text"] if words[0] == "cloud" else []
    call = [sys.executable, "-m", "smartedge", *words, *told]
    with output.open("w") as file:
        guarded = ["sh", "-c", '"$@"; echo $? > "$0"', str(code), *call]
        process = subprocess.Popen(
            guarded, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    (known / f"{number}.pid").write_text(f"{words[0]} {process.pid}")
    deadline = time.monotonic() + LIMIT_S
    wanted = {words[0], *(["udp"] if "--listen-udp" in words else [])}
    while not wanted <= set(ports := _ports(output.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{words[0]} does not listen: {output.read_text()}")
        time.sleep(0.05)
    for kind, port in ports.items():
        (known / f"{kind}.port").write_text(port)


def _ports(said: str) -> dict[str, str]:
    """Which server listens on which port, by what a server has printed so far."""
    kinds = {"cloud: listening on": "cloud", "listening on": "serve", "cloud: listening for datagrams on": "udp"}
    found = re.findall(r"((?:cloud: )?listening(?: for datagrams)? on) 127\.0\.0\.1:(\d+)", said)
    return {kinds[text]: port for text, port in found}


def make_training_small() -> None:
    """For programs that call ``smartedge.train``: it trains on fewer images."""
    import smartedge

    if "AS_WRITTEN" in os.environ:
        return

    as_written = smartedge.train

    def train(config: Any, overrides: Any = (), **options: Any) -> Any:
        return as_written(load_config(config, overrides), RUN, **options)

    smartedge.train = train


def end_all(known: Path, *, kill: bool) -> None:
    """End every server. A cloud must have come to its own end, unless ``kill`` is set.

    Raises:
        AssertionError: a cloud failed, or has not ended.
    """
    failed = []
    for file in sorted(known.glob("*.pid")):
        verb, pid = file.read_text().split()
        code, deadline = file.with_suffix(".code"), time.monotonic() + LIMIT_S
        while verb == "cloud" and not kill and not code.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        if not code.exists():
            os.killpg(int(pid), signal.SIGKILL)
        if verb == "cloud" and not kill and (not code.exists() or code.read_text() != "0\n"):
            failed.append(file.with_suffix(".out").read_text())
    assert not failed, "\n".join(failed)


def main() -> None:
    known = Path(os.environ["SMALLER"])
    words = smaller(sys.argv[1:], known)
    if words[0] in ("cloud", "serve"):
        begin(words, known)
    else:
        os.execv(sys.executable, [sys.executable, "-m", "smartedge", *words])


if __name__ == "__main__":
    main()
