"""The embedded faces: drawn by formula, so that every attribute is known and independent of all the others.

Eight yes/no attributes, each a fair coin of its own: protecting one of them perfectly means that nobody guesses it
better than chance, whatever else is known about the image. Everything else about a face (pose, light, skin, hair,
clothes, background, noise) is drawn independently of the attributes.

An image is a function of ``(seed, split, index)``. It is painted back to front with soft-edged shapes, a chunk of
images at a time, at the size asked for.

Letters: ``x, y`` are image coordinates (-1..1, y down); ``u, v`` the coordinates of the face (the head is about 1 wide
and 1.3 high, the eyes near v = -0.1, the mouth near v = 0.32); ``B`` images in a chunk; ``S`` the image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from smartedge.data.raw import Images, RawData, RawSplit
from smartedge.types import SplitName

__all__ = ["ATTRIBUTES", "DEFAULT_COUNTS", "draw", "open_drawn"]

ATTRIBUTES = ("mouth_open", "smile", "makeup", "beard", "glasses", "hat", "long_hair", "masculine")
DEFAULT_COUNTS: dict[SplitName, int] = {"train": 4000, "val": 500, "test": 1000}
VERSION = 1  # raise it when a drawing changes, so that cached images are drawn again
CHUNK = 32  # small enough that the arrays of a chunk stay in the processor's cache

_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_GRID = 6  # the background's colours: a random grid of this many cells each way, interpolated

Floats = NDArray[Any]  # float32


def open_drawn(image_size: int, counts: dict[SplitName, int] | None = None) -> RawData:
    """The embedded data set: always the same faces, whatever the seed of a run.

    Args:
        image_size: height and width at which the faces are drawn, pixels.
        counts: how many images a split has, where it is not :data:`DEFAULT_COUNTS`.
    """
    splits: dict[SplitName, RawSplit] = {}
    for split, count in {**DEFAULT_COUNTS, **(counts or {})}.items():
        table = pa.table(dict(zip(ATTRIBUTES, _attributes(_uniforms(0, split, np.arange(count))).T, strict=True)))
        images = Images(count, key=f"drawn {VERSION} {split}", items=_Drawing(split, count, image_size))
        splits[split] = RawSplit.from_table(images, table)
    return RawData("drawn", splits)


class _Drawing:
    """Yields the images of one split, each uint8 (S, S, 3)."""

    def __init__(self, split: SplitName, count: int, image_size: int) -> None:
        self.split: SplitName = split
        self.count = count
        self.image_size = image_size

    def __call__(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, self.count, CHUNK):
            indices = np.arange(start, min(start + CHUNK, self.count))
            yield from draw(indices, split=self.split, image_size=self.image_size)[0]


def draw(
    indices: NDArray[np.int64], *, split: SplitName = "train", image_size: int = 64, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw some faces.

    Args:
        indices: which ones, int64 (N,); image ``i`` is the same whatever is drawn along with it.
        split: faces of different splits have nothing in common.
        image_size: height and width, pixels.
        seed: another seed, another data set.

    Returns:
        Images uint8 (N, S, S, 3) and their attributes bool (N, 8) in the order of :data:`ATTRIBUTES`.
    """
    images = np.empty((len(indices), image_size, image_size, 3), np.uint8)
    uniforms = _uniforms(seed, split, indices)
    for start in range(0, len(indices), CHUNK):
        stop = start + CHUNK
        grain = [_generator(seed, split, int(i), 1).bytes(image_size * image_size) for i in indices[start:stop]]
        images[start:stop] = _Face(uniforms[start:stop], grain, image_size).paint()
    return images, _attributes(uniforms)


def _generator(seed: int, split: SplitName, index: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, _SPLITS.index(split), index, stream))))


def _uniforms(seed: int, split: SplitName, indices: NDArray[np.int64]) -> Floats:
    """Every random number of some images, float32 (N, 256) in [0, 1); the first eight are the attributes' coins."""
    rows = [_generator(seed, split, int(i), 0).random(256, dtype=np.float32) for i in indices]
    return np.stack(rows) if rows else np.empty((0, 256), np.float32)


def _attributes(uniforms: Floats) -> NDArray[np.bool_]:
    return uniforms[:, : len(ATTRIBUTES)] < 0.5


