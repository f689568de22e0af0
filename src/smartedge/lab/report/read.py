"""Read what a run left in its directory; the files are described in ``docs/results-schema.md``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from smartedge.artifacts.results import Results

__all__ = ["AUDIT_SCHEMA_VERSION", "Pictures", "Run", "read_run"]

AUDIT_SCHEMA_VERSION = 2

_AUDIT = ("run", "attributes", "reconstruction", "membership", "dp", "skipped")
_ATTRIBUTE = (
    "best", "attacks", "training_image", "undefended", "floor", "prediction_floor", "chance", "dp_bound",
    "sensitive", "desired",
)  # fmt: skip
_Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Pictures:
    """Test images and what the best attack made of them (``docs/audit-schema.md``)."""

    tensors: dict[str, NDArray[Any]]  # ids, desired, sensitive (n,); originals and what was made, uint8 (n, 3, H, W)
    desired: dict[str, Any]  # column, names
    sensitive: dict[str, Any] | None
    attacks: dict[str, str]  # "defended", "undefended" → which attack made it


@dataclass(frozen=True)
class Run:
    """One run directory, read."""

    directory: Path
    model: Results
    results: dict[str, Any]  # results.json
    metrics: list[dict[str, Any]]  # metrics.jsonl: of equal (side, split, epoch), as a resumed run writes, the last
    predictions: dict[str, NDArray[Any]] | None  # predictions.safetensors
    samples: dict[str, NDArray[Any]] | None  # edge/samples.safetensors: on the edge alone, since it holds images
    config: str | None  # config.yaml, as text
    audit: dict[str, Any] | None = None  # audit/audit.json
    pictures: Pictures | None = None  # audit/reconstruction/samples.safetensors

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Busy seconds per epoch of the stages, in the order in which an image passes them."""
        return self.model.stage_seconds.known

    @property
    def gain(self) -> dict[str, float] | None:
        """Back minus exit, in accuracy and in balanced accuracy; None where there are not both."""
        back, at_exit = self.results["test"]["back"], self.results["test"]["exit"]
        if not (back and at_exit):
            return None
        return {key: back[key] - at_exit[key] for key in ("accuracy", "balanced_accuracy")}

    @property
    def kind(self) -> Any:
        """``"single"`` or ``"multi"``."""
        return self.results["task"]["kind"]

    @property
    def final(self) -> str:
        """Whose answer counts in the end: ``"back"``, or ``"exit"`` where there is no back."""
        return "back" if self.results["test"]["back"] else "exit"


def read_run(directory: Path) -> Run:
    """Read a run directory. Only ``results.json`` must be there.

    Raises:
        FileNotFoundError: when there is no ``results.json``: the run has not finished, or this is another directory.
        ValueError: when a file is broken, or of a schema that this version does not know.
    """
    model = Results.read(directory / "results.json")
    results: dict[str, Any] = model.as_json()
    config = directory / "config.yaml"
    outputs = len(results["task"]["names"])
    labels = () if results["task"]["kind"] == "single" else (outputs,)
    return Run(
        directory=directory,
        model=model,
        results=results,
        metrics=_read_metrics(directory / "metrics.jsonl"),
        predictions=_read_tensors(
            directory / "predictions.safetensors",
            needed={"ids": (), "labels": labels},
            optional={"exit": (outputs,), "back": (outputs,)},
        ),
        samples=_read_tensors(
            directory / "edge" / "samples.safetensors", needed={"images": (3, None, None), "ids": (), "labels": labels}
        ),
        config=config.read_text(encoding="utf-8") if config.exists() else None,
        audit=_read_audit(directory / "audit" / "audit.json"),
        pictures=_read_pictures(directory / "audit" / "reconstruction" / "samples.safetensors"),
    )


def _read_audit(path: Path) -> dict[str, Any] | None:
    """What the attackers found, or None where there was no audit."""
    if not path.exists():
        return None
    try:
        audit = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); run 'smartedge audit' again") from error
    version = audit.get("schema_version") if isinstance(audit, dict) else None
    if version != AUDIT_SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {version!r}, but this report reads {AUDIT_SCHEMA_VERSION}; "
            "run 'smartedge audit' again"
        )
    if lacking := [name for name in _AUDIT if name not in audit] or list(_lacking_figures(audit["attributes"])):
        raise ValueError(f"{path}: lacks {', '.join(lacking)}; docs/audit-schema.md says what belongs there")
    found: dict[str, Any] = audit
    if found["reconstruction"]:
        found["reconstruction"] = {name: block for name, block in found["reconstruction"].items() if block is not None}
    found["skipped"] = [{key: v for key, v in entry.items() if v is not None} for entry in found["skipped"]]
    return found


def _lacking_figures(attributes: dict[str, Any]) -> Iterator[str]:
    for name, entry in attributes.items():
        yield from (f"attributes.{name}.{key}" for key in _ATTRIBUTE if key not in entry)


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
        notes = {key: json.loads(metadata[key]) for key in ("desired", "sensitive", "attacks")}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: says not what it shows ({error!r}); run 'smartedge audit' again") from error
    return Pictures(tensors, **notes)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    last: dict[tuple[str, str, int], dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            last[entry["side"], entry["split"], entry["epoch"]] = entry
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: is not a line of metrics ({error!r}); remove it") from error
    return sorted(last.values(), key=lambda entry: entry["epoch"])


def _read_tensors(
    path: Path,
    *,
    needed: dict[str, _Shape],
    optional: dict[str, _Shape] | None = None,
    schema: str = "docs/results-schema.md",
) -> dict[str, NDArray[Any]] | None:
    """Read a file of arrays. Shapes are those of one image; None is any length."""
    if not path.exists():
        return None
    try:
        tensors: dict[str, NDArray[Any]] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: cannot be read ({error}); remove it to write the report without it") from error
    if lacking := [name for name in needed if name not in tensors]:
        raise ValueError(f"{path}: lacks {', '.join(lacking)}; {schema} says what belongs there")
    images = tensors["ids"].shape[:1]
    for name, one in {**needed, **(optional or {})}.items():
        if name in tensors:
            got, wanted = tensors[name].shape, (*images, *one)
            if len(got) != len(wanted) or any(w not in (None, g) for g, w in zip(got, wanted, strict=True)):
                raise ValueError(
                    f"{path}: {name} has shape {got}, but should have {wanted} to fit ids and results.json"
                )
    return tensors
