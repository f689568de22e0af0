"""``smartedge log``: what the cloud stored of each edge; checks it, copies it, and exports it to Parquet."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smartedge.errors import ConfigError, LogError
from smartedge.logs import say, with_spaces

if TYPE_CHECKING:
    from smartedge.cloud.store.feature_log import FeatureReader

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Show what the cloud stored of each edge. Works where the run's folder cloud/ is, also while the run goes on.

  $ smartedge log runs/faces
  edge camera-7: 845 frames, 54 000 images, 412.0 MB, durable before frame 845
    epoch 5 train: frames 0 to 702, 45 000 images
    epoch 5 val: frames 703 to 771, 4 500 images
    epoch 5 test: frames 772 to 844, 4 500 images
    missing: frames 12 to 14
  1 edge, 845 frames, 54 000 images, 412.0 MB

--verify reads every frame and checks its checksum. --export writes one row for each image: its edge, frame, epoch,
split, id, labels and decoded features. Arrow, Polars, pandas and DuckDB open that file (docs/store.md).

--to copies the store to another folder or to an object store. Run it again to copy what came since. Workers on other
machines read that copy (docs/workers.md), and so does this command:

  $ smartedge log runs/faces --to s3://bucket/faces
  s3://bucket/faces: 3 edges, 845 frames; 412.1 MB were new
  $ smartedge log s3://bucket/faces --verify

Exit code 8 where something that was confirmed is missing or damaged; every error names edge and frame.
"""


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> argparse.ArgumentParser:
    """Describe the verb's arguments."""
    parser: argparse.ArgumentParser = subparsers.add_parser("log", description=_DESCRIPTION)
    parser.add_argument(
        "place", metavar="RUN", help="run directory with the cloud's folder; or the place of a copy (--to)"
    )
    parser.add_argument("--verify", action="store_true", help="read every frame and check its checksum")
    parser.add_argument("--export", metavar="FILE.parquet", type=Path, help="write all images of all edges as Parquet")
    parser.add_argument(
        "--to",
        metavar="URL",
        help="copy the store there: s3://BUCKET/FOLDER, gs://, abfs://, file:// or a folder. Keys come from the "
        "environment (AWS_ACCESS_KEY_ID, ...)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the logs; check, copy or export them."""
    readers, damages = _opened(args.place)
    found = [_facts(reader) for reader in readers]
    if args.json:
        say(*json.dumps({"edges": list(map(asdict, found))}, indent=1).splitlines())
    else:
        say(*_as_text(found))
    if args.verify:
        damages += [error for reader in readers for error in reader.damages()]
        if not damages and not args.json:
            say("Every checksum is right.")
    if damages:
        raise LogError("\n".join(map(str, damages)))
    if args.to is not None:
        _copy(args.place, args.to, told=not args.json)
    if args.export:
        from smartedge.cloud.store.export import export_images

        images = export_images(readers, args.export)
        if not args.json:
            say(f"{args.export}: {with_spaces(images)} images")
    return 0


def _opened(place: str) -> tuple[list[FeatureReader], list[LogError]]:
    """The logs of all edges, and what is wrong with the others."""
    edges, opened = _copied(place) if _is_copy(place) else _stored(Path(place) / "cloud")
    readers, damages = [], []
    for edge in edges:
        try:
            readers.append(opened(edge))
        except LogError as error:
            damages.append(error)
    return readers, damages


def _stored(cloud: Path) -> tuple[list[str], Callable[[str], FeatureReader]]:
    from smartedge.cloud.store.feature_log import FeatureReader, edges_of, log_folder

    edges = edges_of(cloud)
    if not edges:
        raise LogError(f"{cloud / 'store'}: the cloud has stored nothing there; is this the run directory of a cloud?")
    return edges, lambda edge: FeatureReader(log_folder(cloud, edge), edge)


def _copied(url: str) -> tuple[list[str], Callable[[str], FeatureReader]]:
    from smartedge.cloud.store.copied import CopiedStore
    from smartedge.cloud.store.remote import Remote

    store = CopiedStore(Remote(url))
    store.refresh()
    return store.edges, store.reader


def _copy(place: str, url: str, *, told: bool) -> None:
    from smartedge.cloud.store.copying import copy_store
    from smartedge.cloud.store.remote import Remote

    if _is_copy(place):
        raise ConfigError("--to: copies the store of a run directory, and not a copy")
    remote = Remote(url)
    copied = copy_store(Path(place) / "cloud", remote)
    if told:
        edges = f"{copied.edges} edge{'s' * (copied.edges != 1)}, {with_spaces(copied.frames)} frames"
        state = "" if copied.complete else "; the run goes on: copy again later"
        say(f"{remote.url}: {edges}; {copied.new_bytes / 1e6:.1f} MB were new{state}")


def _is_copy(place: str) -> bool:
    from smartedge.cloud.store.copied import MANIFEST

    return "://" in place or (Path(place) / MANIFEST).is_file()


@dataclass(frozen=True)
class _Stream:
    """A stream, and what is there of it."""

    epoch: int
    split: str
    first_seq: int
    frames: int
    there: int
    images: int


@dataclass(frozen=True)
class _Log:
    """The log of an edge. Its fields are those of ``--json``."""

    edge: str
    first_seq: int
    next_seq: int
    durable: int
    frames: int
    images: int
    bytes: int
    gaps: Sequence[tuple[int, int]]
    streams: list[_Stream]


def _facts(reader: FeatureReader) -> _Log:
    streams = []
    for header in reader.streams:
        seqs = range(max(header.first_seq, reader.first_seq), min(header.end_seq, reader.next_seq))
        images = sum(reader.images(seq) for seq in seqs if reader.came(seq))
        there = sum(map(reader.came, seqs))
        streams.append(_Stream(header.epoch, header.split, header.first_seq, header.frames, there, images))
    return _Log(
        edge=reader.edge,
        first_seq=reader.first_seq,
        next_seq=reader.next_seq,
        durable=reader.durable,
        frames=sum(stream.there for stream in streams),
        images=sum(stream.images for stream in streams),
        bytes=reader.total_bytes,
        gaps=reader.gaps,
        streams=streams,
    )


def _as_text(found: list[_Log]) -> list[str]:
    lines = []
    for log in found:
        lines.append(f"edge {log.edge}: {_sums([log])}, durable before frame {log.durable}")
        if log.first_seq:
            lines.append(f"  frames before {log.first_seq} were dropped after use (store.keep)")
        for stream in log.streams:
            end = stream.first_seq + stream.frames
            line = f"  epoch {stream.epoch + 1} {stream.split}: frames {stream.first_seq} to {end - 1}"
            part = "" if stream.there == stream.frames else f", {with_spaces(stream.there)} are there"
            lines.append(f"{line}{part}, {with_spaces(stream.images)} images")
        lines += [f"  missing: frames {first} to {end - 1}" for first, end in log.gaps]
    return [*lines, f"{len(found)} edge{'s' * (len(found) != 1)}, {_sums(found)}"]


def _sums(found: list[_Log]) -> str:
    frames, images, size = (sum(getattr(log, each) for log in found) for each in ("frames", "images", "bytes"))
    return f"{with_spaces(frames)} frames, {with_spaces(images)} images, {size / 1e6:.1f} MB"
