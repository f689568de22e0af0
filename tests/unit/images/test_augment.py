"""The random changes of training images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smartedge.images.augment import augment


def images(B: int, size: int) -> torch.Tensor:
    return torch.arange(B * 3 * size * size).remainder(251).to(torch.uint8).reshape(B, 3, size, size)


def augmented(x_BCHW: torch.Tensor, kind: str, seed: int = 0) -> torch.Tensor:
    return augment(x_BCHW, generator=torch.Generator().manual_seed(seed), kind=kind)


def test_none_changes_nothing() -> None:
    x_BCHW = images(3, 8)
    assert augmented(x_BCHW, "none") is x_BCHW


def test_flip_mirrors_some_images_and_leaves_the_others() -> None:
    x_BCHW = images(64, 8)
    y_BCHW = augmented(x_BCHW, "flip")
    flipped = [torch.equal(y, x.flip(-1)) for x, y in zip(x_BCHW, y_BCHW, strict=True)]
    kept = [torch.equal(y, x) for x, y in zip(x_BCHW, y_BCHW, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 15 < sum(flipped) < 49


@given(size=st.integers(8, 20), seed=st.integers(0, 2**32))
def test_flip_crop_equals_a_plain_loop(size: int, seed: int) -> None:
    x_BCHW = images(5, size)
    generator = torch.Generator().manual_seed(seed)
    flips = torch.rand(5, generator=generator) < 0.5
    margin = size // 8
    top = torch.randint(0, 2 * margin + 1, (5,), generator=generator)
    left = torch.randint(0, 2 * margin + 1, (5,), generator=generator)
    expected = []
    for x, flip, t, r in zip(x_BCHW, flips, top, left, strict=True):
        padded = torch.nn.functional.pad(x[None].float(), (margin,) * 4, mode="reflect")[0].to(torch.uint8)
        window = padded[:, t : t + size, r : r + size]
        expected.append(window.flip(-1) if flip else window)
    assert torch.equal(augmented(x_BCHW, "flip-crop", seed), torch.stack(expected))


@pytest.mark.parametrize("kind", ["flip", "flip-crop"])
def test_the_input_stays_and_the_seed_decides(kind: str) -> None:
    x_BCHW = images(16, 16)
    before = x_BCHW.clone()
    first = augmented(x_BCHW, kind, 1)
    assert torch.equal(x_BCHW, before)
    assert torch.equal(first, augmented(x_BCHW, kind, 1))
    assert not torch.equal(first, augmented(x_BCHW, kind, 2))
    assert first.dtype == torch.uint8
    assert first.shape == x_BCHW.shape


def test_a_rectangle_moves_by_up_to_an_eighth_of_each_side():
    """A pixel says its column and its row. The middle one of 16 x 32 shows how far each image moved."""
    columns, rows = torch.meshgrid(torch.arange(32), torch.arange(16), indexing="xy")
    images = torch.stack([columns, rows]).to(torch.uint8).expand(500, -1, -1, -1)
    moved = augment(images, generator=torch.Generator().manual_seed(0), kind="flip-crop")[:, :, 8, 16]
    assert moved[:, 0].unique().tolist() == list(range(15 - 4, 16 + 4 + 1)), "15 where it was mirrored"
    assert moved[:, 1].unique().tolist() == list(range(8 - 2, 8 + 2 + 1))
