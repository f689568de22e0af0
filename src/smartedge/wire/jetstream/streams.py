"""What ingest makes in the broker: the streams of an address, and a consumer for each edge that it takes."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from smartedge.errors import LinkError
from smartedge.wire.jetstream.messages import Address, subject_of

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamConfig

__all__ = ["check_stream", "make_consumer", "make_streams"]

_log = logging.getLogger(__name__)

_DUPLICATE_S = 120.0  # the broker knows the id of a message for so long
_PER_EDGE = 65536  # messages of one edge that a stream holds at most: one edge cannot fill it for all
_BEHIND = 2**20  # messages that were delivered and are not acknowledged, of one edge: a long frame has many
_ACK_S = 24 * 3600.0  # what is not acknowledged comes again with a new consumer; so never by itself, in between


async def make_streams(jetstream: JetStreamContext, address: Address) -> None:
    """Make the streams that are missing, and check those that are there.

    Raises:
        LinkError: one would lose frames.
    """
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
    from nats.js.errors import NotFoundError

    for stream in address.streams:
        try:
            found = (await jetstream.stream_info(stream)).config
        except NotFoundError:
            wanted = StreamConfig(
                name=stream,
                subjects=[subject_of(stream, "*")],
                storage=StorageType.FILE,
                retention=RetentionPolicy.WORK_QUEUE,
                discard=DiscardPolicy.NEW,
                max_msgs_per_subject=_PER_EDGE,
                discard_new_per_subject=True,
                duplicate_window=_DUPLICATE_S,
            )
            found = (await jetstream.add_stream(wanted)).config
            _log.info("broker %s:%d: made the stream %r", address.host, address.port, stream)
        check_stream(address, stream, found)


def check_stream(address: Address, stream: str, found: StreamConfig) -> None:
    """Refuse a stream that would lose frames.

    Raises:
        LinkError: what is wrong with it.
    """
    from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

    at_once = getattr(found, "persist_mode", None) == "async"  # older versions of the library do not know it
    wrong = {
        "storage is not file": found.storage != StorageType.FILE,
        "it confirms before it writes (persist_mode async)": at_once,
        "retention is not workqueue": found.retention != RetentionPolicy.WORK_QUEUE,
        "discard is not new": found.discard != DiscardPolicy.NEW,
        "its limit for each subject drops the oldest messages (set discard_new_per_subject)": (
            found.max_msgs_per_subject > 0 and not found.discard_new_per_subject
        ),
        "it has a max_age": bool(found.max_age),
        "an edge may delete the messages of all (allow_rollup_hdrs)": found.allow_rollup_hdrs,
        "it renames subjects": found.subject_transform is not None,
        f"its subject is not {subject_of(stream, '*')}": found.subjects != [subject_of(stream, "*")],
    }
    if said := "; ".join(fault for fault, there in wrong.items() if there):
        raise LinkError(
            f"broker {address.host}:{address.port}: the stream {stream!r} would lose frames: {said}. Edit it, or let "
            f"ingest make another one (nats://{address.host}:{address.port}/NAME)"
        )


async def make_consumer(jetstream: JetStreamContext, stream: str, edge: str) -> None:
    """Make a new consumer of an edge's messages: it begins with the oldest that is not acknowledged."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    with contextlib.suppress(NotFoundError):
        await jetstream.delete_consumer(stream, edge)
    wanted = ConsumerConfig(
        durable_name=edge,
        filter_subject=subject_of(stream, edge),
        ack_policy=AckPolicy.EXPLICIT,
        deliver_policy=DeliverPolicy.ALL,
        ack_wait=_ACK_S,
        max_ack_pending=_BEHIND,
        mem_storage=True,  # it is made anew whenever it is needed; what is acknowledged leaves the stream's files
    )
    await jetstream.add_consumer(stream, wanted)
