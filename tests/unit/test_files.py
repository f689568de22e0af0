"""Files are replaced whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from smartedge.files import (
    disk_error,
    is_disk_error,
    private_folder,
    refuse_if_others_can_read,
    replacing,
    system_error,
    try_folder,
    write_atomically,
    write_json_atomically,
)


def test_a_file_gets_the_bytes_or_the_text_as_it_is(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, b"\x00\r\n")
    assert path.read_bytes() == b"\x00\r\n"
    write_atomically(path, "σ\r\n")
    assert path.read_bytes() == "σ\r\n".encode()
    assert os.listdir(tmp_path) == ["x"]


def _write_half(path):
    path.write_text("half of the n")
    raise ValueError("the other half is not JSON")


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, "old")
    with pytest.raises(ValueError, match="JSON"), replacing(path) as temporary:
        _write_half(temporary)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_only_a_file_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name, reason in (("pipe", "is a device, not a file"), ("link", "is a device, not a file"), (".", "directory")):
        with pytest.raises(OSError, match=reason) as caught:
            write_atomically(tmp_path / name, b"new")
        assert is_disk_error(caught.value)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and len(list(tmp_path.iterdir())) == 2


def test_where_no_folder_can_be_is_an_error_of_the_disk(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300), Path("/proc/run")):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            private_folder(place)
        assert is_disk_error(caught.value), place


def test_a_folder_in_which_nothing_can_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    assert try_folder(tmp_path / "later" / "deep") == tmp_path and list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    assert try_folder(Path()) == Path() and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        try_folder(tmp_path / "file" / "below")

    def read_only(path, *_args, **_how):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "open", read_only)
    with pytest.raises(OSError, match="Read-only"):
        try_folder(tmp_path)


def test_readers_see_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_the_content_and_then_the_name_are_on_the_disk(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (calls.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)), fsync(descriptor)),
    )
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append("rename"), replace(old, new)))
    write_atomically(tmp_path / "x", b"1")
    assert calls == [False, "rename", True]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_is_its_owner_s_alone_even_where_the_old_one_was_open_to_all(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o644)
    write_atomically(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_private_folder_is_entered_by_its_owner_alone_and_an_old_one_is_left_as_it_is(tmp_path):
    before = os.umask(0)
    try:
        private_folder(tmp_path / "a" / "b")
        (tmp_path / "old").mkdir(mode=0o755)
        private_folder(tmp_path / "old")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o755


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize(("mode", "refused"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_a_secret_that_others_can_read_is_refused(tmp_path, mode, refused):
    path = tmp_path / "secret"
    path.touch()
    path.chmod(mode)
    with (
        pytest.raises(PermissionError, match=f"may read a secret; run: chmod 600 {path}") if refused else nullcontext()
    ):
        refuse_if_others_can_read(path, PermissionError, "a secret")


def test_json_is_replaced_whole_and_never_holds_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}'


def test_no_torch_is_imported():
    code = "import sys, smartedge.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_byte_of_a_name_that_is_no_utf_8_ends_no_report(tmp_path):
    path = tmp_path / "page"
    write_atomically(path, f"run {os.fsdecode(b'gr' + bytes([0xFC]) + b'n')}")
    assert path.read_text(encoding="utf-8") == "run gr?n"


def test_a_file_in_a_folder_that_is_not_there_is_said_as_such(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_atomically(tmp_path / "nowhere" / "page", "new")
    assert is_disk_error(caught.value), "a run whose folder was moved while it went on ended with a traceback"
    assert disk_error(caught.value).startswith("it is not there, or its folder is not: put back what was moved")


CPU = "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried to ..."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory: end other programs"),
        (RuntimeError(CPU), "there is not enough memory: end other programs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"), "2.00 GiB.)"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            "raise the limit of this one (ulimit -v)",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "a smaller train.batch_size"),
        (RuntimeError("can't start new thread"), "no further process or thread may be started: end others"),
        (
            BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
            "raise the limits (ulimit -u, ulimit -v)",
        ),
        (OSError(errno.ENOSPC, "full"), "the disk is full"),
    ],
    ids=["Python", "torch", "GPU", "library", "system", "thread", "process", "disk"],
)
def test_what_a_machine_refuses_is_no_fault_of_the_program(error, words):
    found = system_error(error)
    assert found is not None and words in disk_error(found) and "\n" not in disk_error(found)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), OSError(0, "other"), ValueError("out of memory"), ImportError("nats")]
)
def test_a_fault_of_the_program_stays_one(error):
    assert system_error(error) is None
