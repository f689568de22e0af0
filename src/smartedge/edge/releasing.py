"""An edge that does not train: it releases labelled images once, with a published front. Needs no torch.

What crosses is what an edge with torch sends under schedule ``freeze-and-log`` with ``model.front``: the same streams,
frames, ledger, noise and codec (a test compares the bytes).
"""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smartedge import metrics
from smartedge.artifacts.run import EdgeRun
from smartedge.codec import get_codec
from smartedge.config import Config
from smartedge.edge.labelled import LabelledFolder
from smartedge.edge.protection import open_gate
from smartedge.edge.sender import Sender, Traffic
from smartedge.edge.shipper import Shipper, open_spool
from smartedge.edge.streams import Streams
from smartedge.errors import DataError, FrontError, RunError
from smartedge.files import private_folder
from smartedge.methods.mechanism import mechanism_of
from smartedge.methods.schedules import get_schedule
from smartedge.privacy.balance import same_policy
from smartedge.runs.progress import Monitor, Update, teller
from smartedge.stopping import Interrupted
from smartedge.types import SplitName
from smartedge.wire.link import FrameSender

if TYPE_CHECKING:
    from smartedge.fronts.runtime import OnnxFront

__all__ = ["Releaser"]


class Releaser:
    """Releases the images of a folder to the cloud of a run.

    Args:
        front: the published front.
        config: the run's settings, from :func:`smartedge.fronts.bundle.settings_for_release`.
        source: see :class:`smartedge.edge.labelled.LabelledFolder`.
        link: to the cloud.
        monitor: takes progress updates.
        resume: continue the run that ``config.run_dir`` holds.

    Raises:
        FrontError: the run's noise is not the one that the front was published with.
        RunError: the folder holds a run already, and ``resume`` is not set; or it is of other images.
        DataError: the images cannot be used, or the front's policy is to randomise labels: see
            :mod:`smartedge.data.label_order`.
        PrivacyError: the ledger is missing, damaged, of another run, or does not hold all that was sent.
    """

    def __init__(
        self, front: OnnxFront, config: Config, source: Path, link: FrameSender, monitor: Monitor, *, resume: bool
    ) -> None:
        self.front, self.config, self.monitor = front, config, monitor
        mechanism = mechanism_of(config, front.feature_shape)
        if not same_policy(mechanism.policy(), front.mechanism.policy()):
            raise FrontError(
                f"front '{front.published.manifest.name}': was trained and audited with noise for several releases of "
                "each image, and here each is released once, with less noise; publish a front of a run with schedule "
                "freeze-and-log"
            )
        if config.dp.label_epsilon is not None:
            raise DataError(
                f"{source}: a folder for each class puts the images in the order of their labels, and each frame names "
                "the places of its images. So dp.label_epsilon of this front hides nothing here; release on an edge "
                "with torch, from a table whose rows are in random order"
            )
        self.images = LabelledFolder.open(source, front.task)
        self.ids = {split: self._usable(split) for split in self.images.files}
        folder = config.run_dir / "edge"
        private_folder(folder)
        facts, existing = self._identify(folder / "run.json", resume=resume)
        self.run = facts.run
        train_steps = max(1, len(self.ids["train"]) // config.train.batch_size)
        self.streams = Streams(config, self.run, front.task, front.feature_shape, train_steps)
        tell = teller(monitor, "edge", "link")
        spool = open_spool(config, folder, tell)
        self.next_seq = spool.next_seq  # frames before it are in the spool, or in the cloud
        self.gate = open_gate(config, folder, self.run, mechanism, front.task, existing=existing, sent=self.next_seq)
        facts.write(folder / "run.json")
        traffic = Traffic()
        self.shipper = Shipper(spool, link, folder / "shipped.json", traffic, tell=tell)
        self.sender = Sender(
            link,
            get_codec(config.codec_name),
            self.gate,
            next_seq=self.next_seq,
            queue_frames=config.link.queue_frames,
            threaded=True,
            traffic=traffic,
            shipper=self.shipper,
        )

    def release(self, stop: threading.Event) -> bool:
        """Release every image. True when the cloud has confirmed all; False where ``stop`` was set before."""
        finished = False
        self.shipper.start()
        try:
            with self.sender.until(stop, cut_off=False):
                first_seq = 0
                for stream in get_schedule(self.config.schedule).epochs(self.config)[0].splits:
                    ended = self._release_split(stream, first_seq, stop)
                    if ended is None:
                        return False
                    first_seq = ended
                finished = self.sender.finish(stop)
            return finished
        except Interrupted:
            return False
        finally:
            if not finished:
                self.sender.abort()
            self.gate.ledger.close()

    def _release_split(self, split: SplitName, first_seq: int, stop: threading.Event) -> int | None:
        """Release one split; returns the number of the next frame, or None when stopped."""
        size, data = self.config.train.batch_size, self.config.data
        ids = self.ids[split]
        all_batches = self.images.batches(split, ids, size, data.image_size, data.fit)
        frames = -(-len(ids) // size)
        header = self.streams.header(0, split, first_seq, frames)
        self.sender.open(header)
        right = 0
        for place, (part, pixels_BCHW, labels_B) in enumerate(all_batches):
            if stop.is_set():
                return None
            if first_seq + place < self.next_seq:  # released before
                continue
            features_BF = self.front.features(pixels_BCHW)
            if split == "test":
                logits_BK = self.front.logits(features_BF, released=False)
                right += int((metrics.answers(logits_BK, "single") == labels_B).sum())
            self.sender.send(part, features_BF, labels_B)
            self.monitor.update(Update("edge", f"release {split}", place + 1, frames))
        self.sender.close_stream()
        if split == "test" and self.next_seq <= first_seq and len(ids):
            self._tell("exit", f"the exit answers {100 * right / len(ids):.1f} % of {len(ids)} test images right")
        return header.end_seq

    def _usable(self, split: SplitName) -> NDArray[np.int64]:
        ids, problems = self.images.usable(split, self.config.data.image_size, self.config.data.fit)
        for file, problem in problems.items():
            self._tell("data", f"{file}: {problem}; left out")
        return ids

    def _identify(self, file: Path, *, resume: bool) -> tuple[EdgeRun, bool]:
        """Which run this is, and whether it has begun before."""
        data = self.images.fingerprint()
        if not file.exists():
            return EdgeRun(run=uuid.uuid4().hex, data=data), False
        if not resume:
            raise RunError.begun_before(file.parent)
        facts = EdgeRun.read(file)
        if facts.data != data:
            raise RunError(
                f"{file.parent}: began with other images or labels, so the ledger would not fit them; restore them, or "
                "start a new run"
            )
        return facts, True

    def _tell(self, phase: str, text: str) -> None:
        self.monitor.update(Update("edge", phase, text=text))
