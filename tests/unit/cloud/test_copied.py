"""A copy of a store: the same frames, whatever grew; damage is an error; and workers end with the same weights."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from headers import stream_header
from many_edges import edges_of, fleet_config, run_fleet
from safetensors.torch import load_file

from smartedge.cli.app import main as smartedge
from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.follower import StoreFollower
from smartedge.cloud.store import remote as remote_module
from smartedge.cloud.store.copied import MANIFEST, CopiedReader, CopiedStore
from smartedge.cloud.store.copying import copy_store
from smartedge.cloud.store.feature_log import FeatureLog, FeatureReader, log_folder
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.store.remote import Remote
from smartedge.cloud.worker import main as worker
from smartedge.errors import ConfigError, LogError
from smartedge.files import write_atomically
from smartedge.framelog.reader import LogReader
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import serialise

EDGE = "door"
HEADER = stream_header(batch_size=3, frames=20, train_steps=20)
COUNT = int(np.prod(HEADER.feature_shape))


def append(log: FeatureLog, *seqs: int) -> None:
    """Append these frames; those before each of them that are not there never came."""
    log.begin(HEADER)
    for seq in seqs:
        log.mark_gap(seq)
        values = np.random.default_rng(seq).standard_normal(3 * COUNT, np.float32)
        batch = EncodedBatch(np.arange(3) + 3 * seq, np.array([0, 1, 0]), values.tobytes(), b"")
        log.append(seq, *serialise(Frame(seq, batch), HEADER))
    log.sync()


@contextlib.contextmanager
def writing(cloud: Path) -> Iterator[FeatureLog]:
    with contextlib.closing(FeatureLog(log_folder(cloud, EDGE), EDGE, segment_bytes=300)) as log:
        yield log


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """A store of one edge, with several segments and a gap."""
    with writing(tmp_path / "cloud") as log:
        append(log, 0, 1, 4, 5, 6)
    return tmp_path / "cloud"


def content(log: LogReader) -> list[object]:
    found: list[object] = [*log.stream_headers]
    for seq in range(log.first_seq, log.next_seq):
        found.append((seq, log.stream_of(seq), log.head(seq), log.read(seq)) if log.came(seq) else (seq, "gap"))
    return found


def copied(place: str) -> CopiedReader:
    store = CopiedStore(Remote(place))
    store.refresh()
    assert store.edges == [EDGE]
    return store.reader(EDGE)


@pytest.fixture(params=["folder", "file", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "fsspec":
        pytest.importorskip("fsspec")
        return f"memory://{tmp_path.name}/copy"
    return str(tmp_path / "copy") if request.param == "folder" else (tmp_path / "copy").as_uri()


def test_a_copy_holds_what_the_store_holds_and_can_be_copied_on_as_the_store_grows(cloud: Path, place: str) -> None:
    first = copy_store(cloud, Remote(place))
    assert (first.edges, first.frames, first.complete) == (1, 7, False)
    store = CopiedStore(Remote(place))
    store.refresh()
    reader, original = store.reader(EDGE), FeatureReader(log_folder(cloud, EDGE), EDGE)
    assert content(reader) == content(original) and len(original.gaps) == 1
    assert (reader.durable, reader.gaps, reader.total_bytes) == (7, original.gaps, original.total_bytes)
    assert reader.images(4) == 3 and list(reader.labels(4)) == [0, 1, 0] and list(reader.damages()) == []
    assert copy_store(cloud, Remote(place)).new_bytes == 0
    with writing(cloud) as log:
        append(log, 7, 10)
    mark_complete(cloud, True)
    again = copy_store(cloud, Remote(place))
    assert (again.frames, again.complete) == (11, True) and 0 < again.new_bytes < first.new_bytes
    assert reader.next_seq == 7 and not store.complete
    store.refresh()
    reader.refresh()
    original.refresh()
    assert store.complete and content(reader) == content(original) == content(copied(place))


def test_a_disk_that_takes_no_copy_is_told_with_what_to_do(
    cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_only = OSError(errno.EROFS, "Read-only file system", str(tmp_path / "copy"))
    monkeypatch.setattr(remote_module, "private_folder", Mock(side_effect=read_only))
    with pytest.raises(LogError, match="cannot be written: the disk can only be read: see the system's log"):
        copy_store(cloud, Remote(str(tmp_path / "copy")))


def test_files_of_a_local_copy_are_private(cloud: Path, tmp_path: Path) -> None:
    copy_store(cloud, Remote(str(tmp_path / "copy")))
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert (tmp_path / "copy").stat().st_mode & 0o077 == 0 and all(path.stat().st_mode & 0o077 == 0 for path in files)


def test_dropped_frames_are_dropped_in_a_copy_too(cloud: Path, tmp_path: Path) -> None:
    copy_store(cloud, Remote(str(tmp_path / "copy")))
    reader = copied(str(tmp_path / "copy"))
    with writing(cloud) as log:
        append(log, 7, 8, 9)
        log.forget_before(7)
        first = log.first_seq
        assert first > 0
    copy_store(cloud, Remote(str(tmp_path / "copy")))
    again = copied(str(tmp_path / "copy"))
    assert again.first_seq == first and content(again) == content(FeatureReader(log_folder(cloud, EDGE), EDGE))
    assert reader.first_seq == 0 and reader.next_seq == 7, "what an older manifest names is still there"


def test_every_damage_of_a_copy_is_an_error_and_never_other_frames(cloud: Path, tmp_path: Path) -> None:
    copy_store(cloud, Remote(str(tmp_path / "copy")))
    expected = content(copied(str(tmp_path / "copy")))
    errors = 0
    for path in [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]:
        data = path.read_bytes()
        step = 1 + len(data) // 60
        damaged = [data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :] for place in
                   range(0, len(data), step)]  # fmt: skip
        for wrong in [*damaged, *(data[:length] for length in range(0, len(data), step))]:
            path.write_bytes(wrong)
            try:
                assert content(copied(str(tmp_path / "copy"))) == expected
            except LogError as error:
                errors += str(tmp_path / "copy") in str(error)
        path.unlink()
        with pytest.raises(LogError, match=r"is gone|is not there|cannot be read"):
            content(copied(str(tmp_path / "copy")))
        path.write_bytes(data)
    assert errors > 500


def test_a_manifest_that_was_changed_is_refused(cloud: Path, tmp_path: Path) -> None:
    copy_store(cloud, Remote(str(tmp_path / "copy")))
    manifest = tmp_path / "copy" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"complete":false', '"complete":true'))
    with pytest.raises(LogError, match="its checksum is wrong"):
        copied(str(tmp_path / "copy"))


def test_damage_of_the_store_is_not_copied(cloud: Path, tmp_path: Path) -> None:
    file = log_folder(cloud, EDGE) / "000000.frames"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(LogError, match=r"edge 'door', frame \d: damaged"):
        copy_store(cloud, Remote(str(tmp_path / "copy")))
    assert not (tmp_path / "copy" / MANIFEST).exists()


def test_a_place_that_holds_the_copy_of_another_store_is_refused(cloud: Path, tmp_path: Path) -> None:
    remote = Remote(str(tmp_path / "copy"))
    with writing(tmp_path / "other") as log:
        append(log, 0)
    copy_store(tmp_path / "other", remote)
    with pytest.raises(LogError, match="another log of edge 'door'"):
        copy_store(cloud, remote)
    with contextlib.closing(FeatureLog(log_folder(tmp_path / "third", "roof"), "roof")) as log:
        append(log, 0)
    with pytest.raises(LogError, match="a copy of the edges door"):
        copy_store(tmp_path / "third", remote)


def test_an_older_manifest_that_is_written_last_takes_nothing_away(cloud: Path, tmp_path: Path) -> None:
    remote = Remote(str(tmp_path / "copy"))
    copy_store(cloud, remote)
    older = (tmp_path / "copy" / MANIFEST).read_bytes()
    with writing(cloud) as log:
        append(log, 7)
    copy_store(cloud, remote)
    store = CopiedStore(remote)
    store.refresh()
    reader = store.reader(EDGE)
    write_atomically(tmp_path / "copy" / MANIFEST, older)
    store.refresh()
    reader.refresh()
    assert reader.next_seq == 8 and reader.read(7)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("s3://key:secret@bucket/faces", "keys cannot stand in the address"),
        ("abfs://frames:secret@account.dfs.core.windows.net/faces", "keys cannot stand in the address"),
        ("nowhere://bucket/faces", "no such place is known here"),
        ("ftp://nobody.invalid:1/faces", r"ftp://nobody\.invalid:1/faces: cannot be reached"),
    ],
)
def test_addresses_that_cannot_be_used(url: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error) as raised:
        Remote(url)
    assert "secret" not in str(raised.value)


def test_a_container_before_the_account_is_no_key() -> None:
    assert Remote("abfs://frames@account.dfs.core.windows.net/faces").url.startswith("abfs://frames@account.")


def test_the_library_of_s3_tries_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is tried again for five minutes. The end of a process waits for a request: it took 100 s."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    tries, done = 0, threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            nonlocal tries
            while not done.is_set():
                connection, _ = server.accept()
                with connection:
                    tries += len(connection.recv(1))

        listening = threading.Thread(target=hang_up)
        listening.start()
        with pytest.raises(LogError, match="cannot be read"):
            Remote(f"s3://frames/faces?endpoint_override=127.0.0.1:{port}&scheme=http&region=x").read("manifest.json")
        done.set()
        socket.create_connection(("127.0.0.1", port)).close()
        listening.join()
    assert tries == 3


class Away:
    """File systems that fail, as often as they are told to, before the one behind them is asked."""

    def __init__(self, remote: Remote, error: Callable[[], None]) -> None:
        self.behind, self.times, self.asked, self.error = remote._files, 0, 0, error
        remote._files = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        self.asked += 1
        if self.asked <= self.times:
            self.error()
        return getattr(self.behind, name)


def refused() -> None:
    raise OSError("refused")


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A place that is not on this machine's disk; a try takes no long pause."""
    pytest.importorskip("fsspec")
    monkeypatch.setattr(remote_module, "_PAUSE_S", 0.01)
    return Remote(f"memory://{tmp_path.name}/copy")


