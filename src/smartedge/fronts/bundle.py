"""Opens a front bundle, and checks it before anything of it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from smartedge.artifacts.front import FrontManifest
from smartedge.config import Config, config_of_agreement, load_config
from smartedge.errors import ConfigError, FrontError
from smartedge.files import disk_error, open_regular, read_small
from smartedge.fleet.signing import is_signed_by
from smartedge.fronts.requirements import Requirement
from smartedge.methods.mechanism import mechanism_of
from smartedge.privacy.balance import same_policy
from smartedge.privacy.mechanisms import Mechanism
from smartedge.types import Task

__all__ = [
    "EXIT",
    "FRONT",
    "MANIFEST",
    "SIGNATURE",
    "PublishedFront",
    "check_new",
    "note_on_back",
    "open_front",
    "settings_for_release",
]

MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
FRONT, EXIT = "front.onnx", "exit.onnx"
_PART = 2**20  # bytes of a network that are read at a time
_FILES = {FRONT, EXIT, "front.safetensors", "exit.safetensors"}


@dataclass(frozen=True)
class PublishedFront:
    """A front bundle that was checked.

    Attributes:
        folder: where its files are.
        manifest: what it says.
        config: the settings of the run that trained it.
        mechanism: what protects its releases.
    """

    folder: Path
    manifest: FrontManifest
    config: Config
    mechanism: Mechanism

    @property
    def task(self) -> Task:
        """What its answers mean."""
        task = self.manifest.task
        return Task(task.kind, task.columns, task.names)

    def read(self, name: str) -> bytes:
        """One of its files.

        Raises:
            FrontError: it is not there, or is not the one that was published.
        """
        path, digest = self.folder / name, hashlib.sha256()
        try:
            with open_regular(path) as file:
                while part := file.read(_PART):  # whatever lies there, memory does not run out
                    digest.update(part)
                file.seek(0)
                content = file.read() if digest.hexdigest() == self.manifest.files[name] else b""
        except OSError as error:
            raise FrontError(f"{path}: cannot be read ({error.strerror}); {FrontManifest.remedy}") from error
        if hashlib.sha256(content).hexdigest() != self.manifest.files[name]:
            raise FrontError(f"{path}: is not the file that was published; {FrontManifest.remedy}")
        return content


def open_front(
    folder: Path, *, trust: str | None, require: Sequence[Requirement] = (), labels_sent: bool = True
) -> PublishedFront:
    """Open and check a front bundle.

    Args:
        folder: the bundle.
        trust: the public key whose signature counts, 64 hexadecimal digits; None: the user accepts any front.
        require: what it must meet.
        labels_sent: the edge will send desired labels with it; False where it only asks for answers.

    Raises:
        FrontError: a file is missing or was changed, the signature is not there or is another one's, its privacy policy
            does not follow from its settings, or a requirement is not met.
    """
    content = _read(folder / MANIFEST)
    manifest = FrontManifest.parse(content, folder / MANIFEST)
    if trust is not None:
        _check_signature(folder, content, trust)
    if manifest.files.keys() != _FILES:
        raise FrontError(f"{folder / MANIFEST}: does not name the files of a front bundle; {FrontManifest.remedy}")
    config = _config(manifest, folder)
    mechanism = mechanism_of(config, manifest.feature_shape)
    if not same_policy(mechanism.policy(), manifest.policy):
        raise FrontError(f"{folder}: its privacy policy is not that of its settings; {FrontManifest.remedy}")
    for requirement in require:
        requirement.check(manifest, labels_sent=labels_sent)
    published = PublishedFront(folder, manifest, config, mechanism)
    for name in manifest.files:
        published.read(name)
    return published


def check_new(folder: Path) -> None:
    """Refuse to publish into a folder that is there, or into a place where none can be made.

    Raises:
        FrontError: it is so.
    """
    try:
        if folder.exists() or folder.is_symlink():
            raise FrontError(f"{folder}: is there already; choose a new folder for the front bundle")
        tried = folder.with_name(f".{folder.name}.tried")
        tried.mkdir(parents=True, exist_ok=True)
        tried.rmdir()
    except OSError as error:
        raise FrontError(f"{folder}: {disk_error(error)}") from error


def settings_for_release(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """The settings of a run to which edges with this front release each image once; both sides take them from here.

    The pretrained weights of the front's run lie elsewhere. Where ``overrides`` name them, the back begins with them,
    and they learn at the rate of that run (``train.lr_pretrained``).

    Args:
        folder: the front bundle.
        overrides: as for ``--set``.

    Raises:
        FrontError: the folder is no front bundle.
        ConfigError: an override is wrong, or names other weights than those of the front's run.
    """
    manifest = FrontManifest.parse(_read(folder / MANIFEST), folder / MANIFEST)
    trained = _config(manifest, folder).model_dump(mode="json")
    trained["train"] |= {"front_epochs": None}  # the front is not trained again
    trained["train"]["distill"] |= {"epochs": 0}
    trained["model"]["front"] = str(folder / "front.safetensors")
    trained["schedule"] = "freeze-and-log"
    config = load_config(trained, overrides)
    if config.model.weights in (None, "none"):
        return config
    if config.agreement().get("weights") != _weights(manifest):
        raise ConfigError(
            f"model.weights: {config.model.weights} is not what the run of {folder} began with, and front and back "
            "were one network; give that file, or none"
        )
    begun = manifest.settings.get("train")
    trained["train"] |= {"lr_pretrained": begun.get("lr_pretrained") if isinstance(begun, dict) else None}
    return load_config(trained, overrides)


def note_on_back(folder: Path, config: Config) -> list[str]:
    """A line where the front was pretrained and the back is not, though the same weights could be given to it.

    Args:
        folder: the front bundle.
        config: from :func:`settings_for_release`.
    """
    begun = _weights(FrontManifest.parse(_read(folder / MANIFEST), folder / MANIFEST))
    if begun is None or config.agreement().get("weights") == begun:
        return []
    named = "timm" if begun == "timm" else "FILE"
    return [
        "the front began with pretrained weights, and the back begins untrained; --set "
        f"model.weights={named} lets it begin with the same"
    ]


def _weights(manifest: FrontManifest) -> JsonValue:
    """Where the weights came from that the front's run began with: ``timm``, or the digest of a file; None: nowhere."""
    return manifest.settings.get("weights")


