"""A canvas for drawn faces: random numbers, coordinates, and soft-edged shapes.

Letters: ``x, y`` are image coordinates (-1..1, y down); ``u, v`` the coordinates of the face (the head is about 1 wide
and 1.3 high, the eyes near v = -0.1, the mouth near v = 0.32); ``B`` images in a chunk; ``S`` the image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Canvas", "Floats"]

Floats = NDArray[Any]  # float32

_TINT = ((-0.04, -0.04, -0.04), (0.04, 0.04, 0.04))


class Canvas:
    """A chunk of images while faces are painted on them, and the random numbers that say how.

    Attributes:
        on: attribute → float32 (B,), 1 where the face has it.
        canvas_BCHW: float32 pixels, about 0..1.
    """

    def __init__(
        self, uniforms: Floats, on: Mapping[str, NDArray[np.bool_]], grain: list[bytes], image_size: int
    ) -> None:
        self.S = image_size
        self.B = len(uniforms)
        self.uniforms = uniforms
        self.used = len(on)  # the first numbers decided the attributes
        self.grain = np.frombuffer(b"".join(grain), np.uint8).reshape(self.B, self.S, self.S)
        self.on: dict[str, Floats] = {name: flags.astype(np.float32) for name, flags in on.items()}
        axis = ((np.arange(self.S, dtype=np.float32) + 0.5) * 2 / self.S - 1).astype(np.float32)
        self.y = np.broadcast_to(axis[None, :, None], (self.B, self.S, self.S))
        self.x = np.broadcast_to(axis[None, None, :], (self.B, self.S, self.S))
        self.canvas_BCHW: Floats = np.empty((self.B, 3, self.S, self.S), np.float32)

    # Random numbers: taken in a fixed order, the same for every image, so that attributes never shift them.

    def between(self, low: float, high: float) -> Floats:
        """(B,), uniform."""
        column = self.uniforms[:, self.used]
        self.used += 1
        return (low + (high - low) * column).astype(np.float32)

    def either(self, name: str, no: tuple[float, float], yes: tuple[float, float]) -> Floats:
        """(B,), uniform in the range that goes with the attribute."""
        without, with_it = self.between(*no), self.between(*yes)
        return np.where(self.on[name] > 0, with_it, without)

    def colour(self, low: tuple[float, float, float], high: tuple[float, float, float]) -> Floats:
        """(B, 3), each channel uniform in its own range."""
        return np.stack([self.between(a, b) for a, b in zip(low, high, strict=True)], axis=1)

    def blend(self, dark: tuple[float, float, float], light: tuple[float, float, float]) -> Floats:
        """(B, 3), a colour on the way from one to the other, with a little variation of its own."""
        t = self.between(0, 1)[:, None]
        between: Floats = np.asarray(dark, np.float32) * (1 - t) + np.asarray(light, np.float32) * t
        return between + self.colour(*_TINT)

    def palette(self, *colours: tuple[float, float, float]) -> Floats:
        """(B, 3), one of the colours given, with a little variation of its own."""
        choice = np.minimum((self.between(0, 1) * len(colours)).astype(np.int64), len(colours) - 1)
        return np.asarray(colours, np.float32)[choice] + self.colour(*_TINT)

    # Painting.

    def pose(self) -> None:
        """Choose how the face is turned, and lay its coordinates (u, v) over the image."""
        angle = self.between(-0.22, 0.22)
        self.cos, self.sin = np.cos(angle), np.sin(angle)
        self.scale = self.between(1.0, 1.3)
        self.shift_x, self.shift_y = self.between(-0.14, 0.14), self.between(-0.08, 0.16)
        self.yaw = self.between(-0.07, 0.07)  # how far eyes, nose and mouth slide sideways over the head
        self.nod = self.between(-0.04, 0.04)
        self.pixel = (2 / (self.S * self.scale)).reshape(-1, 1, 1).astype(np.float32)
        cos, sin, scale, shift_x, shift_y = (
            a[:, None, None] for a in (self.cos, self.sin, self.scale, self.shift_x, self.shift_y)
        )
        dx, dy = (self.x - shift_x) / scale, (self.y - shift_y) / scale
        self.u, self.v = cos * dx + sin * dy, cos * dy - sin * dx

    def window(self, u0: float, v0: float, u1: float, v1: float) -> tuple[slice, slice, slice]:
        """The rows and columns of the image in which a part of the face can lie, over all images of the chunk."""
        u, v = np.array([u0, u1, u0, u1], np.float32), np.array([v0, v0, v1, v1], np.float32)
        cos, sin = self.cos[:, None], self.sin[:, None]
        x = self.shift_x[:, None] + self.scale[:, None] * (cos * u - sin * v)
        y = self.shift_y[:, None] + self.scale[:, None] * (sin * u + cos * v)
        column0, row0 = (int(np.clip((a.min() + 1) * self.S / 2 - 1, 0, self.S - 1)) for a in (x, y))
        column1, row1 = (int(np.clip((a.max() + 1) * self.S / 2 + 2, 1, self.S)) for a in (x, y))
        return slice(None), slice(row0, row1), slice(column0, column1)

    def soft(self, distance: Floats) -> Floats:
        """Signed distance (negative inside) to opacity: an edge one pixel wide."""
        alpha = distance * (-1 / self.pixel)
        alpha += 0.5
        return np.clip(alpha, 0, 1, out=alpha)

    def ellipse(self, at: Any, cu: Any, cv: Any, ru: Any, rv: Any, power: float = 2.0) -> Floats:
        """Opacity of an ellipse (``power`` 2) or a rounded box (``power`` 4) in the window ``at``."""
        cu, cv, ru, rv = (np.asarray(a, np.float32).reshape(-1, 1, 1) for a in (cu, cv, ru, rv))
        du, dv = self.u[at] - cu, self.v[at] - cv
        du *= 1 / ru
        dv *= 1 / rv
        du *= du
        dv *= dv
        if power == 4.0:
            du *= du
            dv *= dv
        du += dv
        np.sqrt(du, out=du)
        if power == 4.0:
            np.sqrt(du, out=du)
        du -= 1
        du *= np.minimum(ru, rv)
        return self.soft(du)

    def band(self, at: Any, cu: Any, cv: Any, half: Any, bend: Any, tilt: Any, thick: Any) -> Floats:
        """Opacity of a curved stroke that thins out towards its ends.

        Its middle line is ``v = cv + bend (1 - t²) + tilt t`` with ``t = (u - cu) / half`` from -1 to 1.
        """
        cu, cv, half, bend, tilt, thick = (
            np.asarray(a, np.float32).reshape(-1, 1, 1) for a in (cu, cv, half, bend, tilt, thick)
        )
        t = self.u[at] - cu
        t *= 1 / half
        bulge = t * t
        np.subtract(1, bulge, out=bulge)
        line = self.v[at] - cv
        line -= bulge * bend
        t *= tilt
        line -= t
        np.abs(line, out=line)
        bulge *= 4 * thick
        np.minimum(bulge, thick, out=bulge)
        line -= bulge
        return self.soft(line)

    def lay(self, at: tuple[slice, slice, slice], alpha: Floats, colour_BC: Floats) -> None:
        """Paint a colour over the window ``at``."""
        region = self.canvas_BCHW[:, :, at[1], at[2]]
        for channel in range(3):
            layer = colour_BC[:, channel, None, None] - region[:, channel]
            layer *= alpha
            region[:, channel] += layer

    def shade(self, at: tuple[slice, slice, slice], alpha: Floats, amount: Any) -> None:
        """Darken (``amount`` > 0) the window ``at``."""
        self.canvas_BCHW[:, :, at[1], at[2]] *= (1 - alpha * np.asarray(amount, np.float32).reshape(-1, 1, 1))[:, None]
