"""What carries the spool to the cloud: in order, once, over any number of broken links."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headers import stream_header

from smartedge.artifacts.run import Shipped
from smartedge.cloud.store.feature_log import FeatureLog, StoreHandler
from smartedge.edge import outage
from smartedge.edge.sender import Traffic
from smartedge.edge.shipper import Shipper
from smartedge.edge.spool import Spool
from smartedge.errors import FleetError, FrameError, LinkError, LogError, RunError
from smartedge.framelog.log import FrameLog
from smartedge.types import EncodedBatch, Frame, StreamHeader
from smartedge.wire.frame import Message, header_to_json, serialise
from smartedge.wire.memory import MemoryLink

HEADER = stream_header(batch_size=3, frames=8, train_steps=8)
LATER = dataclasses.replace(HEADER, split="val", first_seq=8, frames=4)


def frame(seq: int) -> Message:
    return serialise(Frame(seq, EncodedBatch(np.arange(3), np.array([0, 1, 0]), bytes([seq]) * 96, b"")), HEADER)


class Breaking(MemoryLink):
    """A link that breaks whenever ``breaks`` says so of the number of the call."""

    def __init__(self, handler: StoreHandler, breaks: Callable[[int], bool]) -> None:
        super().__init__(handler)
        self.calls = 0
        self.breaks = breaks
        self.after_write: Callable[[], Any] = lambda: None
        self.opened: list[tuple[str, int]] = []
        self.written: list[int] = []

    def _may_break(self) -> None:
        self.calls += 1
        if self.breaks(self.calls):
            self.disconnect()
            raise LinkError("the cable was pulled")

    def open(self, header: StreamHeader) -> int:
        self._may_break()
        wanted = super().open(header)
        self.opened.append((header.split, wanted))
        return wanted

    def write(self, message: Message) -> None:
        self._may_break()
        super().write(message)
        self.written.append(message.seq)
        self.after_write()

    def close(self) -> None:
        self._may_break()
        super().close()


@pytest.fixture
def log(tmp_path):
    with contextlib.closing(FeatureLog(tmp_path / "store")) as log:
        yield log


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(outage, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(outage, "_LONGEST_WAIT_S", 0.01)


def filled(folder: Path, *, end: int = 12) -> Spool:
    spool = Spool(folder / "spool", waiting=lambda why: None)
    write(spool, 0, end)
    return spool


def write(spool: Spool, first: int, end: int) -> None:
    for seq in range(first, end):
        if seq in (0, 8):
            spool.open(HEADER if seq == 0 else LATER)
        spool.write(frame(seq))


def shipper(spool: Spool, link: Any, folder: Path, told: list[str] | None = None) -> Shipper:
    tell = (told if told is not None else []).append
    made = Shipper(spool, link, folder / "shipped.json", Traffic(), tell=tell)
    made.start()
    return made


def never(call: int) -> bool:
    return False


def test_everything_arrives_once_and_is_counted(tmp_path, log):
    link = Breaking(StoreHandler(log), never)
    made = shipper(filled(tmp_path), link, tmp_path)
    assert made._thread.daemon, "an edge that breaks off does not wait for it"
    assert made.finish(threading.Event())
    assert link.written == list(range(12)) and log.durable == 12
    assert link.opened == [("train", 0), ("val", 8)]
    traffic = made._traffic
    assert traffic.up["train"] > 8 * 96 and traffic.up["train"] > traffic.up["val"] > 4 * 96
    assert traffic.source == "payload" and traffic.link_seconds > 0
    shipped = Shipped.read(tmp_path / "shipped.json")
    assert (shipped.confirmed, shipped.ended, shipped.up) == (12, 12, traffic.up)


def test_a_later_process_goes_on_with_the_counts_of_the_earlier_one(tmp_path, log):
    Shipped(confirmed=8, ended=8, up={"train": 100}, down={"train": 7}, source="payload").write(
        tmp_path / "shipped.json"
    )
    spool, traffic = filled(tmp_path), Traffic()
    Shipper(spool, MemoryLink(StoreHandler(log)), tmp_path / "shipped.json", traffic, tell=lambda text: None)
    assert (traffic.up, traffic.down, traffic.source) == ({"train": 100}, {"train": 7}, "payload")
    assert (spool.confirmed, spool.waiting_frames) == (8, 4)
    spool.close()


@pytest.mark.parametrize("every", [3, 4, 7])
def test_a_link_that_breaks_again_and_again_loses_and_repeats_nothing(tmp_path, log, every):
    told: list[str] = []
    link = Breaking(StoreHandler(log), lambda call: call % every == 0)
    link.after_write = log.sync
    made = shipper(filled(tmp_path), link, tmp_path, told)
    assert made.finish(threading.Event())
    assert link.written == list(range(12)), "goes on at the frame that the cloud wants"
    assert [found.seq for found in log.frames()] == list(range(12))
    assert any("cloud unreachable for 0 s; " in text and "frames are on disk" in text for text in told)
    assert any(text.startswith("the cloud is there again, after") for text in told)


def test_what_was_confirmed_must_come_to_the_disk(tmp_path, log):
    """Else an edge that is killed later would wait for a cloud that has ended."""
    made = Shipper(filled(tmp_path), MemoryLink(StoreHandler(log)), tmp_path / "a file" / "shipped.json", Traffic(),
                   tell=lambda text: None)  # fmt: skip
    (tmp_path / "a file").write_text("")
    made.start()
    with pytest.raises(LogError, match=r"shipped\.json: cannot be written"):
        made.finish(threading.Event())
    made.stop()


def test_waits_grow_and_differ(tmp_path, log, monkeypatch):
    monkeypatch.setattr(outage, "_FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(outage, "_LONGEST_WAIT_S", 60.0)
    waits: list[float] = []

    class Stopping(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout or 0.0)
            return False

    link = Breaking(StoreHandler(log), lambda call: call <= 10)
    made = Shipper(filled(tmp_path), link, tmp_path / "shipped.json", Traffic(), tell=lambda text: None)
    made._stopping = Stopping()
    made.start()
    assert made.finish(threading.Event())
    usual = [min(60.0, 0.5 * 2**number) for number in range(10)]
    assert len(waits) == 10
    assert all(0.5 * mean <= wait <= 1.5 * mean for wait, mean in zip(waits, usual, strict=True))
    assert len({round(wait / mean, 6) for wait, mean in zip(waits, usual, strict=True)}) > 1, "jitter"


def test_frames_that_are_written_later_are_shipped_too(tmp_path, log):
    spool = filled(tmp_path, end=3)
    made = shipper(spool, Breaking(StoreHandler(log), never), tmp_path)
    write(spool, 3, 12)
    assert made.finish(threading.Event())
    assert log.durable == 12


def test_the_edge_does_not_wait_while_the_cloud_is_away_and_stops_when_told(tmp_path, log):
    told: list[str] = []
    spool = filled(tmp_path, end=3)
    made = shipper(spool, Breaking(StoreHandler(log), lambda call: True), tmp_path, told)
    write(spool, 3, 12)
    stop = threading.Event()
    stop.set()
    assert not made.finish(stop), "nothing is confirmed"
    made.stop()
    assert not made._thread.is_alive()
    again = shipper(Spool(tmp_path / "spool", waiting=lambda why: None), MemoryLink(StoreHandler(log)), tmp_path)
    assert again.finish(threading.Event()) and log.durable == 12


def test_a_thread_that_ends_by_itself_when_it_is_told_leaves_no_connection(tmp_path, log, monkeypatch):
    handler, broken_off, all_written = StoreHandler(log), [], threading.Event()
    monkeypatch.setattr(handler, "abort", lambda *of: broken_off.append(of))
    link = Breaking(handler, never)
    link.after_write = lambda: len(link.written) == 5 and all_written.set()
    made = shipper(filled(tmp_path, end=5), link, tmp_path)
    assert all_written.wait(30)
    stop = made.spool.stop
    monkeypatch.setattr(made.spool, "stop", lambda: (stop(), made._thread.join()))  # it is faster than who ends it
    made.stop()
    assert len(broken_off) == 1


def test_after_a_restart_it_goes_on_where_it_was_and_keeps_the_counts(tmp_path, log):
    first = shipper(filled(tmp_path, end=8), MemoryLink(StoreHandler(log)), tmp_path)
    assert first.finish(threading.Event())
    spool = Spool(tmp_path / "spool", waiting=lambda why: None)
    write(spool, 8, 12)
    link = Breaking(StoreHandler(log), never)
    second = shipper(spool, link, tmp_path)
    assert second.finish(threading.Event())
    assert link.opened == [("val", 8)] and link.written == [8, 9, 10, 11]
    assert second._traffic.up["train"] == first._traffic.up["train"]


def test_where_all_was_confirmed_before_the_cloud_hears_of_the_end_once_more(tmp_path, log):
    assert shipper(filled(tmp_path), MemoryLink(StoreHandler(log)), tmp_path).finish(threading.Event())
    link = Breaking(StoreHandler(log), never)
    again = shipper(Spool(tmp_path / "spool", waiting=lambda why: None), link, tmp_path)
    assert again.finish(threading.Event())
    assert (link.opened, link.written) == ([("val", 12)], [])


def test_a_cloud_whose_disk_is_full_is_waited_for(tmp_path, log):
    class Full(StoreHandler):
        left = 2

        def ingest(self, edge: str, header: StreamHeader, frame: Any) -> None:
            if frame.seq == 3 and self.left:
                self.left -= 1
                raise LogError("the disk is full: free space on it")
            super().ingest(edge, header, frame)

    told: list[str] = []
    made = shipper(filled(tmp_path), MemoryLink(Full(log)), tmp_path, told)
    assert made.finish(threading.Event()) and log.durable == 12
    said = [text.partition(" for ")[0] if "disk is full" in text else text.partition(",")[0] for text in told]
    assert said == ["cloud unreachable", "cloud unreachable", "the cloud is there again"], "it took streams meanwhile"
    assert made.outage.count == 1


@pytest.mark.parametrize("asked", [1, 5, 10])
def test_a_cloud_whose_disk_is_full_is_waited_for_also_where_it_says_so_between_two_frames(tmp_path, log, asked):
    """An edge that asked for confirmations then took the cloud's error for one of its own disk, and ended."""

    class Full(MemoryLink):
        times = 0

        def confirmed(self) -> int:
            self.times += 1
            if self.times == asked:
                self.disconnect()
                raise LogError("the disk is full: free space on it")
            return super().confirmed()

    told: list[str] = []
    made = shipper(filled(tmp_path), Full(StoreHandler(log)), tmp_path, told)
    assert made.finish(threading.Event()) and log.durable == 12
    assert sum("the cloud cannot store what is sent: the disk is full" in text for text in told) == 1