def test_a_place_that_goes_away_after_it_has_answered_is_asked_again(
    far: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    away = Away(far, refused)
    for call in (
        lambda: far.write("a", b"0123"),
        lambda: far.read("a") == b"0123",
        lambda: far.read_at("a", 1, 2) == b"12",
    ):
        assert call() in (None, True)
        away.asked, away.times = 0, 3
    assert away.asked == 0 and far.read("a") == b"0123" and away.asked == 4
    assert caplog.text.count("/a: cannot be read: refused; trying again for 300 s") == 3, "once for each outage"


def test_a_place_that_has_never_answered_is_not_asked_again(far: Remote) -> None:
    away = Away(far, refused)
    away.times = 3
    with pytest.raises(LogError, match=r"copy/a: cannot be read: refused$"):
        far.read("a")
    assert away.asked == 1


def test_what_stays_away_or_never_answers_is_an_error_after_a_while(
    far: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    silent = Away(far, lambda: never.wait() and None)
    silent.times = 1
    monkeypatch.setattr(remote_module, "_PATIENCE_S", 0.05)
    with pytest.raises(LogError, match=r"copy/a: cannot be read: it has not answered for 0 s"):
        far.read("a")
    never.set()
    far.write("a", b"0123")
    silent.asked, silent.times, silent.error = 0, 1000, refused
    with pytest.raises(LogError, match=r"copy/a: cannot be read: .*; this was tried for 0 s\. When the place answers"):
        far.read("a")
    assert 1 < silent.asked < 1000


def test_a_place_without_a_copy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"manifest\.json: is not there; is it the address of a copy"):
        StoreFollower(tmp_path, Handover(), copy=CopiedStore(Remote(str(tmp_path)))).refresh()


def test_a_worker_ends_with_the_same_weights_from_a_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = fleet_config(fleet={"expect": 2}, schedule="freeze-and-log", epochs=1, cloud={"shards": 2})
    stored, far = tmp_path / "stored", tmp_path / "far"
    run_fleet(config, stored / "cloud", edges_of(config, 2))
    place = str(tmp_path / "copy")
    assert smartedge(["log", str(stored), "--to", place]) == 0
    assert f"{place}: 2 edges, 10 frames; 0.1 MB were new\n" in capsys.readouterr().out
    assert smartedge(["log", place, "--verify"]) == 0
    assert capsys.readouterr().out.endswith("Every checksum is right.\n")
    assert smartedge(["log", place, "--to", str(tmp_path / "third")]) == ConfigError.exit_code
    far.mkdir()
    write_atomically(far / "config.yaml", config.to_yaml())
    assert worker([str(far), "--from", place]) == 0
    assert not (far / "cloud" / "store").exists()
    mine, theirs = (load_file(run / "cloud" / "back.safetensors") for run in (far, stored))
    assert mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)
