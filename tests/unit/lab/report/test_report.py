"""What the pages say and show, and what they must not do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from drawings import small_text
from safetensors.numpy import load_file, save_file

from smartedge.cli.demo import epochs_in_the_same_time
from smartedge.cli.report import print_table
from smartedge.errors import RunError
from smartedge.extras import how_to_install
from smartedge.lab.report import compared, write_comparison, write_report, write_sweep
from smartedge.lab.report.read import read_run
from smartedge.lab.report.run_verdict import margin, verdict
from smartedge.metrics import evaluate

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Page(HTMLParser):
    """A page taken apart: its text, elements, and whatever could load something."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.pieces.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def references(self) -> list[str]:
        names = ("src", "href", "xlink:href", "srcset", "action", "data", "poster")
        return [value or "" for _, attributes in self.elements for name, value in attributes.items() if name in names]


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir))


def test_the_report_lies_in_the_run_directory_and_holds_every_part(write_run):
    run = write_run()
    assert write_report(run) == run / "report.html"
    page = Page(run / "report.html")
    for heading in ("Accuracy", "Bytes on the link", "Time and memory", "Confusion", "Sample images", "Set-up"):
        assert f"{heading} </h2>" in page.source or f">{heading}</h2>" in page.source
    labels = " ".join(svg["aria-label"] for svg in page.all("svg"))
    for shown in (
        "Loss per epoch",
        "Balanced accuracy per epoch",
        "cloud gain",
        "offloaded",
        "Bytes per image",
        "wall",
    ):
        assert shown in labels
    assert len(page.all("img")) == 24
    for fact in ("smartedge train demo.yaml --method hierarchical", "8.00 GB", "2.13.0", "3 not an image", "seed 0"):
        assert fact in page.text
    assert (run / "report.html").stat().st_size < 1_500_000


def test_figures_are_those_of_the_run(write_run):
    run = write_run()
    results = json.loads((run / "results.json").read_text())
    page = page_of(run)
    for head in ("exit", "back"):
        for figure in ("accuracy", "balanced_accuracy", "auroc", "base_rate"):
            assert f"{100 * results['test'][head][figure]:.1f}\N{NO-BREAK SPACE}%" in page.source
    gain = results["test"]["back"]["balanced_accuracy"] - results["test"]["exit"]["balanced_accuracy"]
    assert f"{100 * gain:+.1f}" in page.source
    stored = load_file(run / "predictions.safetensors")
    right = int((stored["back"].argmax(axis=1) == stored["labels"])[stored["labels"] == 1].sum())
    assert f">{right}<" in page.source


@pytest.mark.parametrize(
    ("skills", "word", "headline"),
    [
        ((1.0, 3.0), "paid", "Sending paid: the cloud's back answers"),
        ((2.0, 2.01), "not shown", "It is not shown that sending paid"),
        ((2.5, 1.5), "did not pay", "Sending features did not help on this task: the cloud's back is"),
    ],
)
def test_the_verdict_follows_the_gain(skills, word, headline, write_run):
    # seed 4 draws a small positive gain for the two networks of nearly equal skill
    page = page_of(write_run(skills=skills, seed=4))
    assert headline in page.text
    assert f'<span class="word">{word}</span>' in page.source
    assert "paired bootstrap over 2\N{NARROW NO-BREAK SPACE}000 test images" in page.source


