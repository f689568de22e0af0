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
