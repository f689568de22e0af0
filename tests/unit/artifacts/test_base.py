"""Files are written and read through their models, and refused in words that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import ClassVar, Literal

import pytest
from pydantic import ValidationError

from smartedge.artifacts.base import Artifact, CheckedArtifact, Part
from smartedge.artifacts.fleet_run import CloudStart
from smartedge.artifacts.run import Confirmed, Shipped
from smartedge.artifacts.summary import TrafficTotals
from smartedge.errors import ConfigError, SmartEdgeError


class Inner(Part):
    numbers: tuple[int, ...]


class Note(Artifact):
    error: ClassVar[type[SmartEdgeError]] = ConfigError
    missing: ClassVar[str] = "write one"
    remedy: ClassVar[str] = "write it again"
    page: ClassVar[str] = "docs/note.md"

    schema_version: Literal[3] = 3
    text: str
    inner: Inner


NOTE = Note(text="σ", inner=Inner(numbers=(1, 2)))


def changed(path, **fields):
    path.write_text(json.dumps({**NOTE.as_json(), **fields}))
    return path


def test_what_is_written_is_read(tmp_path):
    NOTE.write(tmp_path / "note.json")
    assert Note.read(tmp_path / "note.json") == NOTE
    assert json.loads((tmp_path / "note.json").read_text())["schema_version"] == 3


def test_a_note_cannot_be_changed_and_takes_no_other_fields():
    with pytest.raises(ValidationError, match="frozen"):
        NOTE.text = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        Note(text="", inner=Inner(numbers=()), colour="red")


def test_a_file_that_is_not_there_is_told_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"note.json: is not there; write one"):
        Note.read(tmp_path / "note.json")
    assert Note.read_if_there(tmp_path / "note.json") is None


def test_a_file_of_any_size_and_a_pipe_are_not_read(tmp_path):
    path = tmp_path / "note.json"
    with path.open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(ConfigError, match=r"note.json: cannot be read \(larger than 64 MiB\); write one"):
        Note.read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(not a file but a folder, pipe or device\)"):
        Note.read(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"schema_version": 3'])
def test_a_damaged_file_is_told_as_such(text, tmp_path):
    path = tmp_path / "note.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"note.json: is damaged: .*; write it again"):
        Note.read(path)


def test_an_unknown_version_is_told_with_both_numbers(tmp_path):
    path = tmp_path / "note.json"
    newer = r"note.json: is of version 4, and this program knows 3; read it with the smartedge version that wrote it"
    with pytest.raises(ConfigError, match=newer):
        Note.read(changed(path, schema_version=4))
    for version in (2, None, "3", True):
        with pytest.raises(ConfigError, match=rf"is of version {version}, and this program knows 3; write it again"):
            Note.read(changed(path, schema_version=version))


def test_every_key_that_is_missing_is_named(tmp_path):
    path = tmp_path / "note.json"
    path.write_text(json.dumps({"schema_version": 3, "inner": {}}))
    with pytest.raises(ConfigError, match=r"note.json: lacks text, inner.numbers; docs/note.md says what belongs"):
        Note.read(path)


def test_a_value_of_the_wrong_kind_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"note.json: inner.numbers.0: .*integer"):
        Note.read(changed(tmp_path / "note.json", inner={"numbers": ["x"]}))
    with pytest.raises(ConfigError, match=r"note.json: colour: Extra inputs"):
        Note.read(changed(tmp_path / "note.json", colour="red"))


def test_a_number_that_json_does_not_know_is_not_written(tmp_path):
    class Share(Artifact):
        schema_version: Literal[1] = 1
        value: float

    with pytest.raises(ValueError, match="JSON"):
        Share(value=float("nan")).write(tmp_path / "share.json")
    assert not list(tmp_path.iterdir())


SENT = TrafficTotals(
    up={"train": 9},
    down={},
    images={"train": 4},
    source="payload",
    release_seconds=0.5,
    encode_seconds=0.25,
    link_seconds=1.0,
    codec_error=None,
)


@pytest.mark.parametrize(
    "kept",
    [
        CloudStart(started=1795881578.25),
        Shipped(confirmed=12, ended=7, up={"train": 12345}, down={"train": 77}, source="kernel tcp_info"),
        Confirmed(checkpoint=3, spooled=True, traffic=SENT),
    ],
    ids=lambda kept: type(kept).__name__,
)
def test_every_flipped_bit_and_every_truncation_of_a_checked_file_is_an_error(kept: CheckedArtifact, tmp_path):
    path = tmp_path / "kept.json"
    kept.write(path)
    data, file = path.read_bytes(), type(kept)
    assert file.parse(data, path).model_dump(exclude={"check"}) == kept.model_dump(exclude={"check"})
    for place in range(len(data)):
        flipped = (data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :] for bit in range(8))
        for damaged in (data[:place], *flipped):
            with pytest.raises(SmartEdgeError, match=str(path)):
                file.parse(damaged, path)


def test_no_torch_is_imported():
    code = (
        "import importlib, pkgutil, sys, smartedge.artifacts as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    importlib.import_module(f'smartedge.artifacts.{module.name}')\n"
        "sys.exit(' '.join({'torch', 'matplotlib', 'pyarrow'} & sys.modules.keys()) or None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_of_another_kind_is_not_called_a_newer_version(tmp_path):
    path = tmp_path / "note.json"
    path.write_text('{"schema_version": 4, "method": "local", "epochs": 2}')
    with pytest.raises(ConfigError, match=r"note\.json: is a file of another kind; .* write it again"):
        Note.read(path)
