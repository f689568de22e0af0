"""`smartedge init`: what it writes can be read back, is complete, and never replaces a file unasked."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from smartedge.artifacts.run import Speed
from smartedge.cli.app import main
from smartedge.config import Config, load_config
from smartedge.config.writing import commented_yaml
from smartedge.data import open_dataset
from smartedge.errors import DataError
from smartedge.images.size import ImageSize
from smartedge.lab.plan import propose as module
from smartedge.lab.plan.propose import propose, summarise


def test_the_file_holds_every_key_at_its_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    assert main(["init", str(path)]) == 0
    assert load_config(path) == Config()
    assert _keys(yaml.safe_load(path.read_text())) == _keys(Config().model_dump(mode="json"))


def test_every_description_is_in_the_file() -> None:
    text = " ".join(commented_yaml(Config()).replace("#", " ").split())
    for section in [Config(), *(value for _, value in Config() if hasattr(value, "model_fields_set"))]:
        for name, field in type(section).model_fields.items():
            assert " ".join((field.description or "").split()) in text, name


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "split", "model": {"bottleneck": "8x4x4"}},
        {"data": {"path": "a b: #c", "desired": ["yes", "1", "ü"], "limit": {"train": 3}, "cache_dir": "/x"}},
        {"schedule": "freeze-and-log", "train": {"front_epochs": 2, "lr": 1e-7}, "hardware": {"threads": 2}},
    ],
)
def test_any_settings_survive_the_way_through_the_commented_file(changes: dict, tmp_path: Path) -> None:
    config = load_config(changes)
    path = tmp_path / "run.yaml"
    path.write_text(commented_yaml(config), encoding="utf-8")
    assert load_config(path) == config


@contextmanager
def short_files() -> Iterator[None]:
    """This process may write no file of more than 1000 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_a_part_leaves_the_former_file_and_no_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half of a settings file can be read: what is missing has its default."""
    path = tmp_path / "run.yaml"
    with short_files():
        assert main(["init", str(path)]) == 2
    assert list(tmp_path.iterdir()) == []
    path.write_text("seed: 7\n")
    with short_files():
        assert main(["init", str(path), "--force"]) == 2
    assert path.read_text() == "seed: 7\n"
    assert capsys.readouterr().err.count("no file of this size is allowed") == 2


def test_arguments_are_written_and_the_next_steps_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    argv = ["init", str(path), "--desired", "smile", "--desired", "beard", "--method", "local"]
    assert main(argv) == 0
    config = load_config(path)
    assert (config.method, config.data.desired) == ("local", ("smile", "beard"))
    assert f"smartedge train {path}" in capsys.readouterr().out


def test_data_that_are_not_there_are_an_error_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", str(tmp_path / "run.yaml"), "--data", "photos"]) == DataError.exit_code
    printed = capsys.readouterr()
    assert "there is no data set at photos" in printed.err and not (tmp_path / "run.yaml").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 images of 40 pixels, and a table with a person, two labels, and a number that is no label."""
    folder, lines = tmp_path / "photos", ["file_name,identity,kind,glasses,weight"]
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (40, 60), (10 * number, 0, 0)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,p{number // 2},{'cat' if number % 2 else 'dog'},{number % 2},{number + 0.5}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def test_the_data_are_looked_at_and_a_file_is_proposed(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    assert main(["init", str(path), "--data", str(photos), "--no-measure"]) == 0
    config, told = load_config(path), capsys.readouterr().out
    assert (config.data.desired, config.data.image_size.plain, config.train.batch_size) == ("kind", "56x40", 16)
    assert config.epochs == 40  # few images: more epochs
    assert "24 images of about 40 pixels, read as 56x40; columns that can be learned: kind (2), glasses (2)" in told
    looked = summarise(str(photos))
    epochs = [propose(replace(looked, images=images), ["kind"], []).epochs for images in (10 * 64, 11 * 64, 500 * 64)]
    assert epochs == [30, 28, 6], "at least 300 steps of 64 images, and six epochs"
    hidden = propose(replace(looked, jpeg=4.0), ["kind"], ["glasses"])  # with noise, bytes are not what is scarce
    assert hidden.model.bottleneck == (4, 1, 1)
    half = looked.jpeg / 2  # of images of one colour: less than the usual 11x8x6 numbers
    channels = int(half / 48)
    assert channels < 11 and f"kind is learned; {channels}x8x6 numbers cross the cut layer1, at most" in told


def test_a_column_whose_name_speaks_to_the_terminal_is_not_proposed(photos: Path, tmp_path: Path) -> None:
    table = photos / "metadata.csv"
    table.write_text(table.read_text().replace("kind", "kind\x1b[2J"))
    assert main(["init", str(tmp_path / "run.yaml"), "--data", str(photos), "--no-measure"]) == 0
    assert load_config(tmp_path / "run.yaml").data.desired == "glasses"
    with pytest.raises(DataError, match=r"name of column 'kind\\x1b\[2J' holds characters that cannot be printed"):
        open_dataset(str(photos), "kind\x1b[2J", image_size=16)


@pytest.mark.parametrize(
    ("shapes", "proposed"),
    [
        (["720x1280"], "64x112"),
        (["40x40", "41x40"], 40),
        (["28x28"], 32),
        (["218x178"], 64),  # CelebA: nearly a square
        (["300x400", "400x300"], 64),  # some lie, some stand
        (["20x2000"], "24x96"),
    ],
)
def test_the_shape_of_the_images_is_proposed(shapes: list[str], proposed: int | str, tmp_path: Path) -> None:
    sizes = [ImageSize.of(shapes[number % len(shapes)]) for number in range(24)]
    for number, size in enumerate(sizes):
        folder = tmp_path / "data" / "ab"[number // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size.width, size.height)).save(folder / f"{number}.bmp")
    looked = summarise(str(tmp_path / "data"))
    assert propose(looked, [], []).data.image_size.plain == proposed and looked.jpeg > 0


def test_a_camera_that_was_turned(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    for kind in "ab":
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(8):
            Image.new("RGB", (128, 64)).save(tmp_path / "data" / kind / f"{number}.jpg", exif=turned)
    assert summarise(str(tmp_path / "data")).image_size == ImageSize(128, 64)


def test_what_is_to_be_hidden_gets_noise_and_adversaries(photos: Path, tmp_path: Path) -> None:
    argv = ["--data", str(photos), "--desired", "glasses", "--sensitive", "kind", "--no-measure"]
    assert main(["init", str(tmp_path / "run.yaml"), *argv]) == 0
    config = load_config(tmp_path / "run.yaml")
    assert config.data.sensitive == ("kind",) and config.suppresses and config.front_first
    assert config.dp.mechanism == "gaussian" and config.bottleneck == (4, 1, 1)


def test_an_unknown_column_is_refused(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["init", str(tmp_path / "run.yaml"), "--data", str(photos), "--desired", "glases", "--no-measure"]
    assert main(argv) != 0
    assert "did you mean 'glasses'?" in capsys.readouterr().err and not (tmp_path / "run.yaml").exists()


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("weight", "column 'weight' of photos holds fractions such as 0.5"),
        ("identity", "it names the person or the split of each image"),
        ("number", r"it has 24 class\(es\) on 24 training images"),
        ("room", r"it has 1 class\(es\)"),
    ],
)
def test_a_column_that_cannot_be_learned_says_why(column: str, why: str, photos: Path) -> None:
    rows = (photos / "metadata.csv").read_text().splitlines()
    rows[1:] = [f"{row},{number},attic" for number, row in enumerate(rows[1:])]
    (photos / "metadata.csv").write_text("\n".join([rows[0] + ",number,room", *rows[1:]]))
    with pytest.raises(DataError, match=f"'{column}' of .* cannot be learned: {why}"):
        propose(summarise(str(photos)), [column], [])
    (photos / "metadata.csv").write_text("\n".join(",".join(row.split(",")[0::4]) for row in rows))
    with pytest.raises(
        DataError, match=r"none of its columns can be learned\n  weight: column 'weight' of photos holds f"
    ):
        summarise(str(photos))


def test_damaged_files_and_pipes_are_not_looked_at(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 60)
    Image.new("RGB", (80, 61)).save(photos / "0.png")  # more than twice the limit is an error of Pillow
    (photos / "1.png").unlink()
    os.mkfifo(photos / "1.png")
    assert summarise(str(photos)).image_size == ImageSize(56, 40)


def test_the_network_is_recorded_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []
    found = SimpleNamespace(name="layer1", aliases=(), shape=(64, 14, 10), layout="channels-first")
    monkeypatch.setattr(module, "build", lambda name, **_: recorded.append(name))
    monkeypatch.setattr(module, "list_cuts", lambda *_: [found])
    module._cuts.cache_clear()
    assert main(["init", str(tmp_path / "run.yaml"), "--data", str(photos), "--no-measure"]) == 0
    module._cuts.cache_clear()
    assert recorded == ["resnet18"]


def test_it_asks_on_a_terminal_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(question: str) -> str:
        asked.append(question)
        return {0: str(photos), 1: "glasses", 2: "kind"}[len(asked) - 1]

    monkeypatch.setattr("builtins.input", answer)
    assert main(["init", str(tmp_path / "a.yaml"), "--data", str(photos), "--no-measure"]) == 0 and not asked
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["init", str(tmp_path / "b.yaml"), "--data", str(photos), "--no-measure", "--yes"]) == 0 and not asked
    assert main(["init", str(tmp_path / "c.yaml"), "--no-measure"]) == 0
    config = load_config(tmp_path / "c.yaml")
    assert len(asked) == 3 and config.data.desired == "glasses" and config.data.sensitive == ("kind",)


def test_what_is_fastest_here_is_written(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"float32": 1.0, "bfloat16, channels last": 0.4}
    found = Speed(precision="bfloat16", channels_last=True, seconds=seconds, threads=1)
    monkeypatch.setattr("smartedge.methods.speed.measure_speed", lambda *_: found)
    assert main(["init", str(tmp_path / "run.yaml"), "--data", str(photos)]) == 0
    config = load_config(tmp_path / "run.yaml")
    assert (config.train.precision, config.train.channels_last) == ("bfloat16", True)


def test_a_file_is_replaced_only_with_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("precious")
    assert main(["init", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert main(["init", str(path), "--force"]) == 0
    assert load_config(path) == Config()


def test_a_wrong_method_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    assert main(["init", str(path), "--method", "spilt"]) == 2
    assert "did you mean 'split'?" in capsys.readouterr().err
    assert not path.exists()


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path / "missing" / "run.yaml")]) == 2
    assert "missing/run.yaml: it is not there, or its folder is not: put back" in capsys.readouterr().err


def _keys(mapping: dict) -> dict:
    return {key: _keys(value) if isinstance(value, dict) else None for key, value in mapping.items()}
