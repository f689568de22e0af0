"""What the page of a run shows, read from the files of its directory. Nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Literal, TypeVar

from smartedge.artifacts.base import Part
from smartedge.artifacts.fleet_run import EdgeFigures, FleetFigures
from smartedge.artifacts.metrics import EpochFigures, read_metrics
from smartedge.artifacts.progress import News, SideProgress, Work
from smartedge.artifacts.results import Results
from smartedge.artifacts.run import Confirmed, Shipped
from smartedge.artifacts.summary import CloudSummary, EdgeSummary, TrafficTotals
from smartedge.config import Config, load_config
from smartedge.errors import SmartEdgeError
from smartedge.methods.base import get_method
from smartedge.metrics import rounded_up
from smartedge.privacy.balance import read_balance
from smartedge.runs.progress_file import PROGRESS

__all__ = ["RunReader", "RunState"]

_State = Literal["not begun", "running", "silent", "stopped", "finished", "gone"]

_SILENT_S = 60.0  # after that long without news, a side that has not ended may hang
_LINES = 120  # of the log
_LEDGER_EVERY_S = 10.0
_LEDGER_SHARE = 100  # the ledger is read no more often than once in so many times the time that reading took

_ADVICE: dict[str, str] = {
    "silent": "No news for more than a minute. Either a step takes long, or the process was killed. Then the run goes "
    "on with the command that started it, and --resume.",
    "stopped": "Stopped before its end. The run goes on with the command that started it, and --resume.",
    "gone": "The folder of this run is not there any more: it was removed, or moved.",
}


class Side(Part):
    """One side."""

    name: Literal["edge", "cloud"]
    state: _State
    seconds: float | None  # since its last news; None: there was none
    works: tuple[Work, ...]


class Line(Part):
    """One line of the log."""

    side: str
    at: float
    text: str
    warning: bool


class Point(Part):
    """One epoch of one side on the validation images."""

    side: str
    epoch: int  # from 1
    loss: float
    balanced_accuracy: float


class Sent(Part):
    """What crossed the link."""

    up: int  # bytes
    down: int
    images: int
    jpeg: float | None  # bytes of one image as JPEG; known at the end


class Spent(Part):
    """The privacy budget of the image that spent most."""

    mechanism: str
    epsilon: float | None  # three digits, rounded up; None: no bound
    budget: float | None  # None: none is set
    delta: float
    releases: int  # of one image, at most
    of_each_number: int  # 1: ε is of an image; N: of each of the N numbers of its feature map alone


class Edge(Part):
    """One edge of the fleet."""

    name: str
    state: str
    images: int
    bytes: int
    lag: int
    refused: int
    accuracy: float | None


class RunState(Part):
    """All that the page shows."""

    run: str
    title: str
    about: str
    state: _State
    names: dict[str, str]  # side → what answers there
    sides: tuple[Side, ...]
    points: tuple[Point, ...]
    chance: float | None
    sent: Sent | None
    spent: Spent | None
    edges: tuple[Edge, ...]
    budget: float | None  # of an image, in a run of several edges
    delta: float | None  # of that budget
    refused: int
    result: str | None  # of a run that has ended; what to do where it goes on no more
    log: tuple[Line, ...]  # the newest first


T = TypeVar("T")


class _Cached(Generic[T]):
    """The content of a file. It is read again when the file has changed; None where it cannot be read."""

    def __init__(self, read: Callable[[Path], T]) -> None:
        self._read = read
        self._known: dict[Path, tuple[tuple[int, int], T | None]] = {}

    def of(self, path: Path) -> T | None:
        try:
            found = path.stat()
        except OSError:
            return None
        stamp = (found.st_mtime_ns, found.st_size)
        if path not in self._known or self._known[path][0] != stamp:
            try:
                value = self._read(path)
            except (SmartEdgeError, OSError, ValueError):  # half written, or of another version
                value = None
            self._known[path] = (stamp, value)
        return self._known[path][1]


class RunReader:
    """Reads one run directory, again and again, and only what has changed.

    Args:
        run_dir: may be empty still, or hold the runs of a demo: then the newest of them is shown.
    """

    def __init__(self, run_dir: Path) -> None:
        self._root = run_dir
        self._seen = False  # whether there was a run
        self._settings = _Cached(load_config)
        self._progress = _Cached(SideProgress.read)
        self._metrics = _Cached(read_metrics)
        self._fleet = _Cached(FleetFigures.read)
        self._results = _Cached(Results.read)
        self._edge, self._cloud = _Cached(EdgeSummary.read), _Cached(CloudSummary.read)
        self._confirmed, self._shipped = _Cached(Confirmed.read), _Cached(Shipped.read)
        self._spent = _SpentBudget()

    def state(self) -> RunState:
        """The run as it is now."""
        run = self._newest()
        config, results = self._settings.of(run / "config.yaml"), self._results.of(run / "results.json")
        sides, log = self._sides(run, config)
        fleet = self._fleet.of(run / "cloud" / "fleet.json")
        self._seen = self._seen or config is not None
        gone = self._seen and config is None and not run.exists()
        state: _State = "gone" if gone else "finished" if results is not None else _whole(sides)
        edges = () if fleet is None else tuple(_edge(name, each) for name, each in fleet.edges.items())
        return RunState(
            run=str(run),
            title=run.resolve().name,
            about=_about(config) if config else "" if gone else "no run has begun here yet",
            state=state,
            names=_names(config),
            sides=() if gone else sides,
            points=self._points(run),
            chance=None if results is None else results.chance,
            sent=self._sent(run),
            spent=self._spent.of(run / "edge" / "ledger.sqlite"),
            edges=edges,
            budget=None if fleet is None else fleet.epsilon,
            delta=None if fleet is None else fleet.delta,
            refused=sum(each.refused for each in edges),
            result=_ADVICE.get(state) if results is None else _result(results),
            log=log,
        )

    def _newest(self) -> Path:
        if (self._root / "config.yaml").exists():
            return self._root
        try:
            runs = [file.parent for file in self._root.glob("*/config.yaml")]
            return max(runs, key=lambda run: (run / "config.yaml").stat().st_mtime, default=self._root)
        except OSError:
            return self._root

    def _sides(self, run: Path, config: Config | None) -> tuple[tuple[Side, ...], tuple[Line, ...]]:
        sides, lines, now = [], [], time.time()
        names: tuple[Literal["edge", "cloud"], ...] = ("edge", "cloud")
        for name in names:
            if name == "cloud" and config is not None and not get_method(config.method).has_cloud:
                continue
            if name == "edge" and (run / "cloud" / "fleet.json").exists() and not (run / "edge").exists():
                continue  # the edges of a fleet are elsewhere
            known = self._progress.of(run / name / PROGRESS)
            summary = (self._edge if name == "edge" else self._cloud).of(run / name / "summary.json")
            finished = summary is not None and summary.finished
            seconds = None if known is None else max(0.0, now - known.updated)
            sides.append(
                Side(
                    name=name,
                    state=_state(known, seconds, finished=finished),
                    seconds=seconds,
                    works=() if known is None else known.works,
                )
            )
            lines += [_line(name, each) for each in (known.news if known else ())]
        lines.sort(key=lambda line: line.at, reverse=True)
        return tuple(sides), tuple(lines[:_LINES])

    def _points(self, run: Path) -> tuple[Point, ...]:
        last: dict[tuple[str, int], EpochFigures] = {}
        for file in (run / "metrics.jsonl", run / "edge" / "metrics.jsonl", run / "cloud" / "metrics.jsonl"):
            for row in self._metrics.of(file) or ():
                if row.split == "val" and math.isfinite(row.loss) and math.isfinite(row.balanced_accuracy):
                    last[row.side, row.epoch] = row
        return tuple(
            Point(side=side, epoch=epoch + 1, loss=row.loss, balanced_accuracy=row.balanced_accuracy)
            for (side, epoch), row in sorted(last.items())
        )

    def _sent(self, run: Path) -> Sent | None:
        summary = self._edge.of(run / "edge" / "summary.json")
        confirmed = self._confirmed.of(run / "edge" / "confirmed.json")
        totals: TrafficTotals | None = summary.traffic if summary else confirmed.traffic if confirmed else None
        if totals is None:
            return None
        shipped = self._shipped.of(run / "edge" / "shipped.json")  # newer than what the last checkpoint counted
        up, down = sum(totals.up.values()), sum(totals.down.values())
        if shipped is not None:
            up, down = max(up, sum(shipped.up.values())), max(down, sum(shipped.down.values()))
        jpeg = None if summary is None else summary.reference_bytes.jpeg_q90
        return Sent(up=up, down=down, images=sum(totals.images.values()), jpeg=jpeg)


class _SpentBudget:
    """The ledger's balance. Composing the cost of all releases takes time, so it is read rarely."""

    def __init__(self) -> None:
        self._next = -math.inf
        self._known: Spent | None = None
        self._path: Path | None = None

    def of(self, path: Path) -> Spent | None:
        now = time.monotonic()
        if path == self._path and now < self._next:
            return self._known
        self._path, begun = path, time.monotonic()
        try:
            balance = read_balance(path)
            worst = balance.spent_most
        except (SmartEdgeError, ImportError):  # there is none, or it is being made
            self._known = None
        else:
            self._known = Spent(
                mechanism=str(balance.policy.get("mechanism", "none")),
                epsilon=None if worst is None or math.isinf(worst.epsilon) else rounded_up(worst.epsilon, 3),
                budget=None if math.isinf(balance.budget.epsilon) else balance.budget.epsilon,
                delta=balance.budget.delta,
                releases=max((group.releases for group in balance.groups), default=0),
                of_each_number=balance.of_each_number,
            )
        took = time.monotonic() - begun
        self._next = time.monotonic() + max(_LEDGER_EVERY_S, _LEDGER_SHARE * took)
        return self._known


