from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from smartedge.images.size import ImageSize, SizeField


class Holder(BaseModel):
    size: SizeField


@pytest.mark.parametrize(
    ("given", "size", "plain"),
    [
        (64, (64, 64, 3), 64),
        ("64", (64, 64, 3), 64),
        ("64x64", (64, 64, 3), 64),
        ("720x1280", (720, 1280, 3), "720x1280"),
        (ImageSize(3, 5), (3, 5, 3), "3x5"),
        ("64x64x3", (64, 64, 3), 64),
        ("64x64x1", (64, 64, 1), "64x64x1"),
        ("8x9x16", (8, 9, 16), "8x9x16"),
    ],
)
def test_a_square_is_written_as_a_number_and_a_rectangle_as_a_text(given: object, size: object, plain: object) -> None:
    held = Holder.model_validate({"size": given})
    assert held.size == size
    assert held.model_dump(mode="json") == {"size": plain}
    assert Holder.model_validate(held.model_dump(mode="json")) == held


@pytest.mark.parametrize("wrong", [0, -3, True, 64.0, "64x", "x64", "1x2x0", "1x2x3x4", "0x64", "wide", None, [64, 64]])
def test_anything_else_is_refused_and_the_message_shows_both_forms(wrong: object) -> None:
    with pytest.raises(ValidationError, match=r"64 \(a square\).*HEIGHTxWIDTH"):
        Holder.model_validate({"size": wrong})


def test_the_shape_has_channels_first_then_height_and_width() -> None:
    assert ImageSize.of("720x1280").shape == (3, 720, 1280)
    assert ImageSize.of("8x9x5").shape == (5, 8, 9)
    assert f"{ImageSize(720, 1280)}" == "720x1280"
