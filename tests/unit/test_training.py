"""What a run tells its user before it begins."""

from __future__ import annotations

import pytest

from smartedge.config import load_config
from smartedge.runs.progress import Update
from smartedge.training import _warn_of_early_releases

SUPPRESSED = {"data": {"sensitive": "masculine"}, "adversary": {"exits": ["mlp"]}}


class Told:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, update: Update) -> None:
        self.texts.append(update.text)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (SUPPRESSED, True),
        ({**SUPPRESSED, "schedule": "two-stage"}, False),
        ({**SUPPRESSED, "schedule": "freeze-and-log"}, False),
        ({"data": {"sensitive": "masculine"}}, False),
    ],
)
def test_who_sends_before_the_front_has_unlearned_is_told(settings: dict[str, object], warned: bool) -> None:
    told = Told()
    _warn_of_early_releases(load_config(settings), told)
    assert bool(told.texts) is warned
    if warned:
        assert "before the front has unlearned masculine" in told.texts[0]
