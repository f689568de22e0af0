"""docs/results.md: it says what the files say, and a page that does not is seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import results_page


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the script on a page of this test's own; gives the exit code."""
    monkeypatch.setattr(results_page, "PAGE", tmp_path / "docs" / "results.md")
    (tmp_path / "docs").mkdir()

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["results_page.py", *arguments])
        return results_page.main()

    return call


def test_a_page_that_is_missing_or_stale_fails(call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--check") == 1
    assert call() == 0 and call("--check") == 0
    results_page.PAGE.write_text(results_page.PAGE.read_text().replace("92", "93"))
    assert call("--check") == 1
    assert "results.md is stale: run scripts/results" in capsys.readouterr().err


def test_a_changed_result_changes_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    before = results_page.render()
    rows = results_page.rows

    def changed(file: str, **match: str) -> list[results_page.Row]:
        found = rows(file, **match)
        return [{**each, "seeds": "7777"} for each in found] if file == "accuracy.csv" else found

    monkeypatch.setattr(results_page, "rows", changed)
    assert results_page.render().count("| 7777 |") == 7 and "| 7777 |" not in before


def test_the_readme_says_what_the_page_says() -> None:
    page = results_page.render()
    readme = (Path(results_page.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    slow = results_page.row("shaped-link.csv", case="resnet18-64", **{"Mbit/s up": "1.1"})
    smile = results_page.row("privacy.csv", comparison="smiling-male-resnet18")
    cut = results_page.row("accuracy.csv", comparison="lfw-resnet18-bottleneck")
    lost = float(cut["undivided %"].split(" ")[0]) - float(cut["back %"].split(" ")[0])
    without, with_one, with_all = (
        float(smile[column].split(" ")[0]) for column in ("undefended attack", "best attack", "of a training image")
    )
    for figure in (
        f"| {lost:.1f} point |",
        f"{cut['B/image']} bytes sent",
        f"| {slow['less than upload %']} % less |",
        f"| {slow['less than best rival %']} % less |",
        f"| {without:.0f} → {max(with_one, with_all):.0f} % |",
        f"| {float(smile['label floor'].split(' ')[0]):.1f} % |",
    ):
        assert figure in readme, figure
    assert f"takes {slow['less than upload %']} % less time" in page


def test_tables_have_the_order_and_names_that_are_asked_for() -> None:
    found = [{"way": way, "s": str(place)} for place, way in enumerate(["a", "b", "c"])]
    assert results_page.table(found, {"way": "way", "seconds": "s"}, {"c": "third", "a": "first"}) == (
        "| way | seconds |\n| --- | --- |\n| third | 2 |\n| first | 0 |"
    )
    assert results_page.table([{"way": "a", "s": ""}], {"way": "way", "seconds": "s"}).endswith("| a | – |")


def test_a_row_that_is_not_there_or_not_unique_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"accuracy\.csv: 0 rows"):
        results_page.row("accuracy.csv", comparison="nothing")
    with pytest.raises(LookupError, match="12 rows"):
        results_page.row("shaped-link.csv")
