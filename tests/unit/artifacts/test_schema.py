"""The pages of the documentation that describe files are those that the models give."""

from __future__ import annotations

import shutil
import types
from pathlib import Path

from pydantic import Field

from smartedge.artifacts import schema
from smartedge.artifacts.results import Figures, Results
from smartedge.artifacts.schema import PAGES, main, page


def test_the_pages_are_those_of_the_models(repo_root: Path, tmp_path: Path, capsys):
    assert main([str(repo_root / "docs"), "--check"]) == 0, "run scripts/schemas"
    for name in PAGES:
        shutil.copy(repo_root / "docs" / name, tmp_path)
    assert main([str(tmp_path), "--check"]) == 0
    with (tmp_path / "sweep-schema.md").open("a") as file:
        file.write("edited by hand")
    (tmp_path / "plan-schema.md").unlink()
    assert main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == "stale: sweep-schema.md, plan-schema.md; run scripts/schemas\n"
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0


def test_a_table_has_a_row_for_every_key_and_parts_stand_with_what_holds_them():
    text = page(PAGES["results-schema.md"])
    for key in Results.model_fields.keys() - {"task", "data", "test", "bytes_per_image", "bytes_total"}:
        assert f"| `{key}` |" in text
    assert "| `bytes_per_image.reference.feature_float32` | float, null | its feature map as float32" in text
    assert "| `test.back` | object, null |" in text and "`test.back.accuracy`" not in text, "it has a table"
    for key in Figures.model_fields:
        assert f"| `{key}` |" in text
    assert "| `lambda` | float, null |" in text, "the name in the file, not that of the field"
    assert "`points[].attributes.NAME.best` | float |" in page(PAGES["sweep-schema.md"])


def test_what_a_field_says_does_not_break_the_table(monkeypatch):
    class Model(Figures):
        loss: float = Field(description="a | b")

    monkeypatch.setattr(schema.results, "Model", Model, raising=False)
    module = types.ModuleType("m", "Title.\n\n[table of Model]\n")
    assert "| `loss` | float | a \\| b |" in page(module)
    assert page(module).startswith("# Title\n")