@pytest.mark.parametrize(("images", "skills"), [(2000, (0.0, 0.0)), (60, (0.2, 0.2))])
def test_heads_that_guess_have_learned_nothing_whoever_is_ahead(images, skills, write_run):
    page = page_of(write_run(skills=skills, images=images))
    assert '<span class="word">nothing learned</span>' in page.source
    assert "is no better than guessing, which gives 50.0" in page.text
    assert "do better than either" not in page.text
    assert "dp.warmup" in page.text and "Sending" not in page.text.split("Accuracy")[0].replace("Sending an image", "")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (2000, "did not help on this task: the cloud's back is no better than the edge's own exit."),
        (60, "It is not shown that sending paid. The cloud's back is no better than the edge's exit."),
    ],
)
def test_no_gain_at_all_is_called_pointless_where_there_are_images_enough(images, told, write_run):
    def nothing_gained(results):
        results["test"]["back"] = results["test"]["exit"]
        results["cloud_gain"] = 0.0

    run = write_run(change=nothing_gained, images=images)
    stored = load_file(run / "predictions.safetensors")
    save_file({**stored, "back": stored["exit"]}, run / "predictions.safetensors")
    page = page_of(run)
    assert told in page.text
    assert "Exit and back together" not in page.text


@pytest.mark.parametrize("mechanism", ["gaussian", "none", None])
def test_with_noise_the_heads_are_said_to_read_different_features(mechanism, write_run, privacy_block):
    def released(results):
        unknown = ("epsilon", "vector_epsilon", "epsilon_total", "sigma")
        without = {} if mechanism == "gaussian" else dict.fromkeys(unknown)
        results["privacy"] = None if mechanism is None else privacy_block(mechanism=mechanism, **without)

    text = page_of(write_run(change=released)).text
    assert ("a part of the difference between them is the noise" in text) == (mechanism == "gaussian")


@pytest.mark.parametrize(("images", "claimed"), [(2000, True), (40, False)])
def test_a_better_threshold_is_claimed_only_beyond_chance(images, claimed, write_run):
    page = page_of(write_run(skills=(3.0, 3.0), names=CIFAR, images=images))
    assert ("Exit and back together do better than either" in page.text) == claimed
    best = re.search(r'best</small></th><td>.*?<td class="own">([\d.]+).*?<small>± ([\d.]+)</small>', page.source)
    right = float(best[1]) / 100
    expected = 196 * (right * (1 - right) / images) ** 0.5
    assert float(best[2]) == pytest.approx(expected, abs=0.3)
    assert not claimed or f"% (± {best[2]}; threshold chosen on the test images)" in page.text


@pytest.mark.parametrize(("lost", "said"), [(0.15, True), (0.01, False)])
def test_an_unsure_head_is_said_to_favour_the_commoner_class(lost, said, write_run):
    def unsure(results):
        back = results["test"]["back"]
        back["balanced_accuracy_adjusted"] = back["balanced_accuracy"] + lost

    text = page_of(write_run(change=unsure)).text
    assert ("The plain answers of the back (cloud) favour the commoner class" in text) == said


def test_a_run_that_sent_nothing_back_has_a_bar_of_zero(write_run):
    def silent(results):
        results["bytes_per_image"]["down"] = 0.0

    runs = [write_run("a", change=silent), write_run("b", method="local")]
    labels = [svg["aria-label"] for svg in Page(write_comparison(runs, runs[0] / "both.html")).all("svg")]
    assert "Bytes down per image. hierarchical 0\N{NO-BREAK SPACE}B; local 0\N{NO-BREAK SPACE}B." in labels


def test_without_the_answers_there_is_no_interval_and_no_curve(write_run):
    run = write_run()
    (run / "predictions.safetensors").unlink()
    (run / "edge" / "samples.safetensors").unlink()
    (run / "metrics.jsonl").unlink()
    (run / "config.yaml").unlink()
    page = page_of(run)
    assert "Sending may have paid" in page.text and "No interval can be given" in page.text
    assert "holds no predictions.safetensors" in page.text and "holds no metrics.jsonl" in page.text
    assert "This file contains no images: raw images stay on the edge" in page.text
    assert not page.all("img")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("local", "Everything on the edge:"),
        ("upload", "every image has to be sent"),
        ("split", "every feature map has to be sent"),
    ],
)
def test_baselines_have_a_report_too(method, says, write_run):
    page = page_of(write_run(method=method))
    assert says in page.text
    assert "Cloud gain" not in page.text
    assert ("Nothing was sent" in page.text) == (method == "local")