@pytest.mark.parametrize(
    "refusal",
    [RunError("edge and cloud were started with different settings"), FleetError("the token is missing or wrong")],
)
def test_a_refusal_ends_it_with_the_clouds_reason(tmp_path, log, refusal):
    class Refusing(StoreHandler):
        def accept(self, edge: str, header: StreamHeader) -> int:
            raise refusal

    made = shipper(filled(tmp_path), MemoryLink(Refusing(log)), tmp_path)
    with pytest.raises(type(refusal), match=str(refusal)):
        made.finish(threading.Event())
    with pytest.raises(type(refusal), match=str(refusal)):
        made.raise_failure()
    made.stop()


def test_an_edge_that_waits_for_room_does_not_wait_for_a_cloud_that_refuses(tmp_path, log):
    class Refusing(StoreHandler):
        def accept(self, edge: str, header: StreamHeader) -> int:
            raise FleetError("the token is missing or wrong")

    full, ends = threading.Event(), []
    spool = Spool(tmp_path / "spool", max_bytes=2**16, waiting=lambda why: full.set())
    spool.open(dataclasses.replace(HEADER, frames=100))

    def write_all() -> None:
        try:
            for seq in range(100):
                spool.write(frame(seq)._replace(payload=bytes(2000)))
        except LogError as error:
            ends.append(str(error))

    writing = threading.Thread(target=write_all)
    writing.start()
    assert full.wait(timeout=30)
    made = shipper(spool, MemoryLink(Refusing(log)), tmp_path)
    writing.join(timeout=30)
    assert len(ends) == 1 and "the run was stopped while the spool was full" in ends[0]
    with pytest.raises(FleetError, match="token"):
        made.finish(threading.Event())
    made.stop()


