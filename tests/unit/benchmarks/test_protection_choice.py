"""The rule by which a protection is chosen."""

from __future__ import annotations

from protection_choice import choose


def _seen(exit_on_val: float, plug_in: float) -> dict[str, object]:
    return {"exit_on_val": exit_on_val, "of_val_images": {"plug_in": plug_in}}


def test_the_smallest_plug_in_is_chosen_among_those_that_lose_at_most_one_point() -> None:
    found = {"plain": _seen(0.92, 0.66), "careful": _seen(0.911, 0.64), "too careful": _seen(0.90, 0.60)}
    assert choose(found) == "careful"
    assert choose({}) is None
