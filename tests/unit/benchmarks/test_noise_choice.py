"""The rule by which the noise is chosen."""

from __future__ import annotations

from noise_choice import choose


def _seen(sigma: float, above: float) -> dict[str, object]:
    return {"sigma": sigma, "plug_in": 0.6 + above, "label_floor": 0.6}


def test_the_smallest_noise_is_chosen_that_hides_enough_in_the_mean_over_runs() -> None:
    found = [_seen(0.3, 0.01), _seen(0.3, 0.04), _seen(0.35, 0.03), _seen(0.35, 0.0), _seen(0.4, 0.0), _seen(0.4, 0.01)]
    assert choose(found) == 0.35
    assert choose([_seen(sigma, 0.03) for sigma in (0.3, 0.35, 0.4)]) is None