def test_bytes_beside_jpeg_are_judged(write_run):
    def thick(results):
        results["bytes_per_image"]["up"] = 3 * 2210.4

    page = page_of(write_run("thick", change=thick))
    assert "3.0 times larger than the image as JPEG (quality 90)" in page.text
    assert "Uploading the JPEG itself would have been cheaper" in page.text
    assert "12.9 times smaller than the image as JPEG" in page_of(write_run("thin")).text


def test_many_classes_are_told_by_their_mistakes(write_run):
    assert "Most frequent mistakes" in page_of(write_run("many", names=tuple(f"class {k}" for k in range(30)))).text
    ten = page_of(write_run("ten", names=CIFAR))
    assert "Most frequent mistakes" not in ten.text
    assert sum("--shade" in (cell.get("style") or "") for cell in ten.all("td")) == 2 * 10 * 10


def test_a_multi_label_task_is_shown_per_column(write_run):
    names = ("smile", "beard", "glasses")
    run = write_run(kind="multi", names=names)
    page = page_of(run)
    stored = load_file(run / "predictions.safetensors")
    shown = next(svg["aria-label"] for svg in page.all("svg") if "per column" in svg["aria-label"])
    for k, name in enumerate(names):
        figures = evaluate(
            stored["labels"][:, k], np.stack([1 - stored["back"][:, k], stored["back"][:, k]], 1), "single"
        )
        assert re.search(rf"{name}: .*back \(cloud\) {100 * figures['balanced_accuracy']:.1f} %", shown)
    assert "of 3 right" in page.text


def test_samples_carry_label_and_answers_in_words(write_run):
    run = write_run(names=("cat", "dog"))
    stored, samples = load_file(run / "predictions.safetensors"), load_file(run / "edge" / "samples.safetensors")
    page = page_of(run)
    alts = [image["alt"] for image in page.all("img")]
    assert alts[0] == f"Test image {samples['ids'][0]}, true: {('cat', 'dog')[samples['labels'][0]]}"
    wrong = sum(int((stored[head][:24].argmax(axis=1) != stored["labels"][:24]).sum()) for head in ("exit", "back"))
    assert page.text.count("✗") == wrong + 1  # one in the explanation
    assert page.text.count("✓") == 48 - wrong + 1
    assert "This file contains 24 images of the test split." in page.text


def test_large_images_are_shrunk(write_run):
    run = write_run(image_size=512, images=200)
    assert write_report(run).stat().st_size < 1_500_000


def test_figures_that_do_not_exist_are_dashes(write_run):
    def undefined(results):
        for head in ("exit", "back"):
            results["test"][head].update(auroc=None, loss=float("nan"))
        results["bytes_per_image"]["reference"]["feature_float32"] = None
        results["edge_peak_rss_bytes"] = results["cloud_peak_rss_bytes"] = None
        results["seconds_per_epoch"] = 0.0
        results["stage_seconds"] = {"edge": 0.0, "link": 0.0, "cloud": 0.0}

    page = page_of(write_run(change=undefined))
    assert "nan" not in page.text and "None" not in page.text
    assert "–" in page.text


HOSTILE = "</title><script>alert(1)</script><img src=x onerror=alert(2)>--><!--\"'&$\\frac{1$ {{ 7 * 7 }} 笑顔 http://evil.example"


def test_names_from_outside_stay_text(write_run):
    def hostile(results):
        for place in (results, results["data"], results["machine"], results["versions"], results["bytes_per_image"]):
            for key, value in place.items():
                if isinstance(value, str) and key not in ("method", "schedule"):
                    place[key] = HOSTILE
        results["data"]["skipped"] = {HOSTILE: 1}
        results["data"]["notes"] = [HOSTILE]
        results["task"]["columns"] = [HOSTILE]

    names = (HOSTILE, "$x^2$", "class_1")
    single = write_run("single", names=names, change=hostile, images=300)
    multi = write_run("multi", names=names, kind="multi", change=hostile, images=300)
    (single / "config.yaml").write_text(HOSTILE)
    pages = [page_of(single), page_of(multi), Page(write_comparison([single, multi], single / "both.html"))]
    for page in pages:
        assert HOSTILE in page.text
        assert not page.all("script") and not page.all("iframe")
        assert {image["src"][:10] for image in page.all("img")} <= {"data:image"}
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert all(reference.startswith(("#", "data:")) for reference in page.references())


