"""Fills in a template and writes it as one HTML file. The file contains its images and loads nothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smartedge.files import write_atomically
from smartedge.lab.judging.text import (
    at_most,
    count,
    number,
    percent,
    points,
    ratio,
    seconds,
    short_number,
    size,
    upper_number,
)

__all__ = ["data_uri", "write_page"]

# One for all pages, since it keeps templates that were compiled.
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FunctionLoader(lambda name: (resources.files(__package__) / name).read_text(encoding="utf-8")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters.update(percent=percent, at_most=at_most, points=points, size=size, seconds=seconds, count=count)
_ENVIRONMENT.filters.update(number=number, ratio=ratio, short_number=short_number, upper_number=upper_number)


def write_page(path: Path, template: str, page: Mapping[str, Any]) -> Path:
    """Fill in a template of this package and write it to ``path``. Texts are escaped, so none can become HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _ENVIRONMENT.get_template(template).render(page))
    return path


def data_uri(pixels_CHW: NDArray[np.uint8]) -> str:
    """An image as a data URI. Up to 64 pixels it is a PNG; a larger one becomes a JPEG of at most 160 pixels.

    This keeps the page small.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))
    form = "png" if max(image.size) <= 64 else "jpeg"
    image.thumbnail((160, 160))
    target = io.BytesIO()
    image.save(target, form, quality=88, optimize=True)
    return f"data:image/{form};base64,{base64.b64encode(target.getvalue()).decode()}"
