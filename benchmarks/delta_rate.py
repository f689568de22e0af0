"""Bytes of one curve of rate and accuracy against those of another one, at equal accuracy.

The Bjøntegaard delta rate (*Calculation of average PSNR differences between RD-curves*, VCEG-M33, 2001), with accuracy
in place of PSNR, and cubic Hermite pieces in place of one cubic, as in ITU-T HSTP-VID-WPOM (2020). With r(a) the bytes
at accuracy a, the mean over the accuracies that both curves reach,

    D = mean of log r(a) - log r_other(a)   over a,   given as exp(D) - 1.

Of each curve the points count that no other point of it beats in both bytes and accuracy: accuracies have noise, and a
curve must rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

__all__ = ["Points", "bytes_at", "compared", "delta_rate", "frontier"]

Points = Sequence[tuple[float, float]]  # bytes, accuracy


def frontier(points: Points) -> list[tuple[float, float]]:
    """The points that no other one beats in both, with bytes and accuracy ascending."""
    kept: list[tuple[float, float]] = []
    for bytes_, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((bytes_, accuracy))
    return kept


def delta_rate(ours: Points, other: Points) -> float | None:
    """Bjøntegaard delta rate of one curve to another, as a share; None where they share no accuracy.

    Negative: ours takes fewer bytes at equal accuracy.
    """
    curves = [frontier(points) for points in (ours, other)]
    if any(len(curve) < 2 for curve in curves):
        return None
    low = max(curve[0][1] for curve in curves)
    high = min(curve[-1][1] for curve in curves)
    if low >= high:
        return None
    mine, theirs = (mean_log_rate(curve, low, high) for curve in curves)
    return float(np.exp(mine - theirs) - 1)


def mean_log_rate(curve: Points, low: float, high: float) -> float:
    """Mean of the logarithm of the bytes over an interval of accuracies, by cubic Hermite pieces."""
    accuracies, logs = np.array([a for _, a in curve]), np.log([b for b, _ in curve])
    return float(PchipInterpolator(accuracies, logs).integrate(low, high)) / (high - low)


def bytes_at(points: Points, accuracy: float) -> float | None:
    """Bytes at an accuracy; None where the curve does not reach it. Below its least bytes: those."""
    curve = frontier(points)
    if accuracy > curve[-1][1]:
        return None
    if accuracy <= curve[0][1]:
        return curve[0][0]
    logs = np.log([b for b, _ in curve])
    return float(np.exp(PchipInterpolator([a for _, a in curve], logs)(accuracy)))


def compared(found: list[dict[str, Any]], tasks: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of rate_accuracy.py by task: features in few bits, and by the learned codec, against each kind of images."""
    rows = []
    for task in tasks:
        curves: dict[str, list[tuple[float, float]]] = {}
        for each in (each for each in found if each["task"] == task):
            kind = each["codec"].partition("-")[0]
            if each["sent"] == "plain" or kind in ("image", "float32"):
                continue
            name = kind if each["sent"] == "image" or kind == "learned" else "few bits"
            curves.setdefault(name, []).append((each["bytes_up_per_image"], each["test"]["balanced_accuracy"]))
        for ours in ("few bits", "learned"):
            for other in ("few bits", "jpeg", "webp", "avif"):
                if ours in curves and other in curves and ours != other:
                    delta = delta_rate(curves[ours], curves[other])
                    best = max(accuracy for _, accuracy in curves[other])
                    needed = bytes_at(curves[ours], best)
                    at_best = min(bytes_ for bytes_, accuracy in curves[other] if accuracy == best)
                    rows.append(
                        {
                            "task": task,
                            "features": ours,
                            "against": other,
                            "delta rate %": "" if delta is None else f"{100 * delta:+.0f}",
                            "best of it %": f"{100 * best:.2f}",
                            "its B/image there": f"{at_best:.0f}",
                            "B/image of features there": "" if needed is None else f"{needed:.0f}",
                        }
                    )
    return rows