def test_nothing_is_loaded_from_elsewhere(write_run):
    runs = [write_run(method, method=method) for method in ("hierarchical", "upload", "split", "local")]
    for path in (*map(write_report, runs), write_comparison(runs, runs[0] / "comparison.html")):
        page = Page(path)
        without_images = re.sub(r"data:image/[^\"]*", "", page.source)
        assert not re.search(r"https?:|//[a-z]|@import|@font-face", without_images)
        assert set(re.findall(r"url\((.)", page.source)) <= {"#"}
        assert all(reference.startswith(("#", "data:")) for reference in page.references())
        policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
        assert policy.startswith("default-src 'none'") and "script" not in policy
        assert not page.all("script") and not page.all("base")


def test_drawings_follow_light_and_dark_and_are_described(write_run):
    page = page_of(write_run())
    for svg in page.all("svg"):
        assert len(svg["aria-label"]) > 30 and svg["role"] == "img"
    drawn = "".join(re.findall(r"<svg role=.*?</svg>", page.source, flags=re.DOTALL))
    assert not re.findall(r"(?:fill|stroke): (#(?!000000)[0-9a-f]{6})", drawn)
    assert "prefers-color-scheme: dark" in page.source
    assert all(image.get("alt") for image in page.all("img"))
    used = re.findall(r"(?:href=\"|url\()#([\w-]+)", drawn)
    defined = re.findall(r' id="([\w-]+)"', page.source)
    assert set(used) <= set(defined)


def test_the_same_run_gives_the_same_page(write_run, tmp_path):
    run = write_run()
    first, second = (write_report(run, out=tmp_path / "new folder" / name) for name in ("a.html", "b.html"))
    assert first.read_bytes() == second.read_bytes()


def test_a_comparison_has_every_run_and_figure(write_run):
    runs = [write_run(method, method=method) for method in ("hierarchical", "upload", "split", "local")]
    out = runs[0].parent / "comparison.html"
    assert write_comparison(runs, out) == out
    page = Page(out)
    for method in ("hierarchical", "upload", "split", "local"):
        assert f'<th scope="col">{method}</th>' in page.source
    assert "Compared with split:" in page.text and "0.32 times its time;" in page.text
    assert "Compared with upload, which sends the images:" in page.text
    assert "times fewer bytes in the whole run" in page.text and "times its computing on the edge" in page.text
    assert all(" ".join(sentence.split()) in page.text for sentence in compared(runs))
    assert "These runs differ" not in page.text
    assert len(page.all("svg")) == 6
    assert out.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("theirs", "told"),
    [(0.05, "40 times its computing on the edge"), (0.01, r"20\.0 s of computing on the edge instead of 0\.100 s")],
)
def test_a_rival_that_hardly_computes_is_no_measure(theirs, told, write_run):
    """Ten epochs: 20 s, and of the other edge 0.5 or 0.1 s."""
    runs = [
        write_run(name, method=name, epochs=10, change=lambda found, own=own: found.update(edge_processor_seconds=own))
        for name, own in (("hierarchical", 2.0), ("upload", theirs))
    ]
    assert re.search(told, " ".join(compared(runs)[-1].split()))


def test_a_comparison_says_where_it_is_unfair(write_run):
    runs = [write_run("a"), write_run("b", epochs=4, seed=1, method="upload"), write_run("c")]
    page = Page(write_comparison(runs, runs[0] / "comparison.html"))
    assert "These runs differ in more than the method" in page.text
    assert "epochs: 6 / 4" in page.text and "seed: 0 / 1" in page.text
    assert '<th scope="col">hierarchical (a)</th>' in page.source


