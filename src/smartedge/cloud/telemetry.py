"""What the cloud tells of itself while it runs (``--metrics``)."""

from __future__ import annotations

from collections.abc import Iterator

from smartedge.cloud.ingest.figures import figures_of_intakes
from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.runs.telemetry import Figure, Telemetry
from smartedge.wire.grpc_receiver import GrpcReceiver

__all__ = ["cloud_telemetry"]


def cloud_telemetry(runner: CloudRunner | Receiving, receiver: GrpcReceiver) -> Telemetry:
    """Figures of the run, and of every edge of which an acceptable frame came.

    Edges are named by their certificates or tokens. A sender that is refused adds to a count without a name, so it
    cannot make new series.

    Args:
        runner: of the run. Where other processes train the back, there is no step and no loss here.
        receiver: takes the frames.
    """
    handover = runner.ingest.handover

    def figures() -> Iterator[Figure]:
        yield from figures_of_intakes(handover)
        with handover.changed:
            trainer = runner.trainer if isinstance(runner, CloudRunner) else None
            learned = {edge: handover.learned.get(edge, 0) for edge in handover.intakes}
            once = trainer is not None and trainer.finished
            frames = {edge: intake.next_seq for edge, intake in handover.intakes.items()}
        lag = {edge: 0.0 if once else float(count - learned[edge]) for edge, count in frames.items()}
        yield Figure("cloud_lag_frames", "Frames that wait to be learned from", "gauge", lag)
        calls = float(receiver.refusals)
        yield Figure("cloud_refused_calls", "Calls of anybody that were refused or broke off", "counter", calls)
        counts = {edge: count for edge, count in receiver.counters().items() if edge in frames}
        up = {edge: float(count.up) for edge, count in counts.items()}
        down = {edge: float(count.down) for edge, count in counts.items()}
        yield Figure("cloud_received_bytes", "Bytes from an edge, at the socket", "counter", up)
        yield Figure("cloud_sent_bytes", "Bytes to an edge, at the socket", "counter", down)
        if trainer is not None:
            yield Figure("cloud_step", "Updates of the back", "gauge", float(trainer.progress.step))
            yield Figure("cloud_epoch", "Epochs completed", "gauge", float(trainer.progress.epoch))
            loss = None if trainer.latest_loss is None else trainer.latest_loss.item()
            yield Figure("cloud_loss", "Training loss of the latest step", "gauge", loss)

    def trouble() -> list[str]:
        with handover.changed:
            found = ["training has failed"] if handover.failure is not None else []
            return found + [f"edge {edge} is in quarantine" for edge in sorted(handover.quarantined)]

    return Telemetry(figures, trouble)
