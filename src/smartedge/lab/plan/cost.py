"""What a run costs, for each method and schedule: time, bytes, the edge's memory and energy.

Per frame of B images a pipeline has five stages: data (read and augmented ahead, room 3), edge (room
``link.queue_frames`` behind it), encoding, link, and the cloud behind its log, whose room is ``link.max_lead_frames``.
Each method consists of these parts, with n training, v validation and t test frames and E epochs:

- hierarchical, joint: one pipeline over E·(n + v) + t frames; the edge learns on training frames, and only runs
  forward on the others.
- hierarchical, two-stage: the front alone, F·(n + v) + t steps; then the same pipeline with a frozen front.
- hierarchical, freeze-and-log: the front alone; one pass of all images over the link; then the cloud alone, E epochs.
- upload: the pipeline without a front, with images instead of features, in each epoch (joint) or once (freeze-and-log).
- split: a training step is the sum of its parts, up and down the link with its latency: the edge waits for the
  answer. Validation and test frames stream.
- local: the undivided network on the edge, nothing else. What it reads and its checkpoints are no stage.

No epoch is shorter than the processor time of all threads of a side ÷ its cores: on a single core, reading, computing,
encoding and sending take turns. Where edge and cloud share one machine, that holds for both sides together, and the
work of each side takes longer (by the profile's measured ``slowdown``) for as long as the side with less work computes.

The times include the first batch, the checkpoints and building the network in the cloud. As in ``results.json``, they
do not include starting Python and opening the data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from smartedge.artifacts.plan import Choice, Job, Prediction
from smartedge.artifacts.profile import CodecFigures, Profile, Timing
from smartedge.cloud.order.ahead import MOST_THREADS
from smartedge.lab.plan.energy import edge_energy
from smartedge.lab.plan.job import Setting
from smartedge.lab.plan.links import FRAME_OVERHEAD_BYTES
from smartedge.lab.plan.pipeline import Pass, coarsen, departures, slowdowns
from smartedge.methods.base import get_method
from smartedge.methods.schedules import get_schedule
from smartedge.types import SPLITS, SplitName

__all__ = ["STAGES", "predict"]

STAGES = ("edge", "encode", "link", "cloud")
_READ_AHEAD = 3  # number of batches that the data thread may read ahead
_MOST_FRAMES = 400  # frames of one split in one epoch; if there are more, several count as one larger frame
_LIKE_EPOCHS = 3  # epochs that are computed frame by frame; each later epoch takes as long as the last of them


def predict(choice: Choice, job: Job, setting: Setting) -> Prediction:
    """Predict the costs of a run with one choice.

    Raises:
        KeyError: a profile does not have the cut or the codec.
    """
    costs = _Costs(choice, job, setting, (1.0, 1.0))
    if setting.same_machine and costs.how.has_cloud and not costs.how.answered:
        costs = _Costs(choice, job, setting, slowdowns(costs.overlapping, setting.edge.slowdown))
    return costs.prediction()


@dataclass
class _Busy:
    """Seconds of work, summed over the run, by stage; and of processor time of the parts beside the main steps."""

    edge: float = 0.0
    encode: float = 0.0
    link: float = 0.0
    cloud: float = 0.0
    cpu: float = 0.0


class _Costs:
    """The computation for one choice. ``slow``: factors on the times of the edge's and the cloud's steps."""

    def __init__(self, choice: Choice, job: Job, setting: Setting, slow: tuple[float, float]) -> None:
        self.choice, self.job, self.setting = choice, job, setting
        self.how, self.when = get_method(choice.method), get_schedule(choice.schedule)
        self.edge, self.cloud, self.link = setting.edge, setting.cloud, setting.link
        self.slow_edge, self.slow_cloud = slow
        self.busy = _Busy()
        self.up = self.down = 0.0
        self.train_up = 0.0
        self.train_sent = 0
        self.overlapping = (0.0, 0.0)  # seconds of work of edge and cloud in the part in which stages overlap
        self._begun: set[int] = set()  # kinds of steps (by identity of their timings) whose first batch was counted
        self.cut_edge = self.cut_cloud = None
        if choice.cut is not None:
            self.cut_edge, self.cut_cloud = self.edge.cut(choice.cut), self.cloud.cut(choice.cut)
        self.total_s = self._run()

    def prediction(self) -> Prediction:
        """The figures of the run."""
        epochs, choice, busy = self.job.epochs, self.choice, self.busy
        stages = {name: getattr(busy, name) / epochs for name in STAGES}
        energy = edge_energy(
            self.link,
            compute_watts=self.edge.compute_watts,
            busy_s=busy.edge + busy.encode,
            bytes_up=self.up,
            bytes_down=self.down,
        )
        return Prediction(
            choice=choice,
            seconds_per_epoch=self.total_s / epochs,
            seconds_total=self.total_s,
            stage_seconds=stages,
            bottleneck=max(stages, key=lambda name: stages[name]),
            bytes_up_per_image=self.train_up / self.train_sent if self.train_sent else 0.0,
            bytes_up_total=self.up,
            bytes_down_total=self.down,
            edge_peak_bytes=self._edge_peak(),
            energy=energy,
            depth=self._depth(),
            rmse=self._codec(self.edge).rmse if choice.codec is not None else None,
        )

    # -- the methods

    def _run(self) -> float:
        job = self.job
        if not self.how.has_cloud:
            whole = self.edge.whole
            return self._edge_alone(whole.step, whole.forward, whole.state_bytes, job.epochs, tested=True)
        if self.how.answered:
            return self._split()
        cut = self.cut_edge
        seconds = 0.0
        if cut is not None and job.distill_epochs:
            whole = self.edge.whole
            seconds += self._edge_alone(whole.step, whole.forward, whole.state_bytes, job.distill_epochs, tested=False)
        if cut is not None and self.when.front_first:
            step, forward = cut.front_step, cut.front_forward
            seconds += self._edge_alone(step, forward, cut.front_state_bytes, job.front_epochs, tested=True)
        if self.when.once:
            return seconds + self._send_once() + self._cloud_alone()
        return seconds + self._stream()

    def _edge_alone(self, step: Timing, forward: Timing, state: int, epochs: int, *, tested: bool) -> float:
        """Learning without sending."""
        if epochs == 0:
            return 0.0
        job, edge = self.job, self.edge
        learned = epochs * sum(job.frames("train", learning=True))
        seen = epochs * sum(job.frames("val", learning=False))
        if tested:
            seen += sum(job.frames("test", learning=False))
        once = step.first_seconds + forward.first_seconds
        busy = learned * step.seconds + seen * forward.seconds + once
        processor = learned * (step.cpu_seconds + edge.data.cpu_seconds) + seen * forward.cpu_seconds + once
        self.busy.edge += busy
        saving = epochs * edge.checkpoint.of(state) if state else 0.0
        return max(busy, learned * edge.data.seconds, processor / edge.cores) + saving

    def _stream(self) -> float:
        """Every epoch is sent while the edge trains: all stages overlap."""
        job, follows = self.job, min(self.job.epochs, _LIKE_EPOCHS)
        parts: list[Pass] = []
        ends: list[int] = []  # index of the last frame of each epoch
        count = 0
        for epoch in range(follows):
            for split in ("train", "val"):
                parts.append(self._frames(split, learning=split == "train", cloud_learns=split == "train"))
                count += len(parts[-1].work)
            parts[-1].save(edge_s=self._edge_checkpoint(), cloud_s=self._cloud_checkpoint())
            ends.append(count - 1)
            if epoch + 1 == follows:
                parts.append(self._frames("test", learning=False, cloud_learns=False))
        times = [1.0] * len(parts)
        left = self._through(parts)
        seconds = float(left[-1, -1])
        if job.epochs > follows:
            # Each stage goes on at its own pace. The last one may still be working off what came while it built its
            # network, faster than frames will come later.
            later = left[ends[-1]] + (job.epochs - follows) * (left[ends[-1]] - left[ends[-2]])
            seconds += float(later.max() - left[ends[-1], -1])
            times[2 * (follows - 1)] = times[2 * (follows - 1) + 1] = 1 + job.epochs - follows
        for part, often in zip(parts, times, strict=True):
            self._count(part, often)
        return self._at_least_processor_time(seconds, parts, times)

    def _send_once(self) -> float:
        """A frozen front, or images: everything is sent once, and the cloud only logs it."""
        parts = [self._frames(split, learning=False, cloud_learns=None) for split in SPLITS]
        left = self._through(parts)
        for part in parts:
            self._count(part, 1.0)
        return self._at_least_processor_time(float(left[-1, -1]), parts, [1.0] * len(parts))

    def _cloud_alone(self) -> float:
        """The cloud trains all epochs from the log."""
        job, cloud = self.job, self.cloud
        step, forward, state = self._cloud_steps()
        decode = self._codec(cloud).decode.seconds
        train = max(1, job.images["train"] // job.batch_size) * min(job.batch_size, job.images["train"])
        look = self._from_log(forward.seconds, decode)
        epoch = train * self._from_log(step.seconds, decode) + job.images["val"] * look
        once = step.first_seconds + forward.first_seconds + job.images["test"] * look
        busy = job.epochs * epoch + once
        self.busy.cloud += busy
        return busy + job.epochs * cloud.checkpoint.of(state)

    def _from_log(self, work: float, decode: float) -> float:
        """Seconds of an image from the log: a GPU's threads decode meanwhile, where the cloud has cores for them."""
        threads = min(MOST_THREADS, self.cloud.cores - 1) if self.cloud.device.startswith("cuda") else 0
        return max(work, decode / threads) if threads > 0 else work + decode

    def _split(self) -> float:
        """Training steps one after the other; validation and test stream."""
        job, link, edge_cut, cloud_cut = self.job, self.link, self.cut_edge, self.cut_cloud
        assert edge_cut is not None and cloud_cut is not None
        here, there = self._codec(self.edge), self._codec(self.cloud)
        gradient_codec = (edge_cut.codecs["float32"], cloud_cut.codecs["float32"])
        size = sum(job.frames("train", learning=True)) / len(job.frames("train", learning=True))
        steps = len(job.frames("train", learning=True))
        up = self._frame_bytes(size)
        down = size * (4 * prod(edge_cut.shape) + 4) + FRAME_OVERHEAD_BYTES
        at_edge = size * (edge_cut.split_forward.seconds + edge_cut.split_backward.seconds)
        coding = size * (edge_cut.release.seconds + here.encode.seconds + gradient_codec[0].decode.seconds)
        on_link = self._transport(up) + self._transport(down) + 2 * link.latency_s
        on_link += link.up_seconds(up) + link.down_seconds(down)
        at_cloud = size * (
            cloud_cut.back_step_gradient.seconds + there.decode.seconds + gradient_codec[1].encode.seconds
        )
        step = at_edge + coding + on_link + at_cloud
        first = edge_cut.split_forward.first_seconds + edge_cut.split_backward.first_seconds
        first += cloud_cut.back_step_gradient.first_seconds + cloud_cut.build_seconds
        busy, epochs = self.busy, job.epochs
        busy.edge += epochs * steps * at_edge
        busy.encode += epochs * steps * coding
        busy.link += epochs * steps * on_link
        busy.cloud += epochs * steps * at_cloud
        self.up += epochs * steps * up
        self.down += epochs * steps * down
        self.train_up, self.train_sent = epochs * steps * up, round(epochs * steps * size)
        looks = 0.0
        passes: tuple[tuple[SplitName, int], ...] = (("val", epochs), ("test", 1))
        for split, often in passes:
            part = self._frames(split, learning=False, cloud_learns=False, first=False)
            # One thread reads, computes, encodes and sends, so this is one stage. The cloud's part overlaps.
            mine = part.work[:, 1:4].sum(axis=1, keepdims=True)
            left = departures(np.hstack([mine, part.work[:, 4:]]), [None, None])
            self._count(part, often)
            looks += often * float(left[-1, -1])
        saving = epochs * (self._edge_checkpoint() + self._cloud_checkpoint())
        return first + epochs * steps * step + looks + saving

    # -- the pieces

    def _frames(self, split: SplitName, *, learning: bool, cloud_learns: bool | None, first: bool = True) -> Pass:
        """The stages' work on each frame of one pass. ``cloud_learns``: None where the cloud only logs."""
        edge, cut = self.edge, self.cut_edge
        sizes = self.job.frames(split, learning=learning)
        count, stands_for = coarsen(len(sizes), _MOST_FRAMES)
        images = sum(sizes) / count
        last = sizes[-1] if stands_for == 1.0 else images
        here, there = self._codec(edge), self._codec(self.cloud)
        own, release = Timing(seconds=0.0, cpu_seconds=0.0, spread=0.0, first_seconds=0.0), edge.whole.release
        if cut is not None:
            release = cut.release
            learns = learning and not self.when.front_first
            own = cut.front_step if learns else cut.front_forward
        step, forward, _ = self._cloud_steps()
        in_cloud = step if cloud_learns else forward
        reading = edge.data if learning else edge.data.model_copy(update={"seconds": 0.0, "cpu_seconds": 0.0})
        work = np.zeros((count, 5))
        at_edge = at_cloud = sent = 0.0
        for row in range(count):
            size = last if row + 1 == count else (sizes[0] if stands_for == 1.0 else images)
            bytes_ = self._frame_bytes(size / stands_for) * stands_for
            sent += bytes_
            work[row, 0] = size * reading.seconds
            work[row, 1] = size * own.seconds * self.slow_edge
            work[row, 2] = size * (here.encode.seconds + release.seconds)
            work[row, 3] = max(self.link.up_seconds(bytes_), self._transport(bytes_, stands_for))
            each_end = self._transport_cpu(bytes_, stands_for) / 2
            at_edge += size * (own.cpu_seconds + reading.cpu_seconds + here.encode.cpu_seconds + release.cpu_seconds)
            at_edge += each_end
            at_cloud += each_end
            if cloud_learns is not None:
                work[row, 4] = size * (in_cloud.seconds + there.decode.seconds) * self.slow_cloud
                at_cloud += size * (in_cloud.cpu_seconds + there.decode.cpu_seconds)
        if first:
            at_edge += self._add_first(work, 1, own)
            if cloud_learns is not None:
                at_cloud += self._add_first(work, 4, in_cloud)
        return Pass(split, work, (at_edge, at_cloud), sent, sum(sizes), stands_for)

    def _add_first(self, work: np.ndarray, column: int, timing: Timing) -> float:
        """Add the extra seconds of the first batch of a kind, once in a run; returns them."""
        if id(timing) in self._begun:
            return 0.0
        self._begun.add(id(timing))
        work[0, column] += timing.first_seconds
        return timing.first_seconds

    def _through(self, parts: list[Pass]) -> np.ndarray:
        """The times at which each frame leaves each stage. The cloud begins when it has built its network."""
        job = self.job
        queue = round(job.queue_frames / max(part.stands_for for part in parts))
        rooms = [None, _READ_AHEAD, queue, None, job.max_lead_frames]  # None: a spool on disk, so no wait for the link
        build = self.cut_cloud.build_seconds if self.cut_cloud else self.cloud.whole.build_seconds
        # The link opens when the cloud has built its network. Meanwhile the edge computes.
        ready = [0.0, 0.0, 0.0, build, build]
        left = departures(np.vstack([part.work for part in parts]), rooms, ready)
        arrived: np.ndarray = left + np.array([0.0, 0.0, 0.0, 0.0, self.link.latency_s])
        return arrived

    def _count(self, part: Pass, often: float) -> None:
        """Add a pass to the sums of the run."""
        busy = self.busy
        sums = part.work.sum(axis=0).tolist()
        busy.edge += (sums[1] - part.saving[0]) * often
        busy.encode += sums[2] * often
        busy.link += sums[3] * often
        busy.cloud += (sums[4] - part.saving[1]) * often
        self.up += part.bytes_up * often
        if part.split == "train":
            self.train_up += part.bytes_up * often
            self.train_sent += round(part.images * often)

    def _at_least_processor_time(self, seconds: float, parts: list[Pass], times: list[float]) -> float:
        """Wall-clock seconds of a pipeline: at least the processor time of a machine ÷ its cores."""
        work = sum(part.work.sum(axis=0) * often for part, often in zip(parts, times, strict=True))
        at_edge, at_cloud = (
            sum((part.cpu[side] + part.saving[side]) * often for part, often in zip(parts, times, strict=True))
            for side in (0, 1)
        )
        if self.setting.same_machine:
            seconds = max(seconds, (at_edge + at_cloud) / self.edge.cores)
        else:
            seconds = max(seconds, at_edge / self.edge.cores, at_cloud / self.cloud.cores)
        self.overlapping = (float(work[1]), float(work[4]))
        return seconds

    def _cloud_steps(self) -> tuple[Timing, Timing, int]:
        """The cloud's step, its forward pass, and the bytes of its checkpoint."""
        cut, whole = self.cut_cloud, self.cloud.whole
        if cut is None:
            return whole.step, whole.forward, whole.state_bytes
        return cut.back_step, cut.back_forward, cut.back_state_bytes

    def _codec(self, profile: Profile) -> CodecFigures:
        assert self.choice.codec is not None
        figures = profile.whole if self.choice.cut is None else profile.cut(self.choice.cut)
        return figures.codecs[self.choice.codec]

    def _frame_bytes(self, images: float) -> float:
        """One frame at the socket: payload, side, four bytes of id and the label per image, and its framing."""
        return images * (self._codec(self.edge).bytes_per_image + self.job.label_bytes + 4) + FRAME_OVERHEAD_BYTES

    def _transport(self, bytes_: float, frames: float = 1.0) -> float:
        """Handling at both ends: gRPC, checks, log."""
        cost = self.edge.transport
        return frames * cost.seconds_per_frame + bytes_ * cost.seconds_per_byte

    def _transport_cpu(self, bytes_: float, frames: float) -> float:
        cost = self.edge.transport
        return frames * cost.cpu_seconds_per_frame + bytes_ * cost.cpu_seconds_per_byte

    def _edge_checkpoint(self) -> float:
        state = self.cut_edge.front_state_bytes if self.cut_edge else 0
        return self.edge.checkpoint.of(state)

    def _cloud_checkpoint(self) -> float:
        return self.cloud.checkpoint.of(self._cloud_steps()[2])

    def _edge_peak(self) -> float:
        """Largest resident set: that of a process with the same steps, plus a full queue to the link."""
        whole, job = self.edge.whole, self.job
        if not self.how.has_cloud:
            return whole.peak_bytes
        if self.cut_edge is None:
            numbers = prod(self.edge.network.image_size.shape)
            return whole.baseline_bytes + (job.queue_frames + 1 + _READ_AHEAD) * job.batch_size * numbers
        waiting = 0 if self.how.answered else job.queue_frames
        return self.cut_edge.edge_peak_bytes + waiting * job.batch_size * 4 * prod(self.cut_edge.shape)

    def _depth(self) -> float:
        if self.cut_edge is None:
            return 0.0 if self.how.has_cloud else 1.0
        return self.cut_edge.index / (len(self.edge.all_cuts) + 1)
