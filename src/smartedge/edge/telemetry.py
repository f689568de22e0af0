"""What an edge tells of itself while it runs (``--metrics``): how much it sent, and never what is in it.

Nothing here depends on the content of images beyond their releases: losses, accuracies and labels are not told. How
many images were released, when, and in how many bytes, is seen on the link anyway.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from smartedge.edge.sender import Sender
from smartedge.errors import PrivacyError
from smartedge.privacy.balance import read_balance
from smartedge.runs.telemetry import Figure, Telemetry

__all__ = ["edge_telemetry"]

_EVERY_S = 60.0  # the ledger is read no more often


class _Budget:
    """The privacy budget of the image that spent most."""

    def __init__(self, sender: Sender) -> None:
        self._ledger = sender.gate.ledger
        self._of_an_image = sender.gate.mechanism.event.granularity != "element"  # else it is of one number
        self._read_at = -math.inf
        self._left: float | None = None

    def left(self) -> float | None:
        """What is left of it; None where there is none of a whole image, or the ledger cannot be read now."""
        if not self._of_an_image or math.isinf(self._ledger.budget.epsilon):
            return None
        if time.monotonic() - self._read_at > _EVERY_S:
            self._read_at = time.monotonic()
            try:
                worst = read_balance(self._ledger.path).spent_most
            except PrivacyError:
                self._left = None
            else:
                self._left = max(0.0, self._ledger.budget.epsilon - (worst.epsilon if worst else 0.0))
        return self._left


def edge_telemetry(sender: Sender | None, epochs: Callable[[], int] | None = None) -> Telemetry:
    """Figures of what was sent.

    Args:
        sender: of the edge; None where the method sends nothing.
        epochs: gives how many are completed; None where nothing is trained.
    """
    shipper = None if sender is None else sender.shipper
    budget = None if sender is None else _Budget(sender)

    def figures() -> Iterator[Figure]:
        if epochs is not None:
            yield Figure("edge_epoch", "Epochs completed", "gauge", float(epochs()))
        if sender is not None and budget is not None:
            images = {split: float(count) for split, count in sender.traffic.images.items()}
            yield Figure("edge_releases", "Images released, over all epochs", "counter", images, label="split")
            text = "Privacy budget of the image that spent most, at dp.delta"
            yield Figure("edge_budget_left_epsilon", text, "gauge", budget.left())
            for way, bytes_ in (("sent", sender.traffic.up), ("received", sender.traffic.down)):
                text = f"Bytes {way}, at the socket, of streams that ended"
                yield Figure(f"edge_{way}_bytes", text, "counter", float(sum(bytes_.values())))
        if shipper is not None:
            spool = shipper.spool
            yield Figure("edge_frames", "Frames that were put into the spool", "counter", float(spool.next_seq))
            yield Figure(
                "edge_frames_confirmed", "Frames that the cloud holds durably", "counter", float(spool.confirmed)
            )
            yield Figure("edge_spool_bytes", "Size of the spool", "gauge", float(spool.total_bytes))
            yield Figure("edge_spool_age_seconds", "Since the oldest waiting frame was written", "gauge", spool.age())
            yield Figure(
                "edge_outages", "Times that the cloud could not be reached", "counter", float(shipper.outage.count)
            )
            yield Figure("edge_outage_seconds", "Since when it cannot; 0: it can", "gauge", shipper.outage.seconds)

    def trouble() -> list[str]:
        if shipper is None:
            return []
        found = []
        if seconds := shipper.outage.seconds:
            found.append(f"the cloud has been unreachable for {seconds:.0f} s; {shipper.outage.why}")
        if shipper.spool.full:
            found.append("the spool is full, and training waits")
        return found

    return Telemetry(figures, trouble)