class NoLastWord(Breaking):
    """The link breaks when the last stream ends: the cloud has confirmed every frame, and its last word is lost."""

    lost = 0

    def close(self) -> None:
        last = self._header == LATER and not self.lost
        super().close()
        if last:
            self.lost = 1
            raise LinkError("the cable was pulled")


@pytest.mark.parametrize("gone", [False, True])
def test_a_cloud_that_confirmed_everything_is_told_or_has_gone(tmp_path, log, monkeypatch, gone):
    monkeypatch.setattr(outage, "_LOOK_S", 0.001)
    monkeypatch.setattr(outage, "_TELL_S", 0.02 if gone else 60)
    told: list[str] = []
    link = NoLastWord(StoreHandler(log), lambda call: gone and bool(link.lost))
    made = shipper(filled(tmp_path), link, tmp_path, told)
    assert made.finish(threading.Event())
    assert log.durable == 12 and link.written == list(range(12))
    assert ("the cloud has confirmed everything, and is not there any more" in told) == gone


@pytest.mark.parametrize("cloud", ["gone", "there"])
def test_an_edge_killed_after_its_last_stream_ends_without_a_cloud_that_has_gone(tmp_path, log, monkeypatch, cloud):
    """The cloud has heard of the end, and may end. What the edge writes after that does not come to its disk."""
    disk = tmp_path / "disk when killed"

    class Copying(MemoryLink):
        def close(self) -> None:
            super().close()
            if self._confirmed == LATER.end_seq:
                shutil.copytree(tmp_path, disk)

    assert shipper(filled(tmp_path), Copying(StoreHandler(log)), tmp_path).finish(threading.Event())
    monkeypatch.setattr(outage, "_LOOK_S", 0.001)
    monkeypatch.setattr(outage, "_TELL_S", 0.02)
    told, stop = [], threading.Event()

    def away(call: int) -> bool:
        if call > 500:
            stop.set()  # it would try for ever
        return cloud == "gone"

    link = Breaking(StoreHandler(log), away)
    again = shipper(Spool(disk / "spool", waiting=lambda why: None), link, disk, told)
    assert again.finish(stop)
    if cloud == "gone":
        assert told == ["the cloud has confirmed everything, and is not there any more"]
    else:
        assert (link.opened, link.written, told) == ([("val", 12)], [], [])