def test_a_comparison_of_one_run_is_a_table_of_one_column(write_run):
    page = Page(write_comparison([write_run()], write_run() / "comparison.html"))
    assert "Hierarchical reached" in page.text and "Compared with" not in page.text


def test_of_lines_written_twice_the_later_counts(write_run):
    run = write_run(epochs=1)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    again = [json.dumps({**json.loads(line), "balanced_accuracy": 0.123}) for line in lines]
    (run / "metrics.jsonl").write_text("\n".join([*lines, *again]))
    labels = [svg["aria-label"] for svg in page_of(run).all("svg")]
    assert "exit (edge), validation: from 12.3 % to 12.3 %" in next(
        label for label in labels if "accuracy per" in label
    )


def test_a_run_that_has_not_finished_is_named(tmp_path):
    with pytest.raises(RunError, match=r"results\.json: is not there; .*--resume"):
        write_report(tmp_path)


def broken_json(run):
    (run / "results.json").write_text("{")


def another_schema(run):
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, "schema_version": 7}))


def no_object(run):
    (run / "results.json").write_text("[]")


def lost_key(run):
    results = json.loads((run / "results.json").read_text())
    del results["bytes_per_image"]["reference"]["jpeg_q90"], results["test"]["exit"]["auroc"]
    (run / "results.json").write_text(json.dumps(results))


def no_head(run):
    results = json.loads((run / "results.json").read_text())
    results["test"] = {"back": None, "exit": None}
    (run / "results.json").write_text(json.dumps(results))


def broken_metrics(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"side": "edge", "epo')


def broken_tensors(run):
    (run / "predictions.safetensors").write_bytes(b"not tensors")


def lost_tensor(run):
    save_file({"ids": np.arange(3)}, run / "predictions.safetensors")


def wrong_shape(run):
    stored = load_file(run / "predictions.safetensors")
    save_file({**stored, "exit": np.zeros((5, 2), np.float32)}, run / "predictions.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_json, r"results\.json: is damaged: it is not JSON"),
        (another_schema, r"results\.json: is of version 7, and this program knows 2"),
        (no_object, r"results\.json: is damaged: it does not hold a JSON object"),
        (lost_key, r"lacks test\.exit\.auroc, bytes_per_image\.reference\.jpeg_q90"),
        (no_head, r"test: .* figures neither of the back nor of the exit"),
        (broken_metrics, r"metrics\.jsonl, line 25: is not a line of metrics"),
        (broken_tensors, r"predictions\.safetensors: cannot be read"),
        (lost_tensor, r"predictions\.safetensors: lacks labels"),
        (wrong_shape, r"exit has shape \(5, 2\), but should have \(2000, 2\)"),
    ],
)
def test_what_is_broken_is_named(damage, message, write_run):
    run = write_run()
    damage(run)
    with pytest.raises(RunError, match=message):
        write_report(run)


def test_runs_of_fewer_epochs_are_named_so_and_compared_over_all_their_epochs(write_run, capsys):
    runs = [
        write_run("hierarchical", epochs=6, change=stages(edge=1.0, epoch=2.0)),
        write_run("long", method="local", epochs=6, change=stages(edge=4.0, epoch=4.0)),
        write_run("short", method="local", epochs=2, change=stages(edge=4.0, epoch=4.0)),
    ]
    _, long, short = compared(runs)
    assert "Compared with local: " in long and "0.50 times its time; 0.25 times its computing" in long
    assert "Compared with local (2 epochs): " in short and "1.50 times its time; 0.75 times its computing" in short
    print_table(runs)
    assert "local, 2 epochs" in capsys.readouterr().out
    assert epochs_in_the_same_time(*(read_run(run).results for run in runs[:2])) == 2  # 6 s of the edge, 4 s an epoch


