"""Values of arguments that several verbs share."""

from __future__ import annotations

import pytest

from smartedge.cli.app import parse
from smartedge.errors import ConfigError


@pytest.mark.parametrize(
    "argv",
    [
        ["cuts", "resnet18", "--outputs"],
        ["export", "RUN", "--to", "front", "--version"],
        ["profile", "run.yaml", "--repeats"],
        ["plan", "run.yaml", "--link", "4g", "--threads"],
        ["plan", "run.yaml", "--link", "4g", "--epochs"],
        ["certify", "RUN", "--releases"],
        ["audit", "RUN", "--seeds"],
        ["audit", "RUN", "--threads"],
        ["sweep", "run.yaml", "--seeds"],
    ],
)
def test_numbers_that_count_something_are_at_least_one(argv: list[str]) -> None:
    assert vars(parse([*argv, "12"]))[argv[-1].removeprefix("--")] == 12
    for wrong in ("0", "-1", "1.5", "many", "1000000"):
        with pytest.raises(ConfigError, match=f"{argv[-1]}: {wrong}: give a whole number"):
            parse([*argv, wrong])


@pytest.mark.parametrize(
    ("argv", "right", "wrong"),
    [
        (["audit", "RUN", "--seed"], "0", ("-1", "1.5", "1000000")),
        (["plan", "run.yaml", "--link", "4g", "--top"], "0", ("-1", "many")),
        (["plan", "run.yaml", "--link", "4g", "--watts"], "0.5", ("0", "-1", "nan", "inf", "many")),
        (["profile", "run.yaml", "--watts"], "2", ("0", "nan")),
        (["infer", "RUN", "a.png", "--every"], "0.1", ("0", "nan", "inf")),
    ],
)
def test_other_numbers_are_within_their_range(argv: list[str], right: str, wrong: tuple[str, ...]) -> None:
    option = argv[-1]
    assert vars(parse([*argv[:-1], f"{option}={right}"]))[option.removeprefix("--")] == float(right)
    for text in wrong:
        with pytest.raises(ConfigError, match=f"{option}: {text}: give a"):
            parse([*argv[:-1], f"{option}={text}"])
