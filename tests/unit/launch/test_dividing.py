"""When another process divides the network, and what it is given."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import MagicMock, create_autospec

import pytest
from kept_updates import Kept

from smartedge.config import Config, load_config
from smartedge.edge.apart import Division, read_answer
from smartedge.errors import SmartEdgeError
from smartedge.launch import dividing
from smartedge.launch.dividing import check_and_divide, divide_in_process
from smartedge.runs.progress import Update
from smartedge.stopping import Stopped
from smartedge.types import Task

TASK = Task("single", ("smile",), ("no", "yes"))


def read(answer: IO[bytes], tell: Callable[[str], None]) -> bytes:
    """Stands for what reads the answer of the other process."""
    tell("read")
    return answer.read()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """Stands for the class of the other process; the data set is there."""
    made = create_autospec(Division)
    made.return_value.__enter__.return_value = made.return_value
    made.return_value.answer = io.BytesIO(b"its parts")
    monkeypatch.setattr(dividing, "read_answer", create_autospec(read_answer, side_effect=read))
    monkeypatch.setattr(dividing, "Division", made)
    monkeypatch.setattr(dividing, "task_of", lambda config: TASK)
    return made


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """``settings(**changes)`` of a new run, with a folder of data."""
    (tmp_path / "data").mkdir()
    hardware = {"edge_device": "cpu", "cloud_device": "cuda", "threads": 3}
    base: dict[str, Any] = {"run_dir": str(tmp_path / "run"), "data": {"path": str(tmp_path / "data")}}
    return lambda **changes: load_config({**base, "hardware": hardware}, changes)


def test_a_new_run_has_its_network_divided_for_both_devices(
    started: MagicMock, settings: Callable[..., Config]
) -> None:
    config, division = settings(), started.return_value
    with check_and_divide(config) as found:
        assert found is division
        devices = {"hardware.edge_device": "cpu", "hardware.cloud_device": "cuda"}
        division.give.assert_called_once_with(config.division(2), devices=devices, threads=3)
        division.check.assert_called_once_with()
        division.__exit__.assert_not_called()
    division.__exit__.assert_called_once()


@pytest.mark.parametrize("why", ["begun", "local", "fetched", "Windows"])
def test_where_no_process_is_started_the_edge_divides(
    why: str, started: MagicMock, settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checked = settings(**({"method": "local"} if why == "local" else {})), list[Config]()
    monkeypatch.setattr(dividing, "check_data", checked.append)
    if why == "begun":
        (config.run_dir / "edge").mkdir(parents=True)
        (config.run_dir / "edge" / "run.json").touch()
    if why == "fetched":
        monkeypatch.setattr("smartedge.data.sources.may_be_fetched", lambda path: path == config.data.path)
    if why == "Windows":
        monkeypatch.setattr(dividing, "os", SimpleNamespace(name="nt"))
    with check_and_divide(config) as found:
        pass
    assert found is None and not started.called
    assert checked == ([] if why == "begun" else [config])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"front": "gone.safetensors"}, r"model\.front: gone\.safetensors is not there"),
        ({"name": "resnet81"}, "resnet"),
    ],
)
def test_wrong_settings_are_told_before_a_process_is_started(
    model: dict[str, str], says: str, started: MagicMock, settings: Callable[..., Config]
) -> None:
    config = settings(schedule="two-stage", model=model)
    with pytest.raises(SmartEdgeError, match=says), check_and_divide(config):
        pass
    assert not started.called


def test_a_run_that_is_stopped_meanwhile_had_not_begun(started: MagicMock, settings: Callable[..., Config]) -> None:
    started.return_value.check.side_effect = KeyboardInterrupt
    with pytest.raises(Stopped, match="the run had not begun"), check_and_divide(settings()):
        pass
    started.return_value.__exit__.assert_called_once()


def test_an_edge_alone_starts_one_unless_torch_is_here(
    started: MagicMock, settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, told, division = settings(), Kept(), started.return_value
    assert divide_in_process(config, told) is None and not started.called
    assert divide_in_process(config, told, io.BytesIO(b"given parts")) == b"given parts"
    assert told.updates == [Update("edge", "network", text="read")] and not started.called
    monkeypatch.delitem(sys.modules, "torch")
    assert divide_in_process(settings(method="local"), told) is None and not started.called
    assert divide_in_process(config, told) == b"its parts"
    devices = {"hardware.edge_device": "cpu"}
    division.give.assert_called_once_with(config.division(2), devices=devices, threads=3)
    division.check.assert_called_once_with()
