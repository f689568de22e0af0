"""The edge's side of a run: it goes through the epochs of the schedule, learns and sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch

from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.data import DataSet
from smartedge.edge.images import Images
from smartedge.edge.outage import tell_of_the_end
from smartedge.edge.protection import open_gate
from smartedge.edge.sender import Sender
from smartedge.edge.shipper import Shipper, begin_shipping
from smartedge.edge.state import EdgeState
from smartedge.edge.streams import Streams
from smartedge.edge.summary import Process, save_samples, save_trained, summarise, write_shared
from smartedge.errors import RunError
from smartedge.files import private_folder
from smartedge.methods.base import get_method
from smartedge.methods.learner import Learner
from smartedge.methods.loop import Progress, fit
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.schedules import Epoch, get_schedule
from smartedge.models.exits import task_loss
from smartedge.models.fixed import kept_as_it_is
from smartedge.models.gradients import what_stays_untrained
from smartedge.models.network import EdgeParts
from smartedge.models.zoo.weights import loaded_in
from smartedge.privacy.release import Gate
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.machine import pick_device, rss_bytes
from smartedge.runs.predictions import Predictions
from smartedge.runs.progress import Monitor, Update, epoch_line, teller
from smartedge.runs.record import Recorder
from smartedge.runs.seeds import RandomStream, derive_seed
from smartedge.stopping import Interrupted
from smartedge.types import ImageBatch, SplitName
from smartedge.wire.link import FrameSender

__all__ = ["EdgeRunner"]


class EdgeRunner:
    """Trains on the edge and sends what the method sends.

    Args:
        config: the run's settings.
        dataset: what to learn from.
        link: to the cloud; None where the method sends nothing.
        folder: the edge's folder of the run.
        monitor: takes progress updates.
        resume: continue from the newest checkpoint in ``folder`` whose frames are durable.
        threaded: send by way of a spool on disk, on threads of their own, except where the edge waits for answers.
            False for a run in one process.
        parts: front and exit, where another process has divided the network.

    Raises:
        RunError: ``folder`` holds a run already and ``resume`` is not set.
        ConfigError: a split has too few images.
        PrivacyError: the ledger is missing, damaged, of another run, or does not hold all that was sent.
    """

    def __init__(
        self,
        config: Config,
        dataset: DataSet,
        link: FrameSender | None,
        folder: Path,
        monitor: Monitor,
        *,
        resume: bool,
        threaded: bool,
        parts: EdgeParts | None = None,
    ) -> None:
        if not resume and (folder / "run.json").exists():
            raise RunError.begun_before(folder)
        self.images = Images(config, dataset)
        private_folder(folder)
        rss_before = rss_bytes()
        self.config = config
        self.dataset = dataset
        self.folder = folder
        self.monitor = monitor
        self.method = get_method(config.method)
        self.schedule = get_schedule(config.schedule)
        self.epochs = self.schedule.epochs(config)
        device = pick_device(config.hardware.edge_device, "hardware.edge_device")
        self.learner = self.method.edge(config, dataset.task, device, dataset, parts)
        if (loaded := loaded_in(self.learner.modules.values())) is not None:
            monitor.update(Update("edge", "network", text=loaded.text()))
        if not config.train.freeze and (kept := kept_as_it_is(self.learner.modules.values())) is not None:
            monitor.update(Update("edge", "network", text=kept))
        for module in (each for name, each in self.learner.modules.items() if name != "exit"):
            stays = what_stays_untrained(
                module,
                config.data.image_size.shape,
                must_learn=not self.method.has_exit,
                task_kind=None if self.method.divides else dataset.task.kind,
            )
            if stays is not None:
                monitor.update(Update("edge", "network", text=stays))
        self.random = RandomStream(derive_seed(config.seed, "edge"), device)
        self.state = EdgeState(folder, self.learner, self.random, dataset)
        existing = self.state.exists
        if resume:
            self.state.restore()
        shape = self.learner.feature_shape
        self.streams = Streams(config, self.state.run, dataset.task, shape, self.images.steps)
        self._waits = threaded and self.method.answered  # for the cloud's answers
        counts = threaded and device.type == "cpu"
        threaded = threaded and not self.method.answered
        self.process = Process(threaded, counts, self.state.counts.epochs, rss_bytes=rss_before)
        self.gate: Gate | None = None
        self.shipper: Shipper | None = None
        self.sender: Sender | None = None
        self._stop = threading.Event()  # set when the run is to stop
        if link is not None:
            mechanism = mechanism_of(config, shape)
            self.gate = open_gate(
                config, folder, self.state.run, mechanism, dataset.task, existing=existing, sent=self.state.next_seq
            )
            self.shipper = begin_shipping(
                config, folder, link, self.state, monitor, only_what_is_left=not self.process.threaded
            )
            self.sender = self._make_sender(link, self.gate)
        self.state.begin()
        self.recorder = Recorder(folder, "edge", resume_epoch=self.state.counts.done)

    def run(self, stop: threading.Event) -> bool:
        """Train and send until done (True) or until ``stop`` is set (False)."""
        finished = False
        self._stop = stop
        if self.shipper is not None:
            self.shipper.start()
        try:
            with nullcontext() if self.sender is None else self.sender.until(stop, cut_off=self._waits):
                if self.sender is not None and self.shipper is None and self.state.counts.done == len(self.epochs):
                    self._end_again()
                finished = self._teach() and self._learn() and self._send_only()
                if finished and self.sender is not None:
                    finished = self.sender.finish(stop)
            return finished
        except Interrupted:
            return False
        finally:
            if not finished and self.sender is not None:
                self.sender.abort()
            self._close(finished=finished)

    # -- the parts of a run, in their order

    def _teach(self) -> bool:
        """Train the teacher, where there is one. False when stopped."""
        teacher, counts = self.learner.teacher, self.state.counts
        if teacher is None:
            return True
        splits: tuple[SplitName, ...] = ("train", "val")
        epochs = [Epoch(n, learns=True, sends=False, splits=splits) for n in range(self.config.train.distill.epochs)]

        def after_epoch(predictions: Predictions, seconds: float) -> None:
            counts.teacher_val = self._answers(teacher, "val").figures()
            counts.taught += 1
            if counts.taught == len(epochs):
                self.state.keep_teacher()
            self._checkpoint()

        return self._fit(teacher, "teach", epochs, counts.taught, after_epoch)

    def _learn(self) -> bool:
        """The epochs in which the front learns. False when stopped."""
        counts, epochs = self.state.counts, [epoch for epoch in self.epochs if epoch.learns]

        def after_epoch(predictions: Predictions, seconds: float) -> None:
            epoch = epochs[counts.done]
            if len(predictions):
                figures = {**predictions.figures().model_dump(), **predictions.further_losses(), "seconds": seconds}
                self.recorder.write(epoch.number, "train", figures)
            if epoch.sends:
                self._sender.close_stream()
            for split in epoch.splits[1:]:
                self._measure(epoch, split)
            counts.done += 1
            self._checkpoint()

        return self._fit(self.learner, "train", epochs, counts.done, after_epoch)

    def _send_only(self) -> bool:
        """The epochs in which the front is frozen and its features are sent. False when stopped."""
        for epoch in self.epochs[self.state.counts.done :]:
            for split in epoch.splits:
                if not self._send_split(epoch, split):
                    return False
            self.state.counts.done += 1
            self._checkpoint()
        return True

    def _end_again(self) -> None:
        """An earlier process has sent everything, and may not have told the cloud that it heard the confirmation."""
        epoch = self.epochs[-1]
        split = epoch.splits[-1]
        frames = len(self.images.whole(split))
        header = self.streams.header(epoch.number, split, self.state.next_seq - frames, frames)
        tell = teller(self.monitor, "edge", "link")
        tell_of_the_end(lambda: self._sender.end_again(header), self._stop, tell)

    # -- one epoch, one split

    def _fit(
        self,
        learner: Learner,
        phase: str,
        epochs: Sequence[Epoch],
        done: int,
        after_epoch: Callable[[Predictions, float], None],
    ) -> bool:
        """Train a learner over the remaining epochs. Epochs that send also send its features.

        ``after_epoch`` gets the answers before each update of the epoch, and the seconds that the edge computed.
        """
        counts = self.state.counts
        predictions, busy_before = Predictions(), 0.0

        def epoch_batches(number: int) -> Generator[ImageBatch, None, None]:
            nonlocal predictions, busy_before
            predictions, busy_before = Predictions(), counts.busy
            learner.begin_epoch(number)
            if epochs[number].sends:
                self._open(epochs[number], "train", self.images.steps)
            with self.images.training(number) as loader:
                yield from loader
            counts.data_wait += loader.wait_seconds
            counts.data_busy += loader.busy_seconds

        def step(batch: ImageBatch, progress: Progress) -> None:
            sends = epochs[progress.epoch].sends
            with self._computing():
                learned = learner.learn(batch, progress, sending=sends)
                if sends and learned.sent_BF is not None:
                    to_send = batch.ids, learned.sent_BF.cpu().numpy(), batch.labels.numpy()
                    if learned.finish is None:
                        self._sender.send(*to_send)
                    else:  # the update waits for the gradient
                        learned.finish(torch.from_numpy(self._sender.exchange(*to_send)))
            if (made := learned.step) is not None:
                predictions.add(batch.ids, batch.labels, made.logits_BK, made.loss, made.figures)

        def report(progress: Progress) -> None:
            loss = f" loss {predictions.latest_loss:.3f}" if len(predictions) else ""
            text = f"epoch {progress.epoch + 1}/{progress.epochs}{loss}"
            self.monitor.update(Update("edge", phase, progress.step, progress.steps, text))

        return fit(
            step,
            epoch_batches,
            Progress(len(epochs), self.images.steps, epoch=done, step=done * self.images.steps),
            rates=learner.rates,
            random=self.random,
            report=report,
            after_epoch=lambda _: after_epoch(predictions, counts.busy - busy_before),
            stop=self._stop.is_set,
        )

    def _measure(self, epoch: Epoch, split: SplitName) -> None:
        """Go through a split without learning: record the figures of the edge's head, and send its features."""
        if epoch.sends:
            self._open(epoch, split, len(self.images.whole(split)))
        predictions = self._answers(self.learner, split, sends=epoch.sends)
        if len(predictions):
            figures = predictions.figures()
            self.recorder.write(epoch.number, split, figures.model_dump())
            last = max((each.number for each in self.epochs if each.learns), default=epoch.number)
            self.monitor.update(epoch_line("edge", epoch.number, last + 1, split, figures))
            if split == "test":
                self.state.counts.test = figures
                save_weights(self.folder / "predictions.safetensors", predictions.tensors())
        if epoch.sends:
            self._sender.close_stream()

    def _send_split(self, epoch: Epoch, split: SplitName) -> bool:
        """Send the features of one split. False when stopped."""
        shuffled = split == "train" and epoch.shuffled
        source = self.images.training(epoch.number) if shuffled else self.images.whole(split)
        alike = [each for each in self.epochs if not each.learns and split in each.splits]
        step, steps = alike.index(epoch) * len(source), len(alike) * len(source)
        self._open(epoch, split, len(source))
        with source as loader:
            for batch in loader:
                if self._stop.is_set():
                    return False
                with self._computing(), self.random.active():
                    features_BF, _ = self.learner.infer(batch)
                assert features_BF is not None
                self._sender.send(batch.ids, features_BF.cpu().numpy(), batch.labels.numpy())
                step += 1
                self.monitor.update(Update("edge", f"release {split}", step, steps))
        self._sender.close_stream()
        return True

    def _answers(self, learner: Learner, split: SplitName, *, sends: bool = False) -> Predictions:
        """A learner's answers for the images of a split. Where ``sends`` is true, their features are sent too."""
        predictions, kind = Predictions(), self.dataset.task.kind
        with self.images.whole(split) as loader:
            for batch in loader:
                if self._stop.is_set():
                    raise Interrupted
                with self._computing(), self.random.active():
                    features_BF, logits_BK = learner.infer(batch)
                if sends and features_BF is not None:
                    self._sender.send(batch.ids, features_BF.cpu().numpy(), batch.labels.numpy())
                if logits_BK is not None:
                    loss = task_loss(logits_BK.cpu(), batch.labels, kind).item()
                    predictions.add(batch.ids, batch.labels, logits_BK, loss)
        return predictions

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Count the time inside as computing time, without the time that sending took in this thread."""
        inline = self.sender.inline_seconds if self.sender else 0.0
        begun, begun_processor = time.perf_counter(), time.thread_time()
        yield
        self.state.counts.busy += time.perf_counter() - begun
        self.state.counts.processor += time.thread_time() - begun_processor
        if self.sender:
            self.state.counts.busy -= self.sender.inline_seconds - inline

    # -- what is sent, and what is kept

    @property
    def _sender(self) -> Sender:
        assert self.sender is not None, "the method sends, so there is a link"
        return self.sender

    def _make_sender(self, link: FrameSender, gate: Gate) -> Sender:
        return Sender(
            link,
            get_codec(self.config.codec_name),
            gate,
            next_seq=self.state.next_seq,
            queue_frames=self.config.link.queue_frames,
            threaded=self.process.threaded,
            traffic=self.state.counts.traffic,
            shipper=self.shipper,
        )

    def _open(self, epoch: Epoch, split: SplitName, frames: int) -> None:
        """Open the stream of one split of one epoch."""
        self._sender.open(self.streams.header(epoch.number, split, self._sender.next_seq, frames))

    def _checkpoint(self) -> None:
        """Write a checkpoint.

        In one process none is needed after the last epoch, since the summary follows at once. Elsewhere it comes before
        the end of the last stream, after which the cloud may be gone.
        """
        sender, spooled = self.sender, self.shipper is not None
        if sender is None:
            self.state.checkpoint(0, lambda confirm: confirm())
        elif spooled or self._waits or self.state.counts.done < len(self.epochs):
            self.state.checkpoint(sender.next_seq, sender.when_durable, spooled=spooled)

    def _close(self, *, finished: bool) -> None:
        if finished:
            save_samples(self.folder, self.dataset)
            write_shared(self.folder.parent / "shared", self.config, self.dataset.task, self.learner.feature_shape)
        save_trained(self.folder, self.learner)
        self.recorder.close()
        summary = summarise(
            self.process,
            self.state.counts,
            self.method,
            self.dataset,
            self.gate,
            self.learner,
            given=self.config.model.front is not None,
            finished=finished,
        )
        summary.write(self.folder / "summary.json")
        if self.gate is not None:
            self.gate.ledger.close()
