"""Which images of a run are certified, and which persons they show."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.untrained_run import untrained_run

from smartedge.artifacts.certificate import Certificate
from smartedge.config import Config, load_config
from smartedge.errors import DataError, RunError
from smartedge.lab.audit.certificate import certify as certifying
from smartedge.lab.audit.certificate import run as of_runs
from smartedge.lab.audit.certificate.run import certify
from smartedge.lab.audit.certificate.settings import CertifySettings
from smartedge.launch.datasets import dataset_of
from smartedge.runs.progress import Quiet

COUNT = 40
Settings = Callable[..., Config]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certifying, "_DRAWS", (1_000, 2_000))


def write_split(folder: Path, split: str, persons: list[str], male: list[bool]) -> None:
    """Plain pictures of persons."""
    folder.mkdir(exist_ok=True)
    images = []
    for place in range(len(persons)):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), (place, 0, 9 if split == "test" else 0)).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": f"{place}.png"})
    smile = [place % 2 == 0 for place in range(len(persons))]
    columns = {"image": images, "smile": smile, "male": male, "identity": persons}
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of runs on 20 training persons with two images each; four test persons, of whom one has ten images."""
    male = [place % 4 < 2 for place in range(COUNT)]  # the same in both images of a person
    write_split(tmp_path / "d", "train", [f"{place // 2}" for place in range(COUNT)], male)
    test = ["a"] * 10 + ["b", "c", "d"]
    write_split(tmp_path / "d", "test", test, [who in "ac" for who in test])
    data = {
        "path": str(tmp_path / "d"),
        "desired": "smile",
        "sensitive": ["male"],
        "image_size": 8,
        "cache_dir": str(tmp_path / "cache"),
        "audit_share": 0.25,
    }

    def made(**changes: Any) -> Config:
        whole: dict[str, Any] = {
            "schedule": "freeze-and-log",
            "model": {"name": "narrow:build", "cut": "layer1", "bottleneck": "2x1x1"},
            "dp": {"mechanism": "gaussian", "sigma": 0.4},
            "data": data,
        }
        return load_config({**whole, **{key: {**whole[key], **value} for key, value in changes.items()}})

    return made


def certified(run: Path, *splits: str) -> Certificate:
    return certify(run, CertifySettings(splits=splits or None), Quiet())


def test_persons_of_the_audit_are_those_of_the_images_that_were_set_apart(settings: Settings, tmp_path: Path) -> None:
    config = settings()
    apart = dataset_of(config).audit
    assert apart is not None
    persons = apart.ids // 2
    assert len(persons) == 2 * len(set(persons.tolist())), "each with both images"
    classes = [sum(number % 2 == wanted for number in set(persons.tolist())) for wanted in (1, 0)]
    run = untrained_run(tmp_path / "run", config)
    assert certified(run, "audit").attributes["male"].units == tuple(classes)
    assert certified(run, "test").attributes["male"].units == (2, 2)
    both = certified(run)
    assert both.attributes["male"].units == (classes[0] + 2, classes[1] + 2)
    assert both.splits == ("test", "audit") and both.persons == "identity"
    assert both.attributes["male"].images == 13 + len(persons)


def test_a_test_person_that_is_among_those_set_apart_counts_once(settings: Settings, tmp_path: Path) -> None:
    config = settings()
    apart = dataset_of(config).audit
    assert apart is not None
    known = int(next(number for number in apart.ids // 2 if number % 2 == 0))
    test = [str(known)] * 3 + ["a", "b"]
    write_split(tmp_path / "d", "test", test, [True] * 3 + [False, True])
    run = untrained_run(tmp_path / "run", config)
    alone, both = certified(run, "audit"), certified(run)
    assert np.subtract(both.attributes["male"].units, alone.attributes["male"].units).tolist() == [1, 1]


def test_held_out_images_that_are_training_images_under_another_name_are_refused(
    settings: Settings, tmp_path: Path
) -> None:
    """Each image lies there twice, as another person: the front knows the images that were set apart."""
    male = [place % 4 < 2 for place in range(COUNT)]
    write_split(tmp_path / "d", "train", [f"{place}" for place in range(COUNT)], male)
    rows = pq.read_table(tmp_path / "d" / "train.parquet")
    again = rows.set_column(3, "identity", pa.array([f"{COUNT + place}" for place in range(COUNT)]))
    pq.write_table(pa.concat_tables([rows, again]), tmp_path / "d" / "train.parquet")
    run = untrained_run(tmp_path / "run", config := settings())
    assert [note for note in dataset_of(config).notes if "audit images that were looked at are training images" in note]
    assert certified(run, "test").splits == ("test",)
    with pytest.raises(DataError, match="audit images that were looked at are training images too"):
        certified(run)


def test_weights_of_a_file_may_have_learned_from_what_this_run_set_apart(settings: Settings, tmp_path: Path) -> None:
    """Two runs with other shares set other images apart, so the front of one knows images of the other's audit."""
    first = untrained_run(tmp_path / "first", settings(data={"audit_share": 0}))
    run = untrained_run(tmp_path / "run", settings(model={"front": str(first / "edge" / "front.safetensors")}))
    assert certified(run).splits == ("test",)
    assert certified(run, "test", "audit").splits == ("test", "audit"), "somebody who knows better may say so"


def test_features_that_could_not_be_released_are_not_certified(settings: Settings, tmp_path: Path) -> None:
    """Where all were NaN, all seemed equal: 57 % on 200 images, of a front whose releases the gate refuses."""
    run = untrained_run(tmp_path / "run", settings())
    weights = load_file(file := run / "edge" / "front.safetensors")
    save_file({name: each * torch.nan if each.is_floating_point() else each for name, each in weights.items()}, file)
    with pytest.raises(DataError, match=r"13 of 13 images .* not finite"):
        certified(run, "test")
    assert not (run / "audit" / "certificate.json").exists()


def test_a_run_that_goes_on_is_not_certified(settings: Settings, tmp_path: Path) -> None:
    """An interrupted run has weights. Once it is resumed and finished they are others, and the file would stay."""
    run = untrained_run(tmp_path / "run", settings(), finished=False)
    with pytest.raises(RunError, match="has not finished this run"):
        certified(run)
    assert not (run / "audit").exists()


def test_a_place_without_room_for_the_certificate_is_told_before_the_front_sees_an_image(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained_run(tmp_path / "run", settings())
    (run / "audit").write_text("a file where a folder should be")
    monkeypatch.setattr(of_runs, "_bounded", lambda *_: pytest.fail("the front was used"))
    with pytest.raises(FileExistsError):
        certified(run)


def test_images_that_were_divided_anew_are_not_certified(settings: Settings, tmp_path: Path) -> None:
    """Training images would be taken for test images."""
    run = untrained_run(tmp_path / "run", settings())
    male = [place % 4 < 2 for place in range(COUNT)]
    write_split(tmp_path / "d", "train", [f"new {place // 2}" for place in range(30)], male[:30])
    write_split(tmp_path / "d", "test", [f"{place // 2}" for place in range(COUNT)], male)
    with pytest.raises(DataError, match="are not those of this run"):
        certified(run)