def test_a_cloud_that_has_ended_long_ago_is_not_waited_for(tmp_path, log, monkeypatch):
    """The edge had told it, and was killed while it wrote its results: it waited for half a minute each time."""
    assert shipper(filled(tmp_path), MemoryLink(StoreHandler(log)), tmp_path).finish(threading.Event())
    told, waits = [], []
    link = Breaking(StoreHandler(log), lambda call: True)
    made = Shipper(
        Spool(tmp_path / "spool", waiting=lambda why: None),
        link,
        tmp_path / "shipped.json",
        Traffic(),
        tell=told.append,
    )
    monkeypatch.setattr(made._stopping, "wait", waits.append)
    made.start()
    assert made.finish(threading.Event())
    assert (link.calls, waits, told) == (1, [], ["the cloud has confirmed everything, and is not there any more"])


class InOrder(StoreHandler):
    """Refuses a stream where frames before it are missing, as the cloud does."""

    def accept(self, edge: str, header: StreamHeader) -> int:
        if header.first_seq > self.log.next_seq:
            raise FrameError(f"frame {self.log.next_seq} is missing")
        return super().accept(edge, header)


@pytest.mark.parametrize("copied", [0, 3, 8, 10])
@pytest.mark.parametrize("when", ["while it sends", "after its end"])
def test_a_cloud_that_is_restored_from_an_older_copy_gets_again_what_it_lacks(tmp_path, log, copied, when):
    """Frames before ``copied`` are in the copy. The edge has sent 10 or 12, and the cloud had confirmed them."""
    spool = filled(tmp_path, end=10 if when == "while it sends" else 12)
    link = Breaking(InOrder(log), never)
    nine = threading.Event()
    link.after_write = lambda: nine.set() if link.written[-1] == 9 else None
    first = shipper(spool, link, tmp_path)
    if when == "while it sends":
        assert nine.wait(timeout=60)
        first.stop()
    else:
        assert first.finish(threading.Event())
    with contextlib.closing(FeatureLog(tmp_path / "copy")) as older:
        for seq in range(copied):
            if seq in (0, 8):
                older.begin(HEADER if seq == 0 else LATER)
            older.append(seq, *frame(seq))
        older.sync()
        told: list[str] = []
        spool = Spool(tmp_path / "spool", waiting=lambda why: None)
        spool.confirm(spool.next_seq)  # as far as the edge knows
        again = shipper(spool, Breaking(InOrder(older), never), tmp_path, told)
        write(spool, spool.next_seq, 12)
        assert again.finish(threading.Event())
        assert [each.seq for each in older.frames()] == list(range(12)) and older.durable == 12
    assert any(f"the cloud wants frame {copied}, but had confirmed all before" in text for text in told) == (
        copied < 10 or when == "after its end"
    )
    assert Shipped.read(tmp_path / "shipped.json").confirmed == 12


