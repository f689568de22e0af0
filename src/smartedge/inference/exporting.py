"""Publishes a run's front: as ONNX, with everything that an edge without torch needs, signed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import warnings
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn

from smartedge.artifacts.attacks import KindFigures
from smartedge.artifacts.audit import Audit
from smartedge.artifacts.certificate import Certificate
from smartedge.artifacts.front import AttackedAttribute, AuditReach, Calibration, CertifiedAttribute, FrontManifest
from smartedge.artifacts.task import TaskFacts
from smartedge.config import Config
from smartedge.data.raw import PERSON_COLUMN
from smartedge.errors import FrontError
from smartedge.extras import how_to_install
from smartedge.files import system_error, write_atomically
from smartedge.fleet.signing import sign
from smartedge.fronts.bundle import EXIT, FRONT, MANIFEST, SIGNATURE, check_new
from smartedge.images.size import ImageSize
from smartedge.inference.trained import TorchFront, TrainedRun
from smartedge.models.network import to_input

__all__ = ["OPSET", "check_packages", "export_front"]

OPSET = 18  # that both exporters of torch write; ONNX Runtime 1.17 and newer run it
_TOLERANCE = 1e-5
_CHECKED = (1, 3, 8)  # batches that are compared
_WEIGHTS = ("front.safetensors", "exit.safetensors")


class _FromPixels(nn.Module):
    """The front with its preprocessing: uint8 (B, 3, H, W) → float32 (B, *F)."""

    def __init__(self, front: nn.Module) -> None:
        super().__init__()
        self.front = front

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BF: Tensor = self.front(to_input(images_BCHW, torch.device("cpu")))
        return features_BF.float()


def check_packages() -> None:
    """Look for what publishing needs beside torch.

    Raises:
        FrontError: a package is missing.
    """
    try:
        import onnx  # noqa: F401 - torch needs both
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise FrontError(f"publishing a front needs {error.name}; run: {how_to_install('export')}") from error


def export_front(
    run: TrainedRun,
    to: Path,
    *,
    name: str,
    version: int = 1,
    threshold: float,
    calibration: Calibration | None = None,
    key: Path | None = None,
) -> FrontManifest:
    """Write the front bundle of a finished run.

    Args:
        run: the run, with its edge's folder.
        to: a folder that is not there yet.
        name: of the front, for people.
        version: of the front, as its publisher counts.
        threshold: of the exit's confidence, for edges that name none.
        calibration: of the exit, from :func:`smartedge.inference.calibrating.calibrate`.
        key: the private key that signs, ``front.key`` of a fleet; None: the bundle is not signed.

    Raises:
        FrontError: the folder is there, a package is missing, the network cannot become ONNX, or ONNX Runtime computes
            something else than torch.
        RunError: weights are missing.
        FleetError: the key cannot be used.
    """
    check_new(to)
    check_packages()
    front = TorchFront(run)
    size, shape = run.config.data.image_size, front.feature_shape
    pixels, features = _FromPixels(front.front).eval(), torch.zeros(2, *shape)
    images_BCHW = torch.from_numpy(_some_images(max(_CHECKED), size))
    content = {
        FRONT: _to_onnx(pixels, images_BCHW[:2], "images", "features"),
        EXIT: _to_onnx(front.task_exit, features, "features", "logits"),
        **{file: (run.folder / "edge" / file).read_bytes() for file in _WEIGHTS},
    }
    with torch.no_grad():
        features_BF = pixels(images_BCHW)
    differences = (
        _difference(content[FRONT], "images", pixels, images_BCHW),
        _difference(content[EXIT], "features", front.task_exit, features_BF),
    )
    if max(differences) > _TOLERANCE:
        raise FrontError(
            f"{run.folder}: ONNX Runtime's answers differ from torch's by {max(differences):.2g}, and {_TOLERANCE:g} "
            "is allowed; nothing was written. Another model.cut may do"
        )
    audit = Audit.read_if_there(run.folder / "audit" / "audit.json")
    certificate = Certificate.read_if_there(run.folder / "audit" / "certificate.json")
    manifest = FrontManifest(
        name=name,
        version=version,
        created=datetime.now(timezone.utc),
        smartedge_version=installed("smartedge"),
        opset=OPSET,
        difference=max(differences),
        files={file: hashlib.sha256(data).hexdigest() for file, data in content.items()},
        image_size=size,
        task=TaskFacts(kind=run.task.kind, columns=run.task.columns, names=run.task.names),
        feature_shape=shape,
        settings=run.agreement,
        policy=cast("dict[str, JsonValue]", front.mechanism.policy()),
        calibration=calibration,
        threshold=threshold,
        audit=_attacked(audit),
        audit_reach=_reach(audit),
        certificate=_certified(certificate, run),
        certificate_left_out=None if certificate is None else _left_out(run.config, certificate.attributes),
    )
    _write(to, content, manifest, key)
    return manifest


def _write(to: Path, content: dict[str, bytes], manifest: FrontManifest, key: Path | None) -> None:
    """Put the folder in place, whole or not at all."""
    temporary = to.with_name(f".{to.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for file, data in content.items():
            write_atomically(temporary / file, data)
        manifest.write(temporary / MANIFEST)
        if key is not None:
            write_atomically(temporary / SIGNATURE, sign((temporary / MANIFEST).read_bytes(), key).hex() + "\n")
        temporary.rename(to)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _to_onnx(module: nn.Module, example: Tensor, takes: str, gives: str) -> bytes:
    """A module as ONNX, for batches of any size.

    By torch's older exporter, which takes a tenth of the time of the newer one. Where it cannot, by the newer one
    (docs/decisions/0033-edge-without-torch.md).
    """
    common = partial(
        torch.onnx.export, module, (example,), input_names=[takes], output_names=[gives], opset_version=OPSET
    )
    exporters = (
        partial(common, dynamo=False, dynamic_axes={takes: {0: "batch"}, gives: {0: "batch"}}),
        partial(common, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},), external_data=False),
    )
    reasons = []
    for exporter in exporters:
        try:
            with (
                TemporaryDirectory() as folder,
                torch.no_grad(),
                warnings.catch_warnings(),
                contextlib.redirect_stdout(io.StringIO()),  # the newer one tells how far it is
                _no_log_of_graphs(),
            ):
                warnings.simplefilter("ignore")  # the older one is deprecated, and warns of constants: checked later
                file = Path(folder) / "network.onnx"
                exporter(f=file)
                return file.read_bytes()
        except Exception as error:  # exporters fail in many ways
            if system_error(error) is not None:  # such as a full disk: another cut would not help
                raise
            reasons.append(str(error).strip().split("\n")[0])
    raise FrontError(f"the network cannot become ONNX: {' / '.join(reasons)}; another model.cut may do")


@contextlib.contextmanager
def _no_log_of_graphs() -> Iterator[None]:
    """Keep the older exporter from printing the whole graph where it fails: it switches its log on by itself."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log