def _config(manifest: FrontManifest, folder: Path) -> Config:
    """The settings of the run that trained the front, as far as edge and cloud must agree on them.

    Raises:
        FrontError: this program does not know them.
    """
    try:
        return config_of_agreement(manifest.settings)
    except ConfigError as error:
        raise FrontError(
            f"{folder / MANIFEST}: the settings in it are not those of this version of smartedge: {error}. Use the "
            "version that published the front, or publish it again with this one"
        ) from error


def _read(path: Path) -> bytes:
    """A small file of a bundle.

    Raises:
        FrontError: it is not there, or cannot be such a file.
    """
    try:
        with open_regular(path) as file:
            return read_small(file)
    except FileNotFoundError as error:
        raise FrontError(f"{path}: is not there; {FrontManifest.missing}") from error
    except OSError as error:
        raise FrontError(f"{path}: cannot be read ({error.strerror}); {FrontManifest.remedy}") from error


def _check_signature(folder: Path, manifest: bytes, trust: str) -> None:
    if not (folder / SIGNATURE).exists():
        raise FrontError(
            f"{folder}: is not signed; publish it with 'smartedge export RUN --to DIR --fleet FLEET', or accept it "
            "with --unsigned"
        )
    try:
        signature = bytes.fromhex(_read(folder / SIGNATURE).decode("ascii").strip())
    except ValueError as error:
        raise FrontError(f"{folder / SIGNATURE}: cannot be read ({error}); {FrontManifest.remedy}") from error
    if not is_signed_by(trust, signature, manifest):
        raise FrontError(
            f"{folder}: its signature is not that of the key that this edge trusts: it was changed, or published by "
            "somebody else; copy it again from its publisher"
        )
