"""What benchmarks share: provenance, where the real data are, runs in a process of their own, results, tables."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from smartedge.config import Config, load_config
from smartedge.data import Split, batches
from smartedge.files import write_atomically
from smartedge.launch.datasets import dataset_of
from smartedge.locks import holding
from smartedge.methods.hierarchical import ExitLearner
from smartedge.methods.loop import Progress, fit
from smartedge.metrics import rounded_up
from smartedge.runs.checkpoint import Checkpoints, save_weights
from smartedge.runs.machine import describe_machine, pick_device, versions
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.types import Frame, ImageBatch, StreamHeader

HERE = Path(__file__).resolve().parent


def provenance(arguments: str | None = None) -> dict[str, Any]:
    """Machine, versions, date, commit and command (with ``arguments`` where those given name more than this result).

    ``SMARTEDGE_COMMIT`` names the commit on a machine to which the files went without git's history.
    """
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = os.environ.get("SMARTEDGE_COMMIT")
    if not commit:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "machine": describe_machine(),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "command": f"python benchmarks/{Path(sys.argv[0]).name} "
        + (shlex.join(sys.argv[1:]) if arguments is None else arguments),
    }


def data_folder(name: str) -> Path:
    """The folder of a real data set: in ``$SMARTEDGE_DATA``, or in ``shared/data`` beside the repository."""
    named = os.environ.get("SMARTEDGE_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in HERE.parents]
    for place in places:
        if (place / name).is_dir():
            return place / name
    sys.exit(f"{name} is in none of {', '.join(map(str, places))}; set SMARTEDGE_DATA to the folder that holds it")


def attributes(folder: Path) -> list[str]:
    """The yes/no columns of the training file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(folder / "train.parquet")
    return [field.name for field in schema if pa.types.is_boolean(field.type)]