class _Face:
    """One chunk of faces while it is being painted."""

    def __init__(self, uniforms: Floats, grain: list[bytes], image_size: int) -> None:
        self.S = image_size
        self.B = len(uniforms)
        self.uniforms = uniforms
        self.used = len(ATTRIBUTES)
        self.grain = np.frombuffer(b"".join(grain), np.uint8).reshape(self.B, self.S, self.S)
        self.on: dict[str, Floats] = {
            name: column.astype(np.float32) for name, column in zip(ATTRIBUTES, _attributes(uniforms).T, strict=True)
        }
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
        return np.asarray(dark, np.float32) * (1 - t) + np.asarray(light, np.float32) * t + self.colour(*_TINT)

    def palette(self, *colours: tuple[float, float, float]) -> Floats:
        """(B, 3), one of the colours given, with a little variation of its own."""
        choice = np.minimum((self.between(0, 1) * len(colours)).astype(np.int64), len(colours) - 1)
        return np.asarray(colours, np.float32)[choice] + self.colour(*_TINT)

    # Painting.

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

    def paint(self) -> NDArray[np.uint8]:
        """uint8 (B, S, S, 3)."""
        self._pose()
        self._background()
        self._traits()
        self._behind()
        self._head()
        self._eyes()
        self._nose_and_cheeks()
        self._beard()
        self._mouth()
        self._hair_and_hat()
        self._glasses()
        return self._light()

    def _pose(self) -> None:
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

    def _background(self) -> None:
        cells = np.linspace(-0.5, _GRID - 0.5, self.S, dtype=np.float32).clip(0, _GRID - 1)
        near = np.minimum(cells.astype(np.int64), _GRID - 2)
        spread = np.zeros((self.S, _GRID), np.float32)
        spread[np.arange(self.S), near] = 1 - (cells - near)
        spread[np.arange(self.S), near + 1] += cells - near
        base = self.colour((0.15, 0.15, 0.15), (0.85, 0.85, 0.85))
        base += (base.mean(axis=1, keepdims=True) - base) * self.between(0, 0.9)[:, None]
        contrast = self.between(0.05, 0.35)
        grid = np.stack([self.between(-1, 1) for _ in range(_GRID * _GRID)], axis=1).reshape(self.B, 1, _GRID, _GRID)
        tint = self.colour((0.4, 0.4, 0.4), (1, 1, 1))
        relief = spread @ grid @ spread.T
        self.canvas_BCHW[:] = relief * (tint * contrast[:, None])[:, :, None, None] + base[:, :, None, None]
        direction, frequency, phase = self.between(0, np.pi), self.between(4, 16), self.between(0, 2 * np.pi)
        strength = self.between(-0.12, 0.12)
        along = (np.cos(direction) * frequency)[:, None, None] * self.x[:, :1, :]
        down = (np.sin(direction) * frequency)[:, None, None] * self.y[:, :, :1] + phase[:, None, None]
        # sin(a + b) from the sines of the two axes, each of which is one line of pixels
        stripes = np.sin(along) * np.cos(down) + np.cos(along) * np.sin(down)
        self.canvas_BCHW += (stripes * strength[:, None, None])[:, None]

    def _traits(self) -> None:
        """What several parts of the face share."""
        self.skin = self.blend((0.28, 0.17, 0.11), (0.96, 0.78, 0.66))
        self.hair = self.palette(
            (0.06, 0.05, 0.05),
            (0.16, 0.1, 0.06),
            (0.35, 0.2, 0.1),
            (0.75, 0.58, 0.3),
            (0.55, 0.24, 0.1),
            (0.6, 0.6, 0.6),
        )
        self.width = self.between(0.42, 0.5)  # of half the head
        self.crown = self.between(-0.66, -0.58)
        self.chin = self.between(0.58, 0.66)

    def _behind(self) -> None:
        """Long hair that falls behind the neck, neck, shoulders."""
        length, spread = self.between(0.6, 0.95), self.between(0.1, 0.2)
        at = self.window(-0.75, -0.65, 0.75, 1.6)
        fall = self.ellipse(at, 0, length - 0.44, self.width + spread, length, power=4.0)
        self.lay(at, fall * self.on["long_hair"][:, None, None], self.hair * 0.8)
        clothes = self.colour((0.05, 0.05, 0.05), (0.95, 0.95, 0.95))
        at = self.window(-1.05, 0.75, 1.05, 2.5)
        self.lay(at, self.ellipse(at, 0, 1.45, self.between(0.75, 1.0), 0.65, power=4.0), clothes)
        neck = self.either("masculine", (0.18, 0.23), (0.27, 0.33))
        at = self.window(-0.4, 0.2, 0.4, 1.0)
        self.lay(at, self.ellipse(at, 0, 0.62, neck, 0.34, power=4.0), self.skin * 0.82)

    def _head(self) -> None:
        at = self.face = self.window(-0.7, -0.85, 0.7, 0.8)
        for side in (-1, 1):
            ear = self.ellipse(at, side * self.width - self.yaw * 0.4, 0.02, 0.07, 0.13)
            self.lay(at, ear * (1 - 0.8 * self.on["long_hair"][:, None, None]), self.skin * 0.88)
        # Below the cheeks the outline narrows: to a pointed chin, or hardly, to a square jaw.
        square = self.either("masculine", (0.0, 0.12), (0.72, 0.95))[:, None, None]
        taper = self.either("masculine", (0.34, 0.44), (0.03, 0.1))[:, None, None]
        centre = ((self.crown + self.chin) / 2)[:, None, None]
        height = ((self.chin - self.crown) / 2)[:, None, None]
        v = (self.v[at] - centre) / height
        low = np.clip(v, 0, 1)
        u = self.u[at] / (self.width[:, None, None] * (1 - taper * low * low))
        self.head_u, self.head_v = u, v
        u2, v2 = u * u, v * v
        round_, box = np.sqrt(u2 + v2), np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
        low *= square
        distance = (round_ + (box - round_) * low - 1) * self.width[:, None, None]
        self.head = self.soft(distance)
        self.lay(at, self.head, self.skin)

    def _eyes(self) -> None:
        at = self.window(-0.55, -0.45, 0.55, 0.15)
        apart, level = self.between(0.19, 0.24), self.between(-0.13, -0.07) + self.nod
        wide, high = self.between(0.075, 0.105), self.between(0.032, 0.058)
        iris = self.palette((0.1, 0.06, 0.04), (0.3, 0.17, 0.08), (0.2, 0.4, 0.65), (0.2, 0.42, 0.25))
        gaze_u, gaze_v = self.between(-0.03, 0.03), self.between(-0.012, 0.012)
        shadow = self.palette(
            (0.45, 0.15, 0.55), (0.1, 0.3, 0.65), (0.1, 0.45, 0.4), (0.6, 0.25, 0.15), (0.85, 0.4, 0.6)
        )
        shadow_strength = self.between(0.6, 0.9) * self.on["makeup"]
        lashes = self.either("makeup", (0.006, 0.012), (0.018, 0.026))
        brow_gap = self.either("masculine", (0.15, 0.19), (0.085, 0.115))
        brow_thick = self.either("masculine", (0.014, 0.022), (0.04, 0.056))
        brow_arch = self.either("masculine", (-0.075, -0.045), (-0.02, 0.005))
        brow_tilt, brow_length = self.between(-0.03, 0.03), self.between(0.12, 0.15)
        white = np.broadcast_to(np.array([0.93, 0.93, 0.92], np.float32), (self.B, 3))
        dark = self.hair * 0.25
        for side in (-1, 1):
            cu = side * apart + self.yaw
            self.lay(
                at,
                self.ellipse(at, cu, level - high, wide * 1.3, high * 1.9) * shadow_strength[:, None, None],
                shadow,
            )
            eye = self.ellipse(at, cu, level, wide, high)
            self.lay(at, eye, white)
            self.lay(at, self.ellipse(at, cu + gaze_u, level + gaze_v, high * 1.05, high * 1.05) * eye, iris)
            self.lay(at, self.band(at, cu, level, wide * 1.1, -high * 1.1, 0.0, lashes), dark)
            brow = self.band(at, cu, level - brow_gap, brow_length, brow_arch, side * brow_tilt, brow_thick)
            self.lay(at, brow * 0.9, self.hair * 0.7)

    def _nose_and_cheeks(self) -> None:
        at = self.window(-0.5, -0.2, 0.5, 0.4)
        tip, side = self.between(0.1, 0.17) + self.nod * 1.5, self.between(-1, 1)
        wide = self.either("masculine", (0.05, 0.065), (0.085, 0.105))
        middle = self.yaw * 1.5
        bridge = self.ellipse(at, middle + 0.035 * np.sign(side), tip - 0.12, 0.02, 0.13)
        self.shade(at, bridge, 0.06 + 0.14 * np.abs(side))
        self.shade(at, self.band(at, middle, tip + 0.005, wide, 0.03, 0.0, 0.013), self.between(0.25, 0.4))
        blush = self.palette((0.9, 0.35, 0.35), (0.85, 0.3, 0.45), (0.8, 0.35, 0.25))
        strength = self.between(0.3, 0.5) * self.on["makeup"]
        for cheek in (-1, 1):
            spot = self.ellipse(at, cheek * 0.29 + self.yaw, 0.14 + self.nod, 0.12, 0.09)
            self.lay(at, spot * strength[:, None, None], blush)

    def _beard(self) -> None:
        at = self.window(-0.65, 0.0, 0.65, 0.8)
        rise, dense = self.between(0.02, 0.14), self.between(0.75, 0.95)
        top = (self.between(0.17, 0.22) + self.nod)[:, None, None]
        narrow = self.between(0.0, 1.0) < 0.35  # a goatee instead of a full beard
        rows = slice(at[1].start - self.face[1].start, at[1].stop - self.face[1].start)
        columns = slice(at[2].start - self.face[2].start, at[2].stop - self.face[2].start)
        head_u, head = self.head_u[:, rows, columns], self.head[:, rows, columns]
        line = top - (rise[:, None, None] + 0.05) * head_u * head_u * np.abs(head_u)
        beard = self.soft((line - self.v[at]) * 0.5) * head
        beard *= np.where(narrow[:, None, None], self.ellipse(at, self.yaw * 0.8, 0.46, 0.25, 0.3), 1)
        beard *= (0.75 + self.grain[at] * np.float32(0.5 / 255)) * (dense * self.on["beard"])[:, None, None]
        self.lay(at, np.minimum(beard, 1), self.hair * 0.75)

    def _mouth(self) -> None:
        at = self.window(-0.4, 0.1, 0.4, 0.62)
        middle, level = self.yaw * 1.1, self.between(0.3, 0.38) + self.nod
        half = self.between(0.16, 0.2) + self.between(0.0, 0.04) * self.on["smile"]
        bend = self.either("smile", (-0.07, -0.015), (0.085, 0.14))  # positive: the corners are higher than the middle
        tilt = self.between(-0.012, 0.012)
        gap = self.between(0.05, 0.085) * self.on["mouth_open"]
        lips = self.between(0.026, 0.04)
        natural = self.skin * np.array([0.82, 0.6, 0.58], np.float32)
        lipstick = self.palette((0.75, 0.05, 0.12), (0.85, 0.15, 0.4), (0.5, 0.05, 0.25), (0.9, 0.3, 0.2))
        made_up = self.on["makeup"][:, None]
        colour = natural * (1 - made_up) + lipstick * made_up
        teeth = self.colour((0.78, 0.76, 0.7), (0.95, 0.95, 0.92))
        self.lay(at, self.band(at, middle, level, half, bend, tilt, lips + gap), colour)
        inside = self.on["mouth_open"][:, None, None]
        mouth = self.band(at, middle, level, half * 0.9, bend, tilt, gap) * inside
        self.lay(at, mouth, np.broadcast_to(np.array([0.16, 0.03, 0.04], np.float32), (self.B, 3)))
        shows = self.between(0.2, 0.75)[:, None, None]
        upper = self.band(at, middle, level - gap * 0.62, half * 0.8, bend, tilt, gap * 0.4)
        self.lay(at, upper * mouth * shows, teeth)
        closed = self.band(at, middle, level, half, bend, tilt, 0.008) * (1 - inside)
        self.lay(at, closed, self.skin * 0.3)
        for side in (-1, 1):  # a fold beside the mouth of a smile, a fainter one by chance without
            fold = self.band(at, middle + side * (half + 0.045), level - 0.03, 0.035, 0.0, side * 0.06, 0.012)
            self.shade(at, fold, self.either("smile", (0.0, 0.2), (0.1, 0.3)))

    def _hair_and_hat(self) -> None:
        at = self.window(-0.85, -1.1, 0.85, 0.6)
        hairline, part = self.between(-0.46, -0.33), self.between(-0.25, 0.25)
        thick = self.between(0.03, 0.1)
        curve = self.between(0.2, 0.7)
        du = self.u[at] - part[:, None, None]
        edge = (
            hairline[:, None, None] + curve[:, None, None] * du * du + 0.02 * np.sin(du * 25 + part[:, None, None] * 40)
        )
        cap = self.ellipse(at, 0, -0.1, self.width + thick, -self.crown - 0.1 + thick)
        self.lay(at, cap * self.soft(self.v[at] - edge), self.hair)
        # Long hair comes down in front of the ears.
        inner = self.width * self.between(0.86, 0.94)
        tress = self.between(0.1, 0.17)
        for side in (-1, 1):
            lock = self.ellipse(at, side * (inner + tress * 0.5), 0.2, tress * 0.75, 0.55, power=4.0)
            self.lay(at, lock * self.on["long_hair"][:, None, None], self.hair * 0.92)
        on = self.on["hat"][:, None, None]
        cloth = self.colour((0.05, 0.05, 0.05), (0.95, 0.95, 0.95))
        brim_half, brim_level = self.between(0.5, 0.78), self.between(-0.42, -0.34)
        tall = self.between(0.3, 0.5)
        dome = self.ellipse(at, 0, brim_level, self.width + 0.1, tall, power=4.0) * self.soft(
            self.v[at] - brim_level[:, None, None]
        )
        self.lay(at, dome * on, cloth)
        brim = self.band(at, 0, brim_level, brim_half, self.between(-0.06, 0.06), 0.0, self.between(0.025, 0.05))
        self.lay(at, brim * on, cloth * 0.55)

    def _glasses(self) -> None:
        at = self.window(-0.65, -0.4, 0.65, 0.25)
        on = self.on["glasses"][:, None, None]
        frame = self.palette((0.05, 0.05, 0.05), (0.3, 0.15, 0.08), (0.6, 0.1, 0.1), (0.75, 0.72, 0.6))
        wide, high = self.between(0.145, 0.175), self.between(0.1, 0.14)
        thick, tint = self.between(0.02, 0.032), self.between(0.0, 0.35)
        level = self.between(-0.1, -0.06) + self.nod
        angular = (self.between(0, 1) < 0.5)[:, None, None]
        for side in (-1, 1):
            cu = side * 0.215 + self.yaw
            outer, inner = (
                np.where(
                    angular,
                    self.ellipse(at, cu, level, wide - less, high - less, power=4.0),
                    self.ellipse(at, cu, level, wide - less, high - less),
                )
                for less in (0.0, thick)
            )
            self.shade(at, inner * on, tint)
            self.lay(at, (outer - inner) * on, frame)
        self.lay(at, self.band(at, self.yaw, level - 0.02, 0.075, -0.02, 0.0, 0.014) * on, frame)

    def _light(self) -> NDArray[np.uint8]:
        """Light from one side on the head and on the whole picture, its colour, a gain, grain; then to uint8."""
        towards_x, towards_y = self.between(-0.3, 0.3), self.between(-0.3, 0.1)
        relief = np.clip(self.head_u, -1, 1) * towards_x[:, None, None]
        relief += np.clip(self.head_v, -1, 1) * towards_y[:, None, None]
        relief *= self.head
        relief += 1
        self.canvas_BCHW[:, :, self.face[1], self.face[2]] *= relief[:, None]
        slope_x, slope_y = self.between(-0.3, 0.3), self.between(-0.3, 0.3)
        field = self.x * slope_x[:, None, None] + self.y * slope_y[:, None, None]
        field += self.between(0.75, 1.2)[:, None, None]
        grain = (self.grain.astype(np.float32) - 127.5) * (self.between(0.01, 0.07) / 127.5)[:, None, None]
        tone = self.colour((0.88, 0.92, 0.86), (1.08, 1.0, 1.06))
        images = np.empty((self.B, self.S, self.S, 3), np.uint8)
        for channel in range(3):
            values = self.canvas_BCHW[:, channel] * field
            values *= tone[:, channel, None, None]
            values += grain
            values *= 255
            values += 0.5
            images[..., channel] = np.clip(values, 0, 255)
        return images


_TINT = ((-0.04, -0.04, -0.04), (0.04, 0.04, 0.04))
