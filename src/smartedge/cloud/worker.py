"""One of the processes that train the back: ``torchrun ... -m smartedge.cloud.worker RUN``.

It reads the store, or a copy of it in another place, and writes nothing into it. The first worker decides what is
learned from next, tells the others, and alone writes the journal, checkpoints and figures. Where a worker ends, the
others end too. torchrun starts them again, and they go on from the newest checkpoint. docs/workers.md shows how to
start them.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import torch
from pydantic import BaseModel

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.follower import StoreFollower
from smartedge.cloud.ingest.same_run import agreed
from smartedge.cloud.learning import Job, Learning
from smartedge.cloud.store.copied import CopiedStore
from smartedge.cloud.store.lock import Lock
from smartedge.cloud.store.remote import Remote
from smartedge.cloud.workers.group import ALONE, Group, WorkerGroup, WorkersLost, place_of_worker
from smartedge.config import Config, load_run_config
from smartedge.errors import ConfigError, RunError, SmartEdgeError
from smartedge.files import disk_error, system_error
from smartedge.logs import say
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.runs.allocator import keep_freed_memory
from smartedge.runs.machine import peak_rss_bytes, pick_device
from smartedge.runs.progress import Bars, JsonLines, Monitor, Quiet, Update
from smartedge.stopping import Interrupted, end_after_signal

__all__ = ["FAILED", "Worker", "as_process", "main", "own_gpu", "parser"]

FAILED = "failed"  # phase of the update that tells an error: its text is the error's code, a space, and the message
_LOST = 75  # exit code: another worker was lost; this one is to be started again (EX_TEMPFAIL)
_LOOK = 0.05  # seconds between two looks at the store
_END_S = 5.0  # that one of several workers may go on after it was asked to end
_SAME_STORE_S = 120.0  # until a shared disk shows every machine what one has found
_TURN = 1.0  # seconds after which the first worker tells the others that there is nothing yet


class Turn(BaseModel):
    """What the first worker tells the others to do next. Nothing is set: look at the store again.

    Attributes:
        needed: edge → how many of its frames must be there to begin: make the trainer.
        job: learn from this.
        ended: the run is done (True), or to be stopped (False).
    """

    needed: dict[str, int] | None = None
    job: Job | None = None
    ended: bool | None = None


class Worker:
    """Follows the store, and learns with the other workers of a group.

    Args:
        config: the run's settings.
        folder: the cloud's folder of the run.
        group: the workers.
        monitor: takes progress updates.
        copy: read frames from this copy of the store; None: from ``folder``.

    Raises:
        ConfigError: the settings do not allow workers of their own, or not so many.
    """

    def __init__(
        self, config: Config, folder: Path, group: Group, monitor: Monitor, *, copy: CopiedStore | None = None
    ) -> None:
        if get_method(config.method).answered or not get_method(config.method).has_cloud:
            raise ConfigError(
                f"method: '{config.method}' is not trained by workers of their own; start the run as usual"
            )
        if group.size > config.cloud.shards:
            raise ConfigError(
                f"cloud.shards: a step has {config.cloud.shards} parts, and {group.size} workers were started; start "
                f"at most {config.cloud.shards}"
            )
        self._group = group
        self._handover = Handover()
        self._follower = StoreFollower(folder, self._handover, copy=copy)
        self._follower.refresh()
        self._next_look = 0.0
        self._said = ""  # what this worker waits for
        self.learning = Learning(config, folder, self._handover, monitor, resume=True, group=group)

    def run(self, stop: threading.Event) -> bool:
        """Train until the run is complete (True), or until ``stop`` is set in the first worker (False)."""
        while True:
            turn = Turn.model_validate_json(self._group.agree(lambda: self._decide(stop).model_dump_json()))
            if turn.ended is not None:
                return turn.ended
            if turn.needed is not None:
                self._wait_for(turn.needed)
                for each in self._handover.intakes.values():
                    agreed(self.learning.config, each.streams[0].agreement)  # somebody may have edited config.yaml
                edge, intake = min(self._handover.intakes.items())
                self.learning.make_trainer(edge, intake.streams[0])
                self._tell()
            elif turn.job is not None:
                self._wait_for(turn.job.needed)
                try:
                    self.learning.do(turn.job, stop)
                except Interrupted:  # only where it is alone
                    return False

    def close(self) -> None:
        """Write weights and summary; the first worker alone does so."""
        self.learning.write(peak_rss_bytes=peak_rss_bytes())
        self.learning.close()

    def _decide(self, stop: threading.Event) -> Turn:
        """What all workers do next; waits a little where there is nothing."""
        for _ in range(round(_TURN / _LOOK)):
            self._look()
            if stop.is_set():
                return Turn(ended=False)
            if self.learning.trainer is None and self._handover.intakes:
                return Turn(needed={edge: intake.next_seq for edge, intake in self._handover.intakes.items()})
            if self.learning.done:
                return Turn(ended=True)
            with self._handover.changed:
                job = self.learning.next()
            if job is not None:
                return Turn(job=job)
            stop.wait(_LOOK)
        self._say_what_is_missing()
        return Turn()

    def _say_what_is_missing(self) -> None:
        trainer, frames = self.learning.trainer, self._follower.where
        if trainer is None:
            text = f"waits for the first frames in {frames}"
        elif get_schedule(self.learning.config.schedule).once:
            text = f"waits until everything is in {frames}"
        else:
            return  # the edges are slower, as usual
        if text != self._said:
            self.learning.monitor.update(Update("cloud", "waiting", text=text))
        self._said = text

    def _look(self) -> None:
        """Look at the store, but not so often that it takes more than 2 % of the time; not when it is complete."""
        begun = time.monotonic()
        if begun >= self._next_look and not self._handover.complete:
            self._follower.refresh()
            ended = time.monotonic()
            self._next_look = ended + max(_LOOK, 50 * (ended - begun))

    def _tell(self) -> None:
        trainer = self.learning.trainer
        assert trainer is not None
        epoch = min(trainer.progress.epoch + 1, trainer.progress.epochs)
        several = "workers go" if self._group.size > 1 else "worker goes"
        text = f"{self._group.size} {several} on with epoch {epoch}"
        self.learning.monitor.update(Update("cloud", "workers", text=text))

    def _wait_for(self, needed: dict[str, int]) -> None:
        """Look at the store until so many frames of each edge are here. The first worker has seen them.

        Raises:
            RunError: they do not come: this worker sees another store.
        """
        end = time.monotonic() + _SAME_STORE_S
        while not self._follower.has(needed):
            if time.monotonic() >= end:
                raise RunError(
                    f"{self._follower.where}: worker {self._group.rank} misses frames there that worker 0 has found "
                    f"{_SAME_STORE_S:.0f} s ago; all workers need one folder of the run (docs/workers.md)"
                )
            time.sleep(_LOOK)
            self._follower.refresh()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker until the run is complete, or it is asked to stop. Returns the exit code."""
    args = parser().parse_args(arguments)
    shown: Monitor = JsonLines(sys.stdout) if args.progress == "json" else Bars()

    def fail(code: str, text: str) -> None:
        if args.progress == "json":
            shown.update(Update("cloud", FAILED, text=f"{code} {text}"))

    stop, rank = threading.Event(), 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    try:
        rank, size = place_of_worker()
        if args.progress == "json" and rank == 0:
            threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
        _train(args.run, args.copy, size, shown if rank == 0 else Quiet(), stop, shown)
        return 0  # also where it was asked to stop, or torchrun would start it again
    except WorkersLost as error:
        say(f"worker {rank}: {error}", file=sys.stderr)
        return _LOST
    except SmartEdgeError as error:
        fail(error.code, str(error))
        say(f"error [{error.code}]: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:  # it would come again after a restart
        if (refused := system_error(error)) is not None:
            text = f"{refused.filename or args.run}: worker {rank} cannot go on: {disk_error(refused)}"
            fail(RunError.code, text)
            say(f"error [{RunError.code}]: {text}", file=sys.stderr)
            return RunError.exit_code
        fail(RunError.code, f"worker {rank} has failed: {error!r}")
        traceback.print_exc()
        return 1
    finally:
        shown.close()


def _train(run: Path, url: str | None, size: int, monitor: Monitor, stop: threading.Event, silence: Monitor) -> None:
    config = load_run_config(run)
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    device = pick_device(config.hardware.cloud_device, "hardware.cloud_device")
    if device.type == "cuda":
        torch.cuda.set_device(own_gpu(device))
    folder, copy = run / "cloud", None if url is None else CopiedStore(Remote(url))
    tell = lambda text: silence.update(Update("cloud", "waiting", text=text))  # noqa: E731
    group = WorkerGroup(device, tell) if size > 1 else ALONE
    one: AbstractContextManager[object] = nullcontext()
    if group.leads:  # no other group of workers may train the same run
        one = closing(Lock(folder / "training.lock", "other workers train this run; end them first"))
    with one:
        worker = Worker(config, folder, group, monitor, copy=copy)
        worker.run(stop)
        worker.close()
    group.close()  # only here: where a worker is lost, leaving the group could wait for it


def own_gpu(device: torch.device) -> int:
    """The number of this worker's GPU: each worker of a machine has one of its own.

    Raises:
        ConfigError: there are fewer GPUs than workers on this machine, or the settings name one for all.
    """
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    workers = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if workers > gpus:
        raise ConfigError(
            f"cloud.workers: {workers} workers on this machine need a GPU each, and it has {gpus}; start {gpus}, or "
            "set hardware.cloud_device to cpu"
        )
    if device.index is not None and workers > 1:
        raise ConfigError(f"hardware.cloud_device: {device} is one GPU, {workers} workers need one each; write cuda")
    return number if device.index is None else device.index


def _stop_at_end_of_input(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def parser() -> argparse.ArgumentParser:
    """What a worker's command line may say."""
    known = argparse.ArgumentParser(
        prog="python -m smartedge.cloud.worker",
        description="Train the back of a run from its store, with other workers of torchrun (docs/workers.md).",
    )
    known.add_argument("run", metavar="RUN", type=Path, help="the run's folder, which holds config.yaml and cloud/")
    known.add_argument(
        "--from",
        dest="copy",
        metavar="URL",
        help="read the frames from a copy of the store, such as s3://BUCKET/FOLDER ('smartedge log RUN --to URL')",
    )
    known.add_argument("--progress", choices=["bars", "json"], default="bars", help="json: for another program")
    return known


def as_process(arguments: Sequence[str] | None = None) -> int:
    """Run one worker as this process. Returns 0 where it has done its work, and does not return otherwise.

    A worker that has lost another one may wait for it in torch, where no handler of a signal runs, or when torch leaves
    the group at the end of the process. torchrun waits half a minute for it, and starts the workers again after that.

    torchrun starts its workers again whatever ended them. Where the same would end them again, it is asked to end.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        end_after_signal(_END_S)
    code = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code == 0:
        return code
    if code != _LOST and "TORCHELASTIC_RUN_ID" in os.environ:
        os.kill(os.getppid(), signal.SIGTERM)
    os._exit(code)


if __name__ == "__main__":
    os._exit(as_process())
