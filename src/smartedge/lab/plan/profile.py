"""Reads and writes device profiles, and checks which settings a profile is valid for."""

from __future__ import annotations

import errno
from pathlib import Path

from smartedge.artifacts.profile import Profile, ProfiledNetwork
from smartedge.config import Config, load_config
from smartedge.errors import ConfigError
from smartedge.files import disk_error, try_folder
from smartedge.methods.base import Method

__all__ = ["as_method", "check_network", "check_place_of", "load_profile", "network_of", "only", "save_profile"]


def network_of(config: Config) -> ProfiledNetwork:
    """The settings that affect the time of a step. A profile is valid for settings where these are equal."""
    dumped = config.model_dump(mode="json")
    adversary, sensitive = dumped["adversary"], dumped["data"]["sensitive"]
    hidden = bool(adversary["exits"] or adversary["dependence"] or adversary["mixture"])
    return ProfiledNetwork.model_validate(
        {
            "model": {key: value for key, value in dumped["model"].items() if key != "cut"},
            "train": {key: dumped["train"][key] for key in ("batch_size", "optimizer", "precision", "channels_last")},
            "image_size": dumped["data"]["image_size"],
            "augment": dumped["data"]["augment"],
            "desired": dumped["data"]["desired"],
            "sensitive": sorted(sensitive) if hidden else [],
            "adversary": {
                "exits": adversary["exits"],
                "steps": adversary["steps"],
                "dependence": bool(adversary["dependence"]),
                "mixture": bool(adversary["mixture"]),
            },
            "distill": bool(dumped["train"]["distill"]["epochs"]),
            "mechanism": dumped["dp"]["mechanism"],
        }
    )


def as_method(config: Config, method: Method, cut: str) -> Config:
    """The settings with that method and cut, without what goes with other methods only.

    Raises:
        ConfigError: what is left does not go together.
    """
    raw = config.model_dump(mode="json")
    raw["method"], raw["model"]["cut"] = method.name, cut
    raw["hardware"]["threads"] = config.threads
    if config.method != method.name:
        raw["codec"], raw["schedule"], raw["fleet"] = {}, "joint", {}
    if not method.has_exit:
        raw["train"]["front_epochs"], raw["train"]["distill"] = None, {}
        raw["model"]["front"] = raw["model"]["start"] = None
        raw["adversary"], raw["dp"] = {}, {}
    if not method.divides:
        raw["train"]["freeze"], raw["model"]["adapter"] = [], None
    if method.answered:
        raw["cloud"] = {}
    return load_config(raw)


def check_place_of(path: Path) -> None:
    """Try the folder of a file that is to be written after minutes of work.

    Raises:
        ConfigError: no file can be written there.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        try_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: {disk_error(error)}") from error


def save_profile(profile: Profile, path: Path) -> None:
    """Write it as JSON.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        profile.write(path)
    except OSError as error:
        raise ConfigError(f"{path}: {disk_error(error)}") from error


def load_profile(path: Path, config: Config) -> Profile:
    """Read a profile and check that it belongs to the network that ``config`` trains.

    Raises:
        ConfigError: it cannot be read, is no profile, or belongs to another network.
    """
    profile = Profile.read(path)
    check_network(profile, config, path)
    return profile


def check_network(profile: Profile, config: Config, path: Path) -> None:
    """Raise :class:`ConfigError` where the profile is one of another network or of other steps."""
    mine, there = network_of(config).model_dump(mode="json"), profile.network.model_dump(mode="json")
    if wrong := [key for key in mine if there[key] != mine[key]]:
        said = "; ".join(f"{key}: {there[key]} there, {mine[key]} here" for key in wrong)
        raise ConfigError(f"{path}: was measured with other settings ({said}); measure again with 'smartedge profile'")


def only(profile: Profile, cuts: tuple[str, ...], codecs: tuple[str, ...]) -> Profile:
    """The profile with the requested cuts and codecs alone. ``float32`` stays: gradients come back as float32.

    Args:
        profile: of a machine.
        cuts: names; empty or ``("all",)``: all.
        codecs: names; empty: all.

    Raises:
        ConfigError: a cut or a codec was not measured.
    """
    if cuts and cuts != ("all",):
        if missing := [name for name in cuts if name not in {cut.name for cut in profile.cuts}]:
            raise ConfigError(f"--cuts: {', '.join(missing)}: not in the profile of {profile.name}; measure it again")
        profile = profile.model_copy(update={"cuts": tuple(cut for cut in profile.cuts if cut.name in cuts)})
    if codecs:
        kept, there = {*codecs, "float32"}, set(profile.whole.codecs).union(*(cut.codecs for cut in profile.cuts))
        if missing := [name for name in codecs if name not in there]:
            raise ConfigError(f"--codecs: {', '.join(missing)}: not in the profile of {profile.name}; measure it again")
        fewer = tuple(
            cut.model_copy(update={"codecs": {n: c for n, c in cut.codecs.items() if n in kept}})
            for cut in profile.cuts
        )
        images = {name: codec for name, codec in profile.whole.codecs.items() if name in kept} or profile.whole.codecs
        whole = profile.whole.model_copy(update={"codecs": images})
        profile = profile.model_copy(update={"cuts": fewer, "whole": whole})
    return profile