def test_the_stream_of_which_an_older_cloud_lacks_frames_is_found_in_few_tries(tmp_path, log):
    """The cloud lets whoever is refused often wait: where each stream was tried, hundreds of them took hours."""
    refused = []

    class Counting(InOrder):
        def accept(self, edge: str, header: StreamHeader) -> int:
            try:
                return super().accept(edge, header)
            except FrameError:
                refused.append(header)
                raise

    spool = Spool(tmp_path / "spool", waiting=lambda why: None)
    for seq in range(100):
        header = dataclasses.replace(HEADER, first_seq=seq, frames=1)
        spool.open(header)
        spool.write(frame(seq))
        if seq < 13:
            log.begin(header)
            log.append(seq, *frame(seq))
    log.sync()
    spool.confirm(100)
    shipped = Shipped(confirmed=100, ended=100, up={}, down={}, source="")
    shipped.write(tmp_path / "shipped.json")  # the edge has ended: it tries once to tell the cloud
    link = Breaking(Counting(log), lambda call: call == 3)
    assert shipper(spool, link, tmp_path).finish(threading.Event())
    assert log.durable == 100 and len(refused) <= 10


def test_a_cloud_that_wants_what_the_edge_does_not_keep_is_an_error(tmp_path, log):
    with contextlib.closing(FrameLog(tmp_path / "spool", "edge", segment_bytes=500)) as small:
        small.add_stream(header_to_json(HEADER), 0)
        for seq in range(8):
            small.append(seq, *frame(seq))
        small.sync()
    spool = Spool(tmp_path / "spool", waiting=lambda why: None)
    spool.confirm(6)
    assert 0 < spool.first_seq <= 6
    made = shipper(spool, MemoryLink(InOrder(log)), tmp_path)
    with pytest.raises(RunError, match=r"wants frame 0, but had confirmed all before 6.*no longer; restore the cloud"):
        made.finish(threading.Event())
    made.stop()


def test_a_stream_that_is_refused_although_nothing_is_missing_ends_the_run(tmp_path, log):
    class Refusing(InOrder):
        def accept(self, edge: str, header: StreamHeader) -> int:
            if header == LATER:
                raise FrameError("the next stream must be another one")
            return super().accept(edge, header)

    link = Breaking(Refusing(log), never)
    made = shipper(filled(tmp_path), link, tmp_path)
    with pytest.raises(FrameError, match="must be another one"):
        made.finish(threading.Event())
    made.stop()
    assert link.written == list(range(8)) and link.opened == [("train", 0), ("train", 8)]


def test_an_edge_that_is_restored_from_an_older_copy_makes_again_what_the_cloud_has_and_sends_the_rest(tmp_path, log):
    assert shipper(filled(tmp_path, end=8), MemoryLink(InOrder(log)), tmp_path).finish(threading.Event())
    older, told = tmp_path / "older", []
    spool = filled(older, end=3)
    link = Breaking(InOrder(log), never)
    made = shipper(spool, link, older, told)
    write(spool, 3, 12)
    assert made.finish(threading.Event())
    assert link.written == [8, 9, 10, 11] and [each.seq for each in log.frames()] == list(range(12))
    assert sum("and this edge those before 3: its folder is an older copy" in text for text in told) == 1


@pytest.mark.parametrize(("end", "shipped"), [(7, 0), (8, 8), (10, 8), (12, 12)])
def test_without_a_thread_it_ships_the_streams_that_have_ended(tmp_path, log, end, shipped):
    spool = filled(tmp_path, end=end)
    made = Shipper(spool, MemoryLink(StoreHandler(log)), tmp_path / "shipped.json", Traffic(), tell=lambda text: None)
    made.ship_all()
    assert log.durable == shipped
    again = Spool(tmp_path / "spool", waiting=lambda why: None)  # the folder is free
    assert again.next_seq == end
    again.close()


def test_a_link_that_cannot_ask_hears_what_was_confirmed_to_an_earlier_process(tmp_path, log):
    assert shipper(filled(tmp_path), MemoryLink(StoreHandler(log)), tmp_path).finish(threading.Event())
    link = MemoryLink(StoreHandler(log))
    heard: list[int] = []
    link.assume_confirmed = heard.append  # type: ignore[method-assign]
    spool = Spool(tmp_path / "spool", waiting=lambda why: None)
    Shipper(spool, link, tmp_path / "shipped.json", Traffic(), tell=lambda text: None)
    spool.close()
    assert heard == [12]
