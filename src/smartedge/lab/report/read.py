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

__all__ = ["AUDIT_SCHEMA_VERSION", "SCHEMA_VERSION", "Pictures", "Run", "read_run"]

SCHEMA_VERSION = 1
AUDIT_SCHEMA_VERSION = 2

_REQUIRED = (
    "method", "schedule", "model", "cut", "bottleneck", "codec", "seed", "epochs",
    "task.kind", "task.columns", "task.names",
    "data.path", "data.image_size", "data.train", "data.val", "data.test", "data.skipped", "data.notes",
    "test.back", "test.exit", "cloud_gain",
    "bytes_per_image.up", "bytes_per_image.down", "bytes_per_image.source", "bytes_per_image.reference.jpeg_q90",
    "bytes_per_image.reference.raw_uint8", "bytes_per_image.reference.feature_float32",
    "bytes_total.up", "bytes_total.down",
    "seconds_per_epoch", "seconds_total", "stage_seconds.edge", "stage_seconds.link", "stage_seconds.cloud",
    "edge_data_share", "edge_peak_rss_bytes", "edge_baseline_rss_bytes", "cloud_peak_rss_bytes",
    "releases_per_image", "machine", "versions", "smartedge_version", "started", "command",
)  # fmt: skip
_AUDIT = ("run", "attributes", "reconstruction", "membership", "dp", "skipped")
_ATTRIBUTE = (
    "best", "attacks", "training_image", "undefended", "floor", "prediction_floor", "chance", "dp_bound",
    "sensitive", "desired",
)  # fmt: skip
_Shape = tuple[int | None, ...]
_HEAD_FIGURES = ("accuracy", "balanced_accuracy", "auroc", "loss", "base_rate")


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
        busy = self.results["stage_seconds"]
        return {name: busy[name] for name in ("edge", "encode", "link", "cloud") if name in busy}

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
    path = directory / "results.json"
    try:
        results = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: no such file; a run writes it when it ends, so finish the run first ('smartedge train --resume')"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error})") from error
    version = results.get("schema_version") if isinstance(results, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {version!r}, but this report reads {SCHEMA_VERSION}; "
            "write the report with the smartedge version that made the run"
        )
    if missing := sorted(_missing(results)):
        raise ValueError(f"{path}: lacks {', '.join(missing)}; docs/results-schema.md says what belongs there")
    config = directory / "config.yaml"
    outputs = len(results["task"]["names"])
    labels = () if results["task"]["kind"] == "single" else (outputs,)
    return Run(
        directory=directory,
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


def _missing(results: dict[str, Any]) -> Iterator[str]:
    for key in _REQUIRED:
        place: Any = results
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                yield key
                break
            place = place[part]
    test = results.get("test")
    if isinstance(test, dict):
        heads = [name for name in ("back", "exit") if isinstance(test.get(name), dict)]
        yield from (f"test.{name}.{figure}" for name in heads for figure in _HEAD_FIGURES if figure not in test[name])
        if not heads:
            yield "figures in test.back or test.exit"


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
