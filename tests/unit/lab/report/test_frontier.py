"""A sweep's page and picture."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
from PIL import Image
from plain_text import plain

from smartedge.artifacts.sweep import Sweep
from smartedge.cli.sweep import print_table
from smartedge.errors import RunError
from smartedge.lab.report import attack_plots, write_sweep
from smartedge.lab.report.attack_plots import Point
from smartedge.lab.report.labels import label_points

LAMBDA = {"adversary.weight": ("0", "1", "3", "10")}
GRID = {"dp.epsilon": ("1", "2", "4"), "model.codebook": ("4", "8")}


def labels_of(page: Path) -> list[str]:
    return [plain(label) for label in re.findall(r'<svg role="img" aria-label="([^"]*)"', page.read_text("utf-8"))]


def test_the_frontier_shows_every_setting_and_reference(write_sweep_json):
    page, png = write_sweep(write_sweep_json(LAMBDA))
    frontier, over = labels_of(page)
    assert "λ 0: smile 93.0 %, best attack on masculine 90.0 %" in frontier
    assert "λ 10: smile 91.5 %, best attack on masculine 72.0 %" in frontier
    assert "chance 50.0 %, label floor 64.5 %, undefended, best 92.8 %, undefended smile 93.2 %" in frontier
    assert "λ 3: smile 92.0 %, best attack 78.0 %" in over
    assert "DP bound" not in frontier
    with Image.open(png) as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    assert png.name == "frontier.png"
    assert (pixels == (255, 255, 255)).all(axis=1).mean() > 0.5  # on white
    red = np.abs(pixels - (0xC2, 0x28, 0x1D)).max(axis=1) <= 2
    assert red.sum() > 4 * 100  # the four settings' squares: red is what attackers read, on every page


def test_settings_that_touch_share_a_label(write_sweep_json):
    def together(sweep):
        one, three = sweep["rows"][1:3]
        three["desired"] = one["desired"]
        three["attributes"]["masculine"]["best"]["mean"] = one["attributes"]["masculine"]["best"]["mean"] + 0.002

    page, _ = write_sweep(write_sweep_json(LAMBDA, change=together))
    written = [plain(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", page.read_text("utf-8"))]
    assert [text for text in written if re.match(r"λ \d", text)] == ["λ 0", "λ 1 · λ 3", "λ 10"]


def test_the_headline_names_what_hides_most_for_a_point(write_sweep_json):
    page, _ = write_sweep(write_sweep_json(LAMBDA))
    # the undefended run keeps 93.2 %: λ 1 keeps 92.5 %, λ 3 only 92.0 %
    text = plain(page.read_text("utf-8"))
    assert "λ 1 hides masculine best at a price of at most one point of smile" in text
    assert "reads it with 84.0 % (label floor 64.5 %), and smile reaches 92.5 % (−0.7 points" in text


def test_where_all_cost_more_the_headline_does_not_call_it_cheap(write_sweep_json):
    def dear(sweep):
        sweep["undefended"][0]["desired"] = 0.99

    page, _ = write_sweep(write_sweep_json(LAMBDA, change=dear))
    text = plain(page.read_text("utf-8"))
    assert "λ 10 hides masculine best: the best attacker" in text


def test_a_grid_has_a_figure_per_axis_and_the_bounds(write_sweep_json, capsys):
    def a_little_more(sweep):
        for row in sweep["rows"]:
            row["bound"]["mean"] += 0.0002  # 98.02 % is told as what it does not exceed

    folder = write_sweep_json(GRID, bounds=True, change=a_little_more)
    print_table(Sweep.read(folder / "sweep.json"))
    assert "98.1 %" in capsys.readouterr().out
    page, _ = write_sweep(folder)
    frontier, over_epsilon, over_codewords = labels_of(page)
    assert (
        "ε 1, codewords 4: smile 93.0 %, best attack on masculine 90.0 %, DP bound 98.1 %, noise bound 95.0 %"
        in frontier
    )
    assert "over ε (dp.epsilon)" in over_epsilon and "over codewords (model.codebook)" in over_codewords
    assert over_epsilon.count("DP bound") == 6
    text = plain(page.read_text("utf-8"))
    assert (
        '<th scope="col">DP bound</th>' in text and "93.0 % ± 0.4" in text and "<td>98.1 %</td><td>95.0 %</td>" in text
    )


def test_without_noise_there_is_no_bound(write_sweep_json, capsys):
    def noiseless(sweep, rows=slice(None)):
        for row in sweep["rows"][rows]:
            row["bound"]["mean"] = row["noise_bound"]["mean"] = 1.0

    def shown(name, change):
        folder = write_sweep_json(LAMBDA, name, bounds=True, change=change)
        page, *_ = write_sweep(folder)
        print_table(Sweep.read(folder / "sweep.json"))
        return plain(page.read_text("utf-8")), capsys.readouterr().out

    page, table = shown("none", noiseless)
    assert "DP bound" not in page and "DP bound" not in table
    page, table = shown("some", lambda sweep: noiseless(sweep, slice(1)))
    assert page.count("<td>none</td><td>none</td>") == 1 and "<td>96.0 %</td>" in page and "100.0 %" not in page
    assert table.count("none") == 1 and "96.0 %" in table and "100.0 %" not in table


def test_without_an_audit_there_is_accuracy_alone(write_sweep_json):
    files = write_sweep(write_sweep_json(LAMBDA, audited=False, seeds=1))
    (page,) = files
    (over,) = labels_of(page)
    assert "attack" not in over
    text = plain(page.read_text("utf-8"))
    assert "λ 0 has the highest balanced accuracy on smile: 93.0 %." in text
    assert "One seed" in text and "±" not in text


def test_failed_and_waiting_points_are_told(write_sweep_json):
    def broken(sweep):
        sweep["points"][0].update(state="failed", error="RunError: <b>out of paper</b>")
        sweep["points"][1]["state"] = "waiting"
        sweep["rows"][0].update(failed=1, desired=None, attributes={})

    page, _ = write_sweep(write_sweep_json(LAMBDA, change=broken))
    text = page.read_text("utf-8")
    assert "RunError: &lt;b&gt;out of paper" in text and "1 not made yet" in text and "1 failed" in text


def test_a_sweep_of_nothing_finished_has_a_page(write_sweep_json):
    def nothing(sweep):
        for row in sweep["rows"]:
            row.update(desired=None, attributes={}, runs=0)

    (page,) = write_sweep(write_sweep_json(LAMBDA, change=nothing))
    assert "No point of the sweep has finished yet." in page.read_text("utf-8")


def test_two_attributes_have_a_picture_each(write_sweep_json):
    def two(sweep):
        sweep["sensitive"] = ["masculine", "glasses"]
        for row in sweep["rows"]:
            row["attributes"]["glasses"] = row["attributes"]["masculine"]

    names = {path.name for path in write_sweep(write_sweep_json(LAMBDA, change=two))}
    assert names == {"sweep.html", "frontier-masculine.png", "frontier-glasses.png"}


def test_what_is_not_there_or_not_known_is_named(tmp_path, write_sweep_json):
    with pytest.raises(RunError, match="'smartedge sweep' writes it"):
        write_sweep(tmp_path)

    def later(sweep):
        sweep["schema_version"] = 3

    with pytest.raises(RunError, match="is of version 3, and this program knows 2"):
        write_sweep(write_sweep_json(LAMBDA, change=later))


def test_settings_that_are_equal_are_not_ranked(write_sweep_json):
    def alike(sweep):
        for row in sweep["rows"]:
            row["desired"] = {**row["desired"], "mean": 0.5}
            row["attributes"] = {}

    page, *_ = write_sweep(write_sweep_json(LAMBDA, change=alike))
    text = plain(page.read_text("utf-8"))
    assert "No setting is shown to be the best on smile: λ 0; λ 1; λ 3 and λ 10 reach 50.0 %" in text


def test_labels_of_the_frontier_keep_off_the_deviations_too(monkeypatch):
    kept_off = []

    def note(canvas, axes, labels, others, upright, level):
        kept_off.extend(others)

    monkeypatch.setattr(attack_plots, "label_points", create_autospec(label_points, side_effect=note))
    attack_plots.frontier([Point("λ 1", ("1",), (0.9, 0.02), (0.7, 0.04), 0.95, None)], {}, None, "hat", "smile")
    ends = {(0.95, 0.9), (0.66, 0.9), (0.68, 0.9), (0.72, 0.9), (0.74, 0.9)}
    ends |= {(0.7, 0.88), (0.7, 0.89), (0.7, 0.91), (0.7, 0.92)}
    assert {(round(x, 3), round(y, 3)) for x, y in kept_off} == ends