def test_computing_is_compared_in_seconds_of_the_processor_where_these_are_known(write_run):
    """On a busy machine other programs have the processor for a part of the seconds of the clock."""
    runs = [
        write_run("hierarchical", epochs=6, change=stages(edge=8.0, epoch=9.0, processor=1.0)),
        write_run("local", method="local", epochs=6, change=stages(edge=8.0, epoch=9.0, processor=4.0)),
    ]
    assert "0.25 times its computing" in compared(runs)[1]
    page = Page(write_comparison(runs, runs[0].parent / "both.html"))
    assert "the edge's processor 1.00 s 4.00 s" in page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.text.count("smartedge demo") == 1, "one command made both"
    assert epochs_in_the_same_time(*(read_run(run).results for run in runs)) == 2


def stages(edge, epoch, processor=None):
    def change(results):
        results["edge_processor_seconds"] = processor
        results["command"] = "smartedge demo"
        results["stage_seconds"]["edge"] = edge
        results["seconds_per_epoch"] = epoch

    return change


def test_no_runs_cannot_be_compared(tmp_path):
    with pytest.raises(ValueError, match="no run to compare"):
        write_comparison([], tmp_path / "comparison.html")


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_the_message_names_it(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; import smartedge.lab.report"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: the report needs matplotlib and Jinja2" in done.stderr
    assert how_to_install("cloud") in done.stderr


def test_a_verdict_is_not_surer_than_the_interval_that_is_shown(write_run):
    run = read_run(write_run(skills=(1.0, 3.0)))
    assert verdict(run, (0.0004, 0.04), None).word == "not shown"  # the reader sees 0.0 to +4.0
    assert verdict(run, (0.0006, 0.04), None).word == "paid"
    assert verdict(run, None, None).word == "may have paid"


def test_the_interval_of_an_accuracy_is_that_of_its_images(write_run):
    results = read_run(write_run(images=2000)).results
    figures = results.test.back.model_copy(update={"balanced_accuracy": 0.9, "base_rate": 0.5})
    assert margin(results, figures) == pytest.approx(1.96 * 0.3 / 2000**0.5)
    rare = figures.model_copy(update={"base_rate": 0.9})  # of 2000 images 200 are of the rarer class
    recall = 0.3 * (1 / 1800 + 1 / 200) ** 0.5 / 2
    assert margin(results, rare) == pytest.approx(1.96 * recall)


def test_runs_whose_difference_is_not_shown_are_not_ranked(write_run, tmp_path):
    def reached(name: str, accuracy: float) -> Path:
        def change(results):
            results["test"]["back"] |= {"balanced_accuracy": accuracy, "base_rate": 0.5}

        return write_run(name, method="local", change=change)  # 2000 test images

    runs = [reached("a", 0.930), reached("b", 0.935), reached("c", 0.970)]
    alike = Page(write_comparison(runs[:2], tmp_path / "alike.html")).text
    assert "No difference to the best of the others" in alike and "95 % interval −2.1 to +1.1" in alike
    apart = Page(write_comparison(runs[::-2], tmp_path / "apart.html")).text
    assert "4.0 points more than the best of the others" in apart.replace("\N{NO-BREAK SPACE}", " ")


def test_the_style_for_paper_stands_behind_the_rules_that_it_changes(repo_root):
    style = (repo_root / "src/smartedge/lab/report/template.html.j2").read_text().partition("</style>")[0]
    screen, found, paper = style.partition("@media print")
    assert found and "\nbody {" in screen and "\n.scroll {" in screen
    assert paper.partition("\n}\n")[2] == ""  # nothing comes after it


def test_the_text_of_figures_can_be_read_on_a_phone(write_run, write_audit, write_sweep_json):
    sweep, _ = write_sweep(write_sweep_json({"adversary.weight": ("0", "1")}))
    for page in (write_report(write_audit(write_run())), sweep):
        assert small_text(page) == []
