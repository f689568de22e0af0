"""`smartedge init`: what it writes can be read back, is complete, and never replaces a file unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from smartedge.cli.app import main
from smartedge.cli.init import commented_yaml
from smartedge.config import Config, load_config


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


def test_arguments_are_written_and_the_next_steps_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    argv = ["init", str(path), "--data", "photos", "--desired", "smile", "--desired", "beard", "--method", "local"]
    assert main(argv) == 0
    config = load_config(path)
    assert (config.method, config.data.path, config.data.desired) == ("local", "photos", ("smile", "beard"))
    assert f"smartedge train {path}" in capsys.readouterr().out


def test_data_without_a_column_asks_for_the_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "run.yaml"), "--data", "photos"])
    assert "set data.desired" in capsys.readouterr().out


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
    assert "missing/run.yaml: cannot be written" in capsys.readouterr().err


def _keys(mapping: dict) -> dict:
    return {key: _keys(value) if isinstance(value, dict) else None for key, value in mapping.items()}
