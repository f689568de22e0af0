"""A table of pictures: test images, and the best reconstruction of each with and without protection.

A row is a combination of desired and sensitive label. The first column is the input. Each run then has two columns: the
reconstruction from unprotected and from protected features (as in PriPHiT, arXiv 2408.05092, figure 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smartedge.lab.report.canvas import MUTED, drawing, save_png, short
from smartedge.lab.report.page import data_uri
from smartedge.lab.report.read import Pictures, Run, read_run

__all__ = ["Cell", "Gallery", "GalleryRow", "gallery", "network_name", "write_figure"]

Pixels = NDArray[np.uint8]  # (3, H, W)
_NAMES = {
    "vgg11": "VGG-11",
    "vgg11_bn": "VGG-11",
    "vgg16": "VGG-16",
    "vgg16_bn": "VGG-16",
    "resnet18": "ResNet-18",
    "mobilevit_xxs": "MobileViT-xxs",
}


@dataclass(frozen=True)
class Cell:
    """One picture, with its description."""

    pixels: Pixels | None  # None: there is no picture
    alt: str

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        assert self.pixels is not None
        return data_uri(self.pixels)


@dataclass(frozen=True)
class GalleryRow:
    """One test image."""

    label: str  # its desired and sensitive label, in words
    cells: list[Cell]


@dataclass(frozen=True)
class Gallery:
    """The figure as a table of pictures."""

    networks: list[tuple[str, int]]  # a heading, and how many columns it spans; the first one is for the input
    columns: list[str]
    rows: list[GalleryRow]
    images: int  # how many different test images the table shows


def write_figure(run_dirs: Sequence[Path], out: Path) -> Path:
    """Draw the figure of several audited runs as one PNG.

    Args:
        run_dirs: run directories, in the order in which they are shown.
        out: where to write.

    Raises:
        RunError: a directory holds no ``results.json``, or a file is damaged.
        ValueError: no run was audited with reconstruction.
    """
    runs = [read_run(folder) for folder in run_dirs]
    shown = gallery(runs)
    if shown is None:
        raise ValueError(
            f"{', '.join(str(folder) for folder in run_dirs)}: no reconstructions to show; run 'smartedge audit RUN' "
            "with enough time for reconstruction"
        )
    return _draw(shown, out)


def gallery(runs: Sequence[Run]) -> Gallery | None:
    """Put the pictures of the audited runs side by side; None where there are none.

    Where all runs show the same test images, there is one column of inputs. Otherwise each run has its own.
    """
    audited = [run for run in runs if run.pictures is not None]
    if not audited:
        return None
    names = told_apart([network_name(run) for run in audited], audited)
    first = _pictures(audited[0])
    shared = all(_same_images(first, _pictures(run)) for run in audited)
    networks = [("", 1)] if shared else []
    columns = ["input"] if shared else []
    for name in names:
        networks.append((name, 2 if shared else 3))
        columns += ["without", "with"] if shared else ["input", "without", "with"]
    rows = []
    for row in range(min(len(_pictures(run).tensors["ids"]) for run in audited)):
        cells = [_input(first, row)] if shared else []
        for name, run in zip(names, audited, strict=True):
            if not shared:
                cells.append(_input(_pictures(run), row))
            cells += [_reconstruction(_pictures(run), name, row, which) for which in ("undefended", "defended")]
        labels = dict.fromkeys(_label(_pictures(run), row) for run in audited)
        rows.append(GalleryRow(" or ".join(labels), cells))
    inputs = len(rows) * (1 if shared else len(audited))
    return Gallery(networks, columns, rows, inputs)


def network_name(run: Run) -> str:
    """The network's name as people write it, such as ``ResNet-18``."""
    model = str(run.results.model)
    return _NAMES.get(model, model)


def told_apart(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The names of runs, with the directory's name where two runs have the same one."""
    return [
        f"{name} ({run.directory.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]


def _pictures(run: Run) -> Pictures:
    assert run.pictures is not None
    return run.pictures


def _same_images(one: Pictures, other: Pictures) -> bool:
    return all(np.array_equal(one.tensors[name], other.tensors[name]) for name in ("ids", "originals"))


def _label(pictures: Pictures, row: int) -> str:
    """``smile: yes, masculine: no``."""
    parts = []
    for note, name in ((pictures.desired, "desired"), (pictures.sensitive, "sensitive")):
        if note is not None:
            parts.append(f"{note.column}: {note.names[int(pictures.tensors[name][row])]}")
    return ", ".join(parts)


def _input(pictures: Pictures, row: int) -> Cell:
    image = int(pictures.tensors["ids"][row])
    return Cell(pictures.tensors["originals"][row], f"Test image {image}, {_label(pictures, row)}")


def _reconstruction(pictures: Pictures, network: str, row: int, which: str) -> Cell:
    how = "with protection" if which == "defended" else "without protection"
    image, label = int(pictures.tensors["ids"][row]), _label(pictures, row)
    by = f" by '{pictures.attacks[which]}'" if which in pictures.attacks else ""
    alt = f"Test image {image} ({label}) as reconstructed{by} from what {network} sent {how}"
    return Cell(pictures.tensors[which][row] if which in pictures.tensors else None, alt)


def _draw(shown: Gallery, out: Path) -> Path:
    side, gap = 0.95, 0.06  # inches
    width, height = 1.5 + side * len(shown.columns), 0.6 + side * len(shown.rows)
    with drawing(width, height) as canvas:
        canvas.set_layout_engine("none")
        before = 0
        for name, span in shown.networks:
            x = (1.5 + side * (before + span / 2)) / width
            canvas.text(x, 1 - 0.2 / height, short(name, 12 * span), ha="center", va="center", fontsize=10.5)
            before += span
        for place, column in enumerate(shown.columns):
            x = (1.5 + side * (place + 0.5)) / width
            canvas.text(x, 1 - 0.44 / height, column, ha="center", va="center", fontsize=9, color=MUTED)
        for y, row in enumerate(shown.rows):
            bottom = (side * (len(shown.rows) - y - 1) + gap / 2) / height
            middle = bottom + (side - gap) / 2 / height
            canvas.text(1.4 / width, middle, row.label.replace(", ", "\n"), ha="right", va="center", fontsize=9)
            for x, cell in enumerate(row.cells):
                left = (1.5 + side * x + gap / 2) / width
                axes = canvas.add_axes((left, bottom, (side - gap) / width, (side - gap) / height))
                axes.set_axis_off()
                if cell.pixels is not None:
                    axes.imshow(cell.pixels.transpose(1, 2, 0), interpolation="nearest")
        return save_png(canvas, out)
