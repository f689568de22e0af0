"""What the cloud tells of itself while it runs (``--metrics``)."""

from __future__ import annotations

from collections.abc import Iterator

from smartedge.cloud.receiving import Receiving
from smartedge.cloud.runner import CloudRunner
from smartedge.runs.monitoring import Figure, Watched
from smartedge.wire.grpc_receiver import GrpcReceiver

__all__ = ["watched_cloud"]


def watched_cloud(runner: CloudRunner | Receiving, receiver: GrpcReceiver) -> Watched:
    """Figures of the run, and of every edge of which an acceptable frame came.

    Edges are named by their certificates or tokens. A sender that is refused adds to a count without a name, so it
    cannot make new series.

    Args:
        runner: of the run. Where other processes train the back, there is no step and no loss here.
        receiver: takes the frames.
    """
    handover = runner.ingest.handover

    def figures() -> Iterator[Figure]:
        with handover.changed:
            trainer = runner.trainer if isinstance(runner, CloudRunner) else None
            intakes = dict(handover.intakes)
            learned = {edge: handover.learned.get(edge, 0) for edge in intakes}
            frames = {edge: float(intake.next_seq) for edge, intake in intakes.items()}
            once = trainer is not None and trainer.finished
            lag = {edge: 0.0 if once else frames[edge] - learned[edge] for edge in intakes}
            open_ = {edge: float(intake.stream is not None) for edge, intake in intakes.items()}
            sent_all = sum(intake.sent_all for intake in intakes.values())
            complete = handover.complete
        logs = {edge: intake.log for edge, intake in intakes.items() if intake.log is not None}
        yield Figure("cloud_frames", "Frames in the log of an edge", "counter", frames)
        images = {edge: float(intake.images) for edge, intake in intakes.items()}
        yield Figure("cloud_images", "Images that came since the cloud was started", "counter", images)
        yield Figure("cloud_lag_frames", "Frames that wait to be learned from", "gauge", lag)
        refused = {edge: float(intake.refused) for edge, intake in intakes.items()}
        yield Figure("cloud_refused", "Streams and frames of a known edge that were refused", "counter", refused)
        calls = float(receiver.refusals)
        yield Figure("cloud_refused_calls", "Calls of anybody that were refused or broke off", "counter", calls)
        size = {edge: float(log.total_bytes) for edge, log in logs.items()}
        yield Figure("cloud_store_bytes", "Size of the log of an edge", "gauge", size)
        durable = {edge: float(log.durable) for edge, log in logs.items()}
        yield Figure("cloud_watermark_frames", "Frames before this number are durable", "gauge", durable)
        yield Figure("cloud_stream_open", "Whether a stream of the edge is open", "gauge", open_)
        counts = {edge: count for edge, count in receiver.counters().items() if edge in intakes}
        up = {edge: float(count.up) for edge, count in counts.items()}
        down = {edge: float(count.down) for edge, count in counts.items()}
        yield Figure("cloud_received_bytes", "Bytes from an edge, at the socket", "counter", up)
        yield Figure("cloud_sent_bytes", "Bytes to an edge, at the socket", "counter", down)
        yield Figure("cloud_edges_done", "Edges that have sent everything", "gauge", float(sent_all))
        yield Figure("cloud_complete", "Whether nothing more is taken in", "gauge", float(complete))
        if trainer is not None:
            yield Figure("cloud_step", "Updates of the back", "gauge", float(trainer.progress.step))
            yield Figure("cloud_epoch", "Epochs completed", "gauge", float(trainer.progress.epoch))
            yield Figure("cloud_loss", "Training loss of the latest step", "gauge", trainer.latest_loss)

    def trouble() -> list[str]:
        with handover.changed:
            found = ["training has failed"] if handover.failure is not None else []
            return found + [f"edge {edge} is in quarantine" for edge in sorted(handover.quarantined)]

    return Watched(figures, trouble)
