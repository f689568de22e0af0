"""What the planner measures in a process of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from smartedge.artifacts.profile import CheckpointCost, Timing, Transport
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError, CutError
from smartedge.lab.plan import measure, survey
from smartedge.lab.plan.images import SampleImages, sample_images
from smartedge.methods.base import get_method
from smartedge.models.cutting.cut import list_cuts
from smartedge.models.network import network_of


def test_the_peak_of_an_edge_is_taken_before_its_process_divides_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    def watch(name: str) -> None:
        usual = getattr(measure, name)
        monkeypatch.setattr(measure, name, lambda *given, **named: happened.append(name) or usual(*given, **named))

    for name in ("read_answer", "divide", "_own_peak_bytes"):
        watch(name)
    monkeypatch.setattr("smartedge.methods.hierarchical.divide", measure.divide)
    config = load_config(
        {
            "run_dir": str(tmp_path / "run"),
            "data": {"image_size": 16, "limit": {"train": 8, "val": 4, "test": 4}, "cache_dir": str(tmp_path)},
            "model": {"name": "narrow:build", "cut": "layer1"},
            "train": {"batch_size": 4},
        }
    )
    answer = measure.figures_of_cut(config, ["uint8"], sample_images(config), repeats=1)
    assert happened[:3] == ["read_answer", "_own_peak_bytes", "divide"]
    assert answer["figures"]["build_seconds"] > 0
    assert answer["left_out"] == {}
    elsewhere = load_config(config, {"hardware": {"cloud_device": "cuda:99"}})
    images = sample_images(elsewhere)
    with pytest.raises(ConfigError, match=r"hardware\.cloud_device: 'cuda:99'"):
        measure.figures_of_cut(elsewhere, ["uint8"], images, repeats=1)


@pytest.fixture
def whole(tmp_path: Path) -> Config:
    """The undivided network on the edge, on random pixels."""
    return load_config(
        {
            "method": "local",
            "run_dir": str(tmp_path / "run"),
            "data": {"path": str(tmp_path / "gone"), "desired": ["a", "b", "c"], "image_size": 16},
            "model": {"name": "narrow:build", "cut": "layer1"},
            "train": {"batch_size": 4},
            "hardware": {"threads": 1, "edge_device": "cpu"},
        }
    )


def test_the_figures_of_the_undivided_network(whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = CheckpointCost(seconds=1.0, seconds_per_byte=2.0)
    transport = dict(zip(Transport.model_fields, (3.0, 4.0, 5.0, 6.0), strict=True))
    asked: list[object] = []
    monkeypatch.setattr(measure, "checkpoint_cost", lambda folder: asked.append(folder.parent) or disk)
    monkeypatch.setattr(measure, "transport_cost", lambda folder, repeats: asked.append(repeats) or transport)
    monkeypatch.setattr(measure, "_own_peak_bytes", lambda: 987)
    monkeypatch.setattr(measure, "rss_bytes", lambda: 654)
    images = sample_images(whole)
    found = measure.figures_of_whole(whole, ["float32", "image", "jpeg-90"], images, repeats=1)
    cuts = list_cuts(network_of(whole.division(3)), (3, 16, 16))
    assert found["all_cuts"] == [(cut.name, cut.front_flops, cut.back_flops, cut.activation_bytes) for cut in cuts]
    figures: Any = found.pop("whole")
    assert (figures.peak_bytes, figures.baseline_bytes) == (987, 654)
    assert figures.flops == cuts[-1].front_flops + cuts[-1].back_flops > 0
    assert set(figures.codecs) == {"image", "jpeg-90"}, "float32 is no codec of images"
    assert figures.codecs["image"].bytes_per_image >= 3 * 16 * 16 and figures.codecs["image"].rmse == 0.0
    assert found["left_out"] == {}
    learner = get_method("local").edge(whole, images.task, torch.device("cpu"))
    assert figures.state_bytes > sum(each.nbytes for module in learner.modules.values() for each in module.parameters())
    for timing in (figures.step, figures.forward, figures.release, figures.codecs["image"].encode):
        assert timing.seconds > 0
    assert figures.build_seconds > 0
    assert asked == [tmp_path, 1] and (found["checkpoint"], found["transport"]) == (disk, transport)
    assert (found["data"], found["counts"], found["features"]) == (images.data, {}, images.what)
    assert found["outputs"] == 3


def test_bytes_of_tensors_are_counted_wherever_they_are() -> None:
    tree = {
        "a": torch.zeros(3),
        "b": [torch.zeros(2, dtype=torch.uint8), (torch.zeros(1, dtype=torch.float64),)],
        "c": 7,
    }
    assert measure._tensor_bytes(tree) == 12 + 2 + 8


def test_the_peak_is_that_of_this_program(monkeypatch: pytest.MonkeyPatch) -> None:
    class Status:
        text = "Name:\tpython\nVmPeak:\t 999 kB\nVmHWM:\t  123 kB\nVmRSS:\t 7 kB\n"

        def __init__(self, path: str) -> None:
            assert path == "/proc/self/status"

        def read_text(self, encoding: str) -> str:
            if not self.text:
                raise FileNotFoundError
            return self.text

    monkeypatch.setattr(measure, "Path", Status)
    monkeypatch.setattr(measure, "peak_rss_bytes", lambda: 5)
    assert measure._own_peak_bytes() == 123 * 1024
    for text in ("", "Name:\tpython\n"):
        monkeypatch.setattr(Status, "text", text)
        assert measure._own_peak_bytes() == 5


def test_a_network_whose_operations_are_not_known_cannot_be_planned(whole: Config) -> None:
    cuts = list_cuts(network_of(whole.division(2)), (3, 16, 16))
    object.__setattr__(cuts[1], "front_flops", None)
    with pytest.raises(CutError, match=r"^thing cannot be planned: .*'smartedge cuts' shows"):
        measure._known(cuts, "thing")


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """``served(request, *lines)``: what a measuring process says, as JSON."""

    def serve(request: dict[str, object], *lines: str) -> list[Any]:
        said: list[str] = []
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in (json.dumps(request), *lines))))
        monkeypatch.setattr(measure, "say", said.append)
        threads: list[int] = []
        monkeypatch.setattr(measure.torch, "set_num_threads", threads.append)
        measure.main()
        assert threads in ([1], []), "those of the settings; none where they cannot be read"
        return [json.loads(text) for text in said]

    return serve


def test_an_unknown_cut_is_told_before_anything_is_measured(whole: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sample_images(whole)
    monkeypatch.setattr(measure, "timed", None)
    with pytest.raises(ConfigError, match=r"--cuts: layer99: no such cut; choose among .*layer3, .*or all"):
        measure.figures_of_whole(whole, ["uint8"], images, repeats=1, asked=["layer3", "layer99"])


def test_a_process_answers_with_the_part_it_was_asked_for(
    served: Callable[..., list[Any]], whole: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing = Timing(seconds=1.0, cpu_seconds=2.0, spread=3.0, first_seconds=4.0)

    def answer(name: str) -> Callable[..., dict[str, object]]:
        def figures(
            config: Config, codecs: list[str], images: SampleImages, *, repeats: int, asked: Sequence[str] = ()
        ) -> dict[str, object]:
            assert asked == (["stem"] if name == "of all" else ())
            assert config == whole and images.task.columns == ("a", "b", "c")
            return {"figures": name, "codecs": codecs, "repeats": repeats, "timing": timing}

        return figures

    monkeypatch.setattr(measure, "figures_of_cut", answer("of a cut"))
    monkeypatch.setattr(measure, "figures_of_whole", answer("of all"))
    request = json.loads(survey._request(whole, "cut", ("uint8",), 5, ("stem",)))
    rest = {"codecs": ["uint8"], "repeats": 5, "timing": timing.model_dump()}
    assert served(request) == [{"figures": "of a cut", **rest}]
    assert served({**request, "part": "whole"}) == [{"figures": "of all", **rest}]
    wrong = {**request["config"], "method": "magic"}
    (found,) = served({**request, "config": wrong, "part": "cut"})
    assert found["error"]["code"] == ConfigError.code and "magic" in found["error"]["message"]


def test_steps_are_timed_on_demand(
    served: Callable[..., list[Any]], whole: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The undivided network takes a step of a learner that learns, from the batches in turn."""
    asked: list[tuple[int, int]] = []

    def timed(work: Callable[[int], object], *, images: int, repeats: int) -> Timing:
        asked.append((images, repeats))
        work(len(asked))
        return Timing(seconds=float(len(asked)), cpu_seconds=0.0, spread=0.0, first_seconds=0.0)

    monkeypatch.setattr(measure, "timed", timed)
    request = {"config": whole.model_dump(mode="json"), "codecs": [], "repeats": 3, "part": "together"}
    ready, first, second = served(request, "go", "go")
    assert ready == {} and asked == [(4, 3), (4, 3)]
    assert (first["step"]["seconds"], second["step"]["seconds"]) == (1.0, 2.0)


def test_a_training_step_learns_from_the_batches_in_turn(whole: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    images = sample_images(whole)
    images = SampleImages((*images.batches, "second"), images.task, None, images.data, images.what)  # type: ignore[arg-type]
    taken: list[object] = []

    def take(learn: Callable[..., object], batch: object, progress: Any, *, rates: Any) -> None:
        taken.append(batch)
        assert (progress.epochs, progress.steps_per_epoch) == (1, 100) and rates and learn.__name__ == "learn"

    monkeypatch.setattr(measure, "take_step", take)
    step = measure.training_step(whole, images)
    for number in (0, 1, 2):
        step(number)
    assert taken == [images.batches[0], "second", images.batches[0]]
