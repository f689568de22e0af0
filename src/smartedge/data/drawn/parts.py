"""The parts of a drawn face, painted back to front, a chunk of images at a time.

Letters as in :mod:`smartedge.data.drawn.canvas`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smartedge.data.drawn.canvas import Canvas, Floats

__all__ = ["ATTRIBUTES", "Face"]

ATTRIBUTES = ("mouth_open", "smile", "makeup", "beard", "glasses", "hat", "long_hair", "masculine")
_GRID = 6  # the background's colours: a random grid of this many cells each way, interpolated


class Face(Canvas):
    """One chunk of faces.

    Args:
        uniforms: every random number of each image, float32 (B, 256) in [0, 1); the first eight decided the attributes.
        attributes: bool (B, 8), in the order of :data:`ATTRIBUTES`.
        grain: of each image, S × S random bytes.
        image_size: S, pixels.
    """

    def __init__(self, uniforms: Floats, attributes: NDArray[np.bool_], grain: list[bytes], image_size: int) -> None:
        super().__init__(uniforms, dict(zip(ATTRIBUTES, attributes.T, strict=True)), grain, image_size)

    def paint(self) -> NDArray[np.uint8]:
        """uint8 (B, S, S, 3)."""
        self.pose()
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
