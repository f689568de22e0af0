"""What a durable log costs, and what damage it notices: our records, or Arrow segments with an index in SQLite.

    python benchmarks/store.py [--folder FOLDER] [--rounds 5]

Frames of 1 MB and of 10 kB, one wait for the disk after every 1, 8 or 64 of them (group commit). "file + fsync" is the
floor: the same bytes appended to one file, with one fsync for each group. "arrow + sqlite" appends each frame as a
record batch of an Arrow IPC stream, syncs that, and commits a row for each in SQLite (WAL, synchronous=FULL). Then
one bit of every byte of every file of a small log is flipped, and the log is read: the same frames, an error, or fewer
or other frames in silence. FOLDER must be on the disk to be measured. Result: results/store.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from common import HERE, keep_result

from smartedge.errors import LogError
from smartedge.framelog.log import FrameLog
from smartedge.framelog.reader import LogReader

SIZES = {"1 MB": (2**20, 64), "10 kB": (10_000, 256)}  # bytes of a frame, frames
GROUPS = (1, 8, 64)
SCHEMA = pa.schema([("head", pa.binary()), ("payload", pa.binary())])


class Ours:
    """smartedge.framelog."""

    name = "ours"

    def __init__(self, folder: Path) -> None:
        self.log = FrameLog(folder, "edge")
        if not self.log.stream_headers:
            self.log.add_stream(b"header", 0)

    def append(self, seq: int, head: bytes, payload: bytes) -> None:
        self.log.append(seq, head, payload)

    def sync(self) -> None:
        self.log.sync()

    def close(self) -> None:
        self.log.close()

    @staticmethod
    def read(folder: Path) -> list[tuple[bytes, bytes]]:
        log = LogReader(folder, "edge")
        return [tuple(log.read(seq)) for seq in range(log.next_seq)]  # type: ignore[misc]


class ArrowSqlite:
    """One Arrow IPC stream, and a row for each frame in SQLite."""

    name = "arrow + sqlite"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.db = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE IF NOT EXISTS frames (seq INTEGER PRIMARY KEY, position INTEGER, bytes INTEGER)")
        self.file = (folder / "000000.arrows").open("ab")
        if self.file.tell() == 0:
            self.file.write(SCHEMA.serialize())
        self.rows: list[tuple[int, int, int]] = []

    def append(self, seq: int, head: bytes, payload: bytes) -> None:
        begin = self.file.tell()
        columns = [pa.array([head], pa.binary()), pa.array([payload], pa.binary())]
        self.file.write(pa.RecordBatch.from_arrays(columns, schema=SCHEMA).serialize())
        self.rows.append((seq, begin, self.file.tell() - begin))

    def sync(self) -> None:
        self.file.flush()
        os.fdatasync(self.file.fileno())
        self.db.execute("BEGIN")
        self.db.executemany("INSERT INTO frames VALUES (?, ?, ?)", self.rows)
        self.db.execute("COMMIT")
        self.rows.clear()

    def close(self) -> None:
        self.file.close()
        self.db.close()

    @staticmethod
    def read(folder: Path) -> list[tuple[bytes, bytes]]:
        db = sqlite3.connect(folder / "index.sqlite")
        try:
            rows = db.execute("SELECT seq, position, bytes FROM frames ORDER BY seq").fetchall()
        finally:
            db.close()
        data = (folder / "000000.arrows").read_bytes()
        frames = []
        for seq, (number, position, count) in enumerate(rows):
            if seq != number:
                raise LogError(f"frame {seq} has no row")
            batch = pa.ipc.read_record_batch(pa.py_buffer(data[position : position + count]), SCHEMA)
            batch.validate(full=True)
            frames.append((batch.column(0)[0].as_py(), batch.column(1)[0].as_py()))
        return frames


class Floor:
    """The bytes in one file, one fsync for each group; no header, no checksum, no watermark."""

    name = "file + fsync"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.file = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def append(self, seq: int, head: bytes, payload: bytes) -> None:
        os.write(self.file, head + payload)

    def sync(self) -> None:
        os.fdatasync(self.file)

    def close(self) -> None:
        os.close(self.file)


WAYS: tuple[Any, ...] = (Ours, ArrowSqlite, Floor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path.cwd() / "build", help="on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"rounds": args.rounds, "durable": durable(args.folder, args.rounds)}
    found["bit errors"] = {way.name: bit_errors(way) for way in (Ours, ArrowSqlite)}
    for name, counts in found["bit errors"].items():
        print(f"{name:15} bit errors: {counts}", flush=True)
    keep_result(HERE / "results" / "store.json", found)


def durable(folder: Path, rounds: int) -> dict[str, Any]:
    """Frames per second and share of the floor, medians over rounds; the ways take turns."""
    found: dict[str, Any] = {}
    for size, (count, frames) in SIZES.items():
        for group in GROUPS:
            seconds: dict[str, list[float]] = {way.name: [] for way in WAYS}
            over: dict[str, float] = {}
            for _ in range(rounds):
                for way in WAYS:
                    spent, extra = timed(way, folder, count, frames, group)
                    seconds[way.name].append(spent / frames)
                    over[way.name] = extra
            for way in WAYS:
                median = statistics.median(seconds[way.name])
                share = statistics.median(
                    floor / each for floor, each in zip(seconds["file + fsync"], seconds[way.name], strict=True)
                )
                row = {
                    "ms per frame": round(1000 * median, 3),
                    "frames per second": round(1 / median),
                    "share of the floor's rate": round(share, 3),
                    "bytes beside the frame": over[way.name],
                }
                found[f"{size}, sync every {group}, {way.name}"] = row
                print(f"{size:6} sync every {group:2} {way.name:15} {row}", flush=True)
    return found


def timed(way: Any, folder: Path, count: int, frames: int, group: int) -> tuple[float, float]:
    """Seconds for all frames, and bytes on disk beside each of them."""
    head, payload = os.urandom(200), os.urandom(count)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        log = way(Path(place) / "log")
        begun = time.perf_counter()
        for seq in range(frames):
            log.append(seq, head, payload)
            if (seq + 1) % group == 0:
                log.sync()
        spent = time.perf_counter() - begun
        log.close()
        size = sum(path.stat().st_size for path in (Path(place) / "log").iterdir())
    return spent, round(size / frames - len(head) - len(payload), 1)


def bit_errors(way: Any) -> dict[str, int]:
    """How often a log of five small frames is read as it was, gives an error, or is wrong in silence."""
    counts = {"same": 0, "error": 0, "wrong in silence": 0}
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        original, folder = Path(place) / "original", Path(place) / "log"
        log = way(original)
        for seq in range(5):
            log.append(seq, b"head %d" % seq, b"payload %d" % seq)
            log.sync()
        shutil.copytree(original, folder)  # as after a kill: SQLite has not moved its log into the database
        expected = way.read(original)
        log.close()
        shutil.copytree(folder, original, dirs_exist_ok=True)
        for name, damaged in flipped(original):
            (folder / name).write_bytes(damaged)
            counts[outcome(lambda: way.read(folder), expected)] += 1
            for path in folder.iterdir():
                if not (original / path.name).exists():
                    path.unlink()
            shutil.copytree(original, folder, dirs_exist_ok=True)
    return counts


def flipped(folder: Path) -> Iterator[tuple[str, bytes]]:
    """One bit of every byte of every file. SQLite's shared memory is left out: it is made anew."""
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        if path.suffix == ".sqlite-shm":
            continue
        for place in range(len(data)):
            damaged = bytearray(data)
            damaged[place] ^= 1 << place % 8
            yield path.name, bytes(damaged)


def outcome(read: Callable[[], Any], expected: Any) -> str:
    try:
        return "same" if read() == expected else "wrong in silence"
    except (LogError, OSError, sqlite3.Error, pa.ArrowException, ValueError):
        return "error"


if __name__ == "__main__":
    main()
