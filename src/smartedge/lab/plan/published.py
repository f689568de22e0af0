"""Machines that cannot be measured: a measured profile is scaled by their published throughput and power.

A scaled profile is less certain than a measured one, and says that it is scaled. All steps get one factor, as if the
machine were the measured one with a slower or faster clock. The published figures are in the machine's file, with the
sources.
"""

from __future__ import annotations

from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from smartedge.artifacts.profile import CodecFigures, CutFigures, Profile, Timing, WholeFigures
from smartedge.errors import ConfigError

__all__ = ["PublishedDevice", "device_names", "load_device", "scale"]

# A training step counts as three forward passes: backward computes gradients of inputs and of parameters.
_STEP_FORWARDS = 3
_STEPS = (
    "front_step",
    "front_forward",
    "split_forward",
    "split_backward",
    "back_step",
    "back_step_gradient",
    "back_forward",
)


class PublishedDevice(BaseModel):
    """One file of ``plan/devices/``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Literal["edge", "cloud"]  # its usual side; it may also be used for the other side
    what: str
    computes_on: Literal["cpu", "gpu"]  # with a GPU, codecs still run on the host, and their measured times are kept
    peak_gflops: float = Field(gt=0)  # float32, published
    utilisation: float = Field(gt=0, le=1)  # share of it that training reaches: an assumption
    watts: float = Field(gt=0)  # under load
    memory_bytes: int = Field(gt=0)
    sources: tuple[str, ...] = Field(min_length=1)
    note: str


def device_names() -> tuple[str, ...]:
    """Names of the machines that ship with the package."""
    folder = resources.files("smartedge.lab.plan") / "devices"
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml")))


def load_device(name: str) -> PublishedDevice:
    """The machine of that name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in device_names():
        raise ConfigError(
            f"{name!r} is neither a profile file nor a machine known here; give a file that 'smartedge profile' wrote, "
            f"or one of {', '.join(device_names())}"
        )
    text = (resources.files("smartedge.lab.plan") / "devices" / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return PublishedDevice.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise ConfigError(f"plan/devices/{name}.yaml: {error}") from error


def scale(profile: Profile, device: PublishedDevice) -> Profile:
    """``profile``, scaled to another machine by published throughput.

    Raises:
        ConfigError: no operation of the profile's network is counted, so that there is no throughput to compare.
    """
    if profile.whole.flops == 0 or profile.whole.step.seconds == 0:
        raise ConfigError(
            f"--edge, --cloud: {device.name} cannot be compared with this machine: no operation of this network is "
            "counted; measure a profile on it with 'smartedge profile'"
        )
    measured = _STEP_FORWARDS * profile.whole.flops / profile.whole.step.seconds
    factor = measured / (device.peak_gflops * 1e9 * device.utilisation)
    host = factor if device.computes_on == "cpu" else 1.0
    note = (
        f"{device.name} was not measured: the times of {profile.name} × {factor:.3g}, from {measured / 1e9:.3g} "
        f"GFLOP/s measured in training there and {device.peak_gflops:g} published × {device.utilisation:g} assumed "
        f"utilisation ({'; '.join(device.sources)})"
    )
    return profile.model_copy(
        update={
            "kind": "scaled",
            "name": device.name,
            "notes": (*profile.notes, note),
            "cuts": tuple(_cut(cut, factor, host) for cut in profile.cuts),
            "whole": _whole(profile.whole, factor, host),
            "data": _timing(profile.data, host),
            "compute_watts": device.watts,
        }
    )


def _timing(timing: Timing, factor: float) -> Timing:
    return timing.model_copy(
        update={
            "seconds": timing.seconds * factor,
            "cpu_seconds": timing.cpu_seconds * factor,
            "first_seconds": timing.first_seconds * factor,
        }
    )


def _cut(cut: CutFigures, factor: float, host: float) -> CutFigures:
    changes: dict[str, object] = {name: _timing(getattr(cut, name), factor) for name in _STEPS}
    changes |= {"release": _timing(cut.release, host), "build_seconds": cut.build_seconds * host}
    return cut.model_copy(update=changes | {"codecs": _codecs(cut.codecs, host)})


def _whole(whole: WholeFigures, factor: float, host: float) -> WholeFigures:
    changes: dict[str, object] = {"step": _timing(whole.step, factor), "forward": _timing(whole.forward, factor)}
    changes |= {"release": _timing(whole.release, host), "build_seconds": whole.build_seconds * host}
    return whole.model_copy(update=changes | {"codecs": _codecs(whole.codecs, host)})


def _codecs(codecs: dict[str, CodecFigures], host: float) -> dict[str, CodecFigures]:
    return {
        name: codec.model_copy(update={"encode": _timing(codec.encode, host), "decode": _timing(codec.decode, host)})
        for name, codec in codecs.items()
    }
