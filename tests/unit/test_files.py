"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from smartedge.files import PRIVATE, replacing, write_atomically, write_json_atomically


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
def test_the_mode_is_kept_to_even_where_the_old_file_was_open_to_all(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o644)
    write_atomically(path, "new", mode=PRIVATE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_mode_a_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    write_atomically(tmp_path / "x", "")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_replaced_whole_and_never_holds_nan(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomically(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}'


def test_no_torch_is_imported():
    code = "import sys, smartedge.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
