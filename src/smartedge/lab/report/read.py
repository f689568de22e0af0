"""Reads the files of a run directory. ``docs/results-schema.md`` describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray
from pydantic import BaseModel, Json, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from smartedge.artifacts.audit import Audit
from smartedge.artifacts.metrics import EpochFigures, read_metrics
from smartedge.artifacts.results import Results
from smartedge.errors import RunError
from smartedge.methods.base import Method, get_method

__all__ = ["PictureColumn", "Pictures", "Run", "read_run"]

_Shape = tuple[int | None, ...]


class PictureColumn(BaseModel):
    """A column of the data set whose labels order the pictures."""

    column: str
    names: tuple[str, ...]


class _PictureNotes(BaseModel):
    """The metadata of ``samples.safetensors``."""

    desired: Json[PictureColumn]
    sensitive: Json[PictureColumn | None]
    attacks: Json[dict[str, str]]


@dataclass(frozen=True)
class Pictures:
    """Test images, and the best reconstructions of them (``docs/audit-schema.md``)."""

    tensors: dict[str, NDArray[Any]]  # ids, desired, sensitive (n,); originals and reconstructions, uint8 (n, 3, H, W)
    desired: PictureColumn
    sensitive: PictureColumn | None
    attacks: dict[str, str]  # "defended", "undefended" → the attack that made the images


@dataclass(frozen=True)
class Run:
    """The content of one run directory."""

    directory: Path
    results: Results
    metrics: list[EpochFigures]  # a resumed run writes some (side, split, epoch) twice; the last one is kept
    predictions: dict[str, NDArray[Any]] | None  # predictions.safetensors
    samples: dict[str, NDArray[Any]] | None  # edge/samples.safetensors; only the edge has it, since it holds images
    config: str | None  # config.yaml, as text
    audit: Audit | None  # audit/audit.json
    pictures: Pictures | None  # audit/reconstruction/samples.safetensors

    @property
    def method(self) -> Method:
        """The training method."""
        return get_method(self.results.method)

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Busy seconds per epoch of the stages, in the order in which an image passes them."""
        return self.results.stage_seconds.known

    @property
    def gain(self) -> dict[str, float] | None:
        """Cloud gain (back minus exit) in accuracy and in balanced accuracy; None where one of the two is missing."""
        back, at_exit = self.results.test.back, self.results.test.exit
        if not (back and at_exit):
            return None
        return {
            "accuracy": back.accuracy - at_exit.accuracy,
            "balanced_accuracy": back.balanced_accuracy - at_exit.balanced_accuracy,
        }

    @property
    def kind(self) -> Literal["single", "multi"]:
        """``"single"``: one of the classes is right. ``"multi"``: each column is right or wrong."""
        return self.results.task.kind

    @property
    def final(self) -> str:
        """The head that gives the final answer: ``"back"``, or ``"exit"`` where there is no back."""
        return "back" if self.results.test.back else "exit"


def read_run(directory: Path) -> Run:
    """Read a run directory. Only ``results.json`` must be there.

    Raises:
        RunError: there is no ``results.json`` (the run has not finished, or this is another directory), or a file is
            damaged or of a version that this program does not know.
    """
    results = Results.read(directory / "results.json")
    rows = read_metrics(directory / "metrics.jsonl", whole=True)
    last = {(row.side, row.split, row.epoch): row for row in rows}
    config = directory / "config.yaml"
    outputs = len(results.task.names)
    labels = () if results.task.kind == "single" else (outputs,)
    return Run(
        directory=directory,
        results=results,
        metrics=sorted(last.values(), key=lambda row: row.epoch),
        predictions=_read_tensors(
            directory / "predictions.safetensors",
            needed={"ids": (), "labels": labels},
            optional={"exit": (outputs,), "back": (outputs,)},
        ),
        samples=_read_tensors(
            directory / "edge" / "samples.safetensors", needed={"images": (3, None, None), "ids": (), "labels": labels}
        ),
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        audit=Audit.read_if_there(directory / "audit" / "audit.json"),
        pictures=_read_pictures(directory / "audit" / "reconstruction" / "samples.safetensors"),
    )


def _read_pictures(path: Path) -> Pictures | None:
    image: _Shape = (3, None, None)
    tensors = _read_tensors(
        path,
        needed={"ids": (), "desired": (), "sensitive": (), "originals": image},
        optional={"defended": image, "undefended": image},
        schema="docs/audit-schema.md",
    )
    if tensors is None:
        return None
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
    try:
        notes = _PictureNotes.model_validate(metadata)
    except ValidationError as error:
        raise RunError(f"{path}: its metadata cannot be read ({error}); run 'smartedge audit' again") from error
    return Pictures(tensors, notes.desired, notes.sensitive, notes.attacks)


def _read_tensors(
    path: Path,
    *,
    needed: dict[str, _Shape],
    optional: dict[str, _Shape] | None = None,
    schema: str = "docs/results-schema.md",
) -> dict[str, NDArray[Any]] | None:
    """Read a file of arrays. Shapes are those of one image; None stands for any length."""
    if not path.exists():
        return None
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except SafetensorError as error:
        raise RunError(f"{path}: cannot be read ({error}); remove it to write the report without it") from error
    if lacking := [name for name in needed if name not in tensors]:
        raise RunError(f"{path}: lacks {', '.join(lacking)}; {schema} says what belongs there")
    images = tensors["ids"].shape[:1]
    for name, one in {**needed, **(optional or {})}.items():
        if name in tensors:
            got, wanted = tensors[name].shape, (*images, *one)
            if len(got) != len(wanted) or any(w not in (None, g) for g, w in zip(got, wanted, strict=True)):
                raise RunError(f"{path}: {name} has shape {got}, but should have {wanted} to fit ids and results.json")
    return tensors
