"""The tables of the documentation that describe files are those that the models give."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
from pathlib import Path

import pytest
from pydantic import Field
from script import load_script

import smartedge.artifacts
from smartedge.artifacts.base import Artifact, CheckedArtifact
from smartedge.artifacts.results import Figures, Results

schemas = load_script("schemas")
MARK = "<!-- table of {} -->\n"


def test_a_page_that_is_stale_fails_and_is_written_anew(repo_root: Path, tmp_path: Path, capsys):
    assert schemas.main(["--check"]) == 0, "run scripts/schemas"
    for name in ("settings.md", "sweep-schema.md", "plan-schema.md"):
        shutil.copy(repo_root / "docs" / name, tmp_path)
    for name, old in (("sweep-schema.md", "| string |"), ("settings.md", "peak learning rate")):
        path = tmp_path / name
        path.write_text(path.read_text().replace(old, "changed by hand"))
    assert schemas.main(["--check"], tmp_path) == 1
    assert capsys.readouterr().err == "stale: sweep-schema.md, settings.md; run scripts/schemas\n"
    assert schemas.main([], tmp_path) == 0
    assert schemas.main(["--check"], tmp_path) == 0
    for path in tmp_path.iterdir():
        assert path.read_text() == (repo_root / "docs" / path.name).read_text()


def test_every_file_that_is_written_has_a_table(repo_root: Path):
    pages = "".join(path.read_text() for path in (repo_root / "docs").glob("*-schema.md"))
    shown = set(re.findall(r"<!-- table of (\w+) -->", pages))
    files = set()
    for found in pkgutil.iter_modules(smartedge.artifacts.__path__):
        values = vars(importlib.import_module(f"smartedge.artifacts.{found.name}")).values()
        files |= {each for each in values if isinstance(each, type) and issubclass(each, Artifact)}
    written = {each.__name__ for each in files - {Artifact, CheckedArtifact} if not each.__name__.startswith("_")}
    assert len(written) > 15
    assert written - shown == set()


def test_a_table_has_a_row_for_every_key_and_parts_stand_with_what_holds_them():
    text = schemas.with_tables(MARK.format("Results") + MARK.format("Figures"))
    for key in Results.model_fields.keys() - {"task", "data", "test", "bytes_per_image", "bytes_total"}:
        assert f"| `{key}` |" in text
    assert "| `bytes_per_image.reference.feature_float32` | float, null | its feature map as float32" in text
    assert "| `test.back` | object, null |" in text and "`test.back.accuracy`" not in text, "it has a table"
    for key in Figures.model_fields:
        assert f"| `{key}` |" in text
    assert "| `lambda` | float, null |" in schemas.with_tables(MARK.format("EpochFigures")), "the name in the file"
    assert "`points[].attributes.NAME.best` | float |" in schemas.with_tables(MARK.format("Sweep"))


def test_what_a_field_says_does_not_break_the_table(monkeypatch: pytest.MonkeyPatch):
    class Model(Figures):
        loss: float = Field(description="a | b")

    monkeypatch.setattr(smartedge.artifacts.results, "Model", Model, raising=False)
    page = "# Title\n\n" + MARK.format("Model") + "\n| old |\n\nText | stays.\n"
    written = schemas.with_tables(page)
    assert "| `loss` | float | a \\| b |" in written and "old" not in written
    assert written.startswith("# Title\n") and written.endswith("|\n\nText | stays.\n")