def _state(known: SideProgress | None, seconds: float | None, *, finished: bool) -> _State:
    if finished:
        return "finished"
    if known is None or seconds is None:
        return "not begun"
    if known.ended:
        return "stopped"
    return "running" if seconds < _SILENT_S else "silent"


def _whole(sides: tuple[Side, ...]) -> _State:
    """The state of a run: running while a side runs; finished when all that began have finished."""
    states = {side.state for side in sides if side.state != "not begun"}
    order: tuple[Literal["running", "silent", "stopped", "finished"], ...] = (
        "running",
        "silent",
        "stopped",
        "finished",
    )
    return next((state for state in order if state in states), "not begun")


def _line(side: str, news: News) -> Line:
    return Line(side=side, at=news.at, text=news.text, warning=news.warning)


def _about(config: Config) -> str:
    desired = config.data.desired if isinstance(config.data.desired, str) else ", ".join(config.data.desired)
    method = get_method(config.method)
    where = f" cut at {config.model.cut}" if method.divides else ""
    hidden = f", {', '.join(config.data.sensitive)} hidden" if config.suppresses else ""
    return (
        f"{config.method}, {config.schedule} · {config.model.name}{where} · {desired} learned{hidden} · "
        f"{config.epochs} epochs"
    )


def _names(config: Config | None) -> dict[str, str]:
    """What answers on each side, in the words of the report."""
    method = get_method("hierarchical" if config is None else config.method)
    sides = {"edge": "exit", "cloud": "back"} if method.has_cloud else {"edge": "exit"}
    return {side: method.heads[head] for side, head in sides.items()}


def _result(results: Results) -> str:
    divided = get_method(results.method).divides
    heads = ", ".join(
        f"{name if divided else 'whole network'} {100 * head.balanced_accuracy:.1f} %"
        for name, head in results.test.present.items()
    )
    return f"{heads} balanced accuracy on {results.data.test} test images; report.html has the whole picture"


def _edge(name: str, figures: EdgeFigures) -> Edge:
    state = "in quarantine" if figures.quarantined is not None else "everything sent" if figures.closed else "sending"
    return Edge(
        name=name,
        state=state + (", capped" if figures.capped else ""),
        images=figures.images,
        bytes=figures.bytes,
        lag=figures.lag,
        refused=figures.refused,
        accuracy=None if figures.test is None else figures.test.balanced_accuracy,
    )
