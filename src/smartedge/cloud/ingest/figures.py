"""What a process that takes frames in tells of its edges (``--metrics``)."""

from __future__ import annotations

from collections.abc import Iterator

from smartedge.cloud.handover import Handover
from smartedge.cloud.ingest.process import IngestProcess
from smartedge.runs.telemetry import Figure, Telemetry
from smartedge.wire.jetstream.receiver import JetStreamReceiver

__all__ = ["figures_of_intakes", "ingest_telemetry"]


def figures_of_intakes(handover: Handover) -> Iterator[Figure]:
    """Figures of every edge of which an acceptable frame came. Edges are named by their certificates or tokens."""
    with handover.changed:
        intakes = dict(handover.intakes)
        frames = {edge: float(intake.next_seq) for edge, intake in intakes.items()}
        images = {edge: float(intake.images) for edge, intake in intakes.items()}
        refused = {edge: float(intake.refused) for edge, intake in intakes.items()}
        open_ = {edge: float(intake.stream is not None) for edge, intake in intakes.items()}
        sent_all = sum(intake.sent_all for intake in intakes.values())
        complete = handover.complete
        logs = {edge: intake.log for edge, intake in intakes.items() if intake.log is not None}
    yield Figure("cloud_frames", "Frames in the log of an edge", "counter", frames)
    yield Figure("cloud_images", "Images that came since the cloud was started", "counter", images)
    yield Figure("cloud_refused", "Streams and frames of a known edge that were refused", "counter", refused)
    size = {edge: float(log.total_bytes) for edge, log in logs.items()}
    yield Figure("cloud_store_bytes", "Size of the log of an edge", "gauge", size)
    durable = {edge: float(log.durable) for edge, log in logs.items()}
    yield Figure("cloud_watermark_frames", "Frames before this number are durable", "gauge", durable)
    yield Figure("cloud_stream_open", "Whether a stream of the edge is open", "gauge", open_)
    yield Figure("cloud_edges_done", "Edges that have sent everything", "gauge", float(sent_all))
    yield Figure("cloud_complete", "Whether nothing more is taken in", "gauge", float(complete))


def ingest_telemetry(process: IngestProcess, receiver: JetStreamReceiver) -> Telemetry:
    """Figures of one of the processes that move frames from a broker into the store.

    Frames, sizes and watermarks are of all edges in the store, whichever process takes them; images and refusals are
    those of this process.

    Args:
        process: fills the store.
        receiver: takes the frames out of the broker.
    """

    def figures() -> Iterator[Figure]:
        yield from figures_of_intakes(process.ingest.handover)
        bad = {edge: float(count) for edge, count in receiver.bad.copy().items()}
        yield Figure("ingest_bad_messages", "Messages that were not sound, and were deleted", "counter", bad)
        refused = {edge: float(count) for edge, count in receiver.refused.copy().items()}
        yield Figure("ingest_refused", "Times that the run took nothing of an edge; it stays", "counter", refused)
        connected = float(receiver.ready.is_set() and not receiver.trouble)
        yield Figure("ingest_connected", "Whether the broker is reached", "gauge", connected)

    return Telemetry(figures, lambda: [receiver.trouble] if receiver.trouble else [])