def in_own_process(code: str, *arguments: str) -> None:
    """Run Python code with ``json``, ``sys``, ``Path`` and ``Quiet`` imported; ``arguments`` are in ``sys.argv``."""
    start = "import json, sys; from pathlib import Path; from smartedge.runs.progress import Quiet; "
    subprocess.run([sys.executable, "-c", start + code, *arguments], check=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a lock beside a folder: another process, or thread, that needs the same folder waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with holding(folder.with_name(f"{folder.name}.lock")):
        yield


def train_in_own_process(config: Mapping[str, Any]) -> dict[str, Any]:
    """Results of a run, both sides in one process of its own; resumed where it was begun, only read where finished.

    Where another process trains the same run, wait for it.
    """
    with alone(Path(config["run_dir"])):
        return _trained(config)


def _trained(config: Mapping[str, Any]) -> dict[str, Any]:
    file = Path(config["run_dir"]) / "results.json"
    kept = file.with_name("config.yaml")
    if kept.exists() and load_config(kept).identity() != load_config(config).identity():
        sys.exit(f"{file.parent} holds a run with other settings; remove it, or choose another folder with --work")
    if not file.exists():
        in_own_process(
            "from smartedge.training import train; "
            "config = json.loads(sys.argv[1]); resume = (Path(config['run_dir']) / 'run.json').exists(); "
            "train(config, resume=resume, single_process=True, monitor=Quiet())",
            json.dumps(config),
        )
    results: dict[str, Any] = json.loads(file.read_text())
    return results


def audit_in_own_process(run: Path, undefended: Path, attacks: Sequence[str], budget: float) -> dict[str, Any]:
    """What an audit of a run finds (``audit.json``) beside an undefended one, by these attacks, on one thread."""
    in_own_process(
        "import torch; torch.set_num_threads(1); from smartedge.lab.audit.suite import AuditSettings, audit; "
        "run, undefended, attacks, budget = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]); "
        "settings = AuditSettings(attacks=tuple(attacks.split(',')), budget=budget, undefended=undefended); "
        "audit(run, settings, Quiet())",
        str(run),
        str(undefended),
        ",".join(attacks),
        str(budget),
    )
    found: dict[str, Any] = json.loads((run / "audit" / "audit.json").read_text())
    return found


def certify_in_own_process(run: Path) -> dict[str, Any]:
    """The certificate of a run, of the release alone and with the desired label known, on one thread.

    Empty where nothing can be certified, for example because the class is too rare; the reason is printed.
    """
    in_own_process(
        "import torch; torch.set_num_threads(1); "
        "from smartedge.lab.audit.certificate.run import CertifySettings, certify; run = Path(sys.argv[1]); "
        "from smartedge.errors import DataError; found = {}\n"
        "try:\n"
        "    for name, known in (('label known', True), ('release alone', False)):\n"
        "        found[name] = certify(run, CertifySettings(label_known=known), Quiet()).model_dump(mode='json')\n"
        "except DataError as error:\n"
        "    print(error)\n"
        "(run / 'certificates.json').write_text(json.dumps(found))",
        str(run),
    )
    found: dict[str, Any] = json.loads((run / "certificates.json").read_text())
    return found


def train_front(config: Config, folder: Path) -> None:
    """Train front and task exit as the edge does before it releases anything; a later call goes on after an epoch."""
    if (folder / "front.safetensors").exists():
        return
    dataset = dataset_of(config)
    split, size = dataset.splits["train"], config.train.batch_size
    device = pick_device(config.hardware.edge_device, "hardware.edge_device")
    learner = ExitLearner(config, dataset.task, device, dataset)
    random = RandomStream(derive_seed(config.seed, "edge"), device)
    progress = Progress(config.front_epochs, len(split) // size)
    checkpoints = Checkpoints(folder / "checkpoints")
    if numbers := checkpoints.numbers():
        kept = checkpoints.load(numbers[-1])
        learner.load_state(kept["learner"])
        random.state = kept["random"]
        progress.epoch, progress.step = numbers[-1], numbers[-1] * progress.steps_per_epoch

    def keep(progress: Progress) -> None:
        checkpoints.save(progress.epoch, {"learner": learner.state(), "random": random.state})
        checkpoints.forget_before(progress.epoch)

    epochs = epochs_of(learner, config, split)
    fit(learner.learn, epochs, progress, rates=learner.rates, random=random, after_epoch=keep)
    save_weights(folder / "exit.safetensors", learner.modules["exit"].state_dict())
    save_weights(folder / "front.safetensors", learner.modules["front"].state_dict())  # last: it marks the end


def epochs_of(learner: ExitLearner, config: Config, split: Split) -> Callable[[int], Generator[ImageBatch, None, None]]:
    """Epoch → the batches that the edge learns from, shuffled and augmented as the settings say."""

    def shuffled(epoch: int) -> Generator[ImageBatch, None, None]:
        learner.begin_epoch(epoch)
        size, kind = config.train.batch_size, config.data.augment
        with batches(split, size, seed=config.seed, epoch=epoch, shuffle=True, augment=kind, drop_last=True) as loader:
            yield from loader

    return shuffled


class DropHandler:
    """What a receiver hands frames to, where nobody needs them."""

    def accept(self, edge: str, header: StreamHeader) -> int:
        return header.first_seq

    def ingest(self, edge: str, header: StreamHeader, frame: Frame) -> None: ...

    def sync(self, edge: str, header: StreamHeader) -> int:
        return header.end_seq

    def finish(self, edge: str, header: StreamHeader) -> None: ...

    def abort(self, edge: str, header: StreamHeader) -> None: ...


def keep_result(file: Path, found: Mapping[str, Any], arguments: str | None = None) -> None:
    """Write one result as JSON, its :func:`provenance` first."""
    keep_json(file, {**provenance(arguments), **found})


def keep_json(file: Path, value: Any) -> None:
    """Write a file of results, whole or not at all: a benchmark that is killed loses none of the earlier ones."""
    _keep(file, json.dumps(value, indent=1) + "\n")


def keep_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with equal keys as CSV."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    _keep(file, table.getvalue())


def _keep(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    file.chmod(0o644)  # unlike the files of a run, results are for everybody


def percent(values: Sequence[float], *, up: bool = False) -> str:
    """Mean, and standard deviation where there are several; nothing where there is no value.

    Args:
        values: shares of one.
        up: they are upper bounds, so their mean is rounded up.
    """
    if not values:
        return ""
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * (rounded_up(mean(values), 4) if up else mean(values)):.2f}{spread}"


def difference(accuracies: Mapping[int, float], others: Mapping[int, float]) -> str:
    """Points between accuracies by seed: mean over the seeds that both have, and its standard error; or nothing."""
    points = [100 * (accuracy - others[seed]) for seed, accuracy in accuracies.items() if seed in others]
    if not points:
        return ""
    error = f" ± {stdev(points) / len(points) ** 0.5:.2f}" if len(points) > 1 else ""
    return f"{mean(points):+.2f}{error}"


def show_table(title: str, rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Print rows with equal keys under their names, and keep them as CSV."""
    if not rows:
        print("nothing is finished yet")
        return
    print(title)
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    print("  ".join(key.ljust(width) for key, width in widths.items()))
    for row in rows:
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()))
    keep_csv(file, rows)
