"""The size of the images that a network gets: one small type for settings, files and functions."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

__all__ = ["MOST_CHANNELS", "RGB", "ImageSize", "SizeField"]

RGB = 3  # channels where nothing is said
MOST_CHANNELS = 16


class ImageSize(NamedTuple):
    """Height and width in pixels, and the number of channels.

    In settings and files a square is one whole number (``64``) and a rectangle a text (``720x1280``). Other channels
    than red, green and blue follow as a third number (``64x64x1``).
    """

    height: int
    width: int
    channels: int = RGB

    @classmethod
    def of(cls, value: object) -> ImageSize:
        """The size that a number, a text or a size stands for.

        Raises:
            ValueError: it is none.
        """
        if isinstance(value, ImageSize):
            return value
        text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if re.fullmatch(r"[1-9]\d{0,5}", text):
            return cls(int(text), int(text))
        if match := re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})(?:x([1-9]\d{0,2}))?", text):
            return cls(int(match[1]), int(match[2]), int(match[3] or RGB))
        raise ValueError(
            f"{value!r} is no size of an image; write pixels as 64 (a square) or as HEIGHTxWIDTH, 720x1280; where "
            "there are other channels than red, green and blue, as HEIGHTxWIDTHxCHANNELS, 64x64x1"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width): the shape of one image as networks take it."""
        return self.channels, self.height, self.width

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def plain(self) -> int | str:
        """As settings and files have it."""
        return self.height if self == (self.height, self.height, RGB) else str(self)

    def __str__(self) -> str:
        return f"{self.height}x{self.width}" + (f"x{self.channels}" if self.channels != RGB else "")


SizeField = Annotated[
    ImageSize,
    PlainValidator(ImageSize.of),
    PlainSerializer(lambda size: size.plain, return_type=int | str),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+x\d+(x\d+)?$"}]}),
]
"""Of a model: a field that holds an :class:`ImageSize`."""
