"""The machine of a run, and the memory that the process used."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from smartedge.errors import ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["describe_machine", "peak_rss_bytes", "pick_device", "rss_bytes", "versions"]

_NVIDIA = Path("/proc/driver/nvidia/gpus")
_PACKAGES = ("smartedge", "torch", "torchvision", "timm", "numpy", "pyarrow", "pillow", "safetensors")


def pick_device(name: str, key: str) -> torch.device:
    """The device that a setting names; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: naming ``key``, where torch has no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        if name.partition(":")[0] in {"gpu", "nvidia"}:  # torch would list twenty kinds of devices
            reason = "torch calls a GPU of NVIDIA or AMD 'cuda'"
        raise ConfigError(f"{key}: {name!r} is not usable here ({reason}); use 'cpu' or 'auto'") from error
    return device


def peak_rss_bytes() -> int | None:
    """The largest resident set this process ever had, in bytes; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """The resident set now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages on which a run's results depend."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_machine() -> dict[str, str | int]:
    """System, processor, cores, memory, and the GPU if there is one. No host name, no user name.

    Where torch has been imported, it is asked for the GPU. Else NVIDIA's driver is asked, on Linux: importing torch
    takes a second.
    """
    facts: dict[str, str | int] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": int(psutil.virtual_memory().total),
    }
    if (gpu := _gpu()) is not None:
        facts["gpu"] = gpu
    return facts


def _gpu() -> str | None:
    if (torch := sys.modules.get("torch")) is not None:
        return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None
    for file in sorted(_NVIDIA.glob("*/information")):
        if found := re.search(r"^Model:\s*(.+)", file.read_text(encoding="utf-8"), re.MULTILINE):
            return found[1].strip()
    return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