def _difference(model: bytes, takes: str, module: nn.Module, inputs: Tensor) -> float:
    """The largest difference between ONNX Runtime and torch, relative to the largest number where that is above 1."""
    from smartedge.fronts.runtime import session

    network, found = session(model, takes), 0.0
    for batch in _CHECKED:
        with torch.no_grad():
            wanted = module(inputs[:batch]).float().numpy()
        got = network.run(None, {takes: inputs[:batch].numpy()})[0]
        if got.shape != wanted.shape:
            raise FrontError(f"ONNX Runtime gives shape {got.shape} for a batch of {batch}, and torch {wanted.shape}")
        found = max(found, float(np.abs(got - wanted).max()) / max(1.0, float(np.abs(wanted).max())))
    return found


def _some_images(count: int, size: ImageSize) -> NDArray[np.uint8]:
    """Noise, smooth gradients, black and white: uint8 (count, 3, H, W)."""
    random = np.random.default_rng(0)
    images_BCHW = random.integers(0, 256, (count, *size.shape), dtype=np.uint8)
    images_BCHW[1] = np.linspace(0, 255, size.width).astype(np.uint8)
    images_BCHW[2] = np.linspace(255, 0, size.height).astype(np.uint8)[:, None]
    images_BCHW[3], images_BCHW[4] = 0, 255
    return images_BCHW


def _attacked(audit: Audit | None) -> dict[str, AttackedAttribute] | None:
    if audit is None or not audit.attributes:
        return None

    def accuracy(figures: object) -> float | None:
        return getattr(figures, "balanced_accuracy", None)

    return {
        name: AttackedAttribute(
            sensitive=block.sensitive,
            finished=_finished(block.attacks),
            training_image_finished=_finished(block.training_image_attacks),
            full_depth_needed=block.full_depth_needed,
            best=accuracy(block.best),
            training_image=accuracy(block.training_image),
            undefended=accuracy(block.undefended),
            floor=block.floor.balanced_accuracy,
        )
        for name, block in audit.attributes.items()
    }


def _finished(attacks: Mapping[str, KindFigures]) -> tuple[str, ...]:
    """The kinds of attackers of which one had all of its training."""
    return tuple(name for name, figures in attacks.items() if figures.finished)


def _reach(audit: Audit | None) -> AuditReach | None:
    if audit is None:
        return None
    audited = audit.audited
    return AuditReach(
        learned_from=audited.images["train"],
        judged_on=audited.images["test"],
        images_seen=audited.attackers_images_seen,
        left_out=len(audit.unread),
    )


def _left_out(config: Config, attributes: Collection[str]) -> int:
    """How many columns the run was to hide that are not among these; who is shown has attacks of its own."""
    return len(set(config.data.sensitive) - {PERSON_COLUMN} - set(attributes))


def _certified(certificate: Certificate | None, run: TrainedRun) -> dict[str, CertifiedAttribute] | None:
    if certificate is None:
        return None
    return {
        name: CertifiedAttribute(
            desired=name in run.task.columns,
            bound=found.bound,
            confidence=certificate.confidence,
            releases=certificate.releases,
            label_known=found.label_known,
        )
        for name, found in certificate.attributes.items()
    }
