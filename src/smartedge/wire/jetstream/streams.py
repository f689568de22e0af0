"""What ingest makes and removes in the broker: the streams of an address, a consumer for each edge, and messages."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from smartedge.errors import LinkError
from smartedge.wire.jetstream.messages import Address, subject_of

if TYPE_CHECKING:
    from nats.js import JetStreamContext
    from nats.js.api import StreamConfig

__all__ = ["check_stream", "forget", "make_consumer", "make_streams"]

_log = logging.getLogger(__name__)

_DUPLICATE_S = 120.0  # the broker knows the id of a message for so long
_PER_EDGE = 65536  # messages of one edge that a stream holds at most: one edge cannot fill it for all


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
                retention=RetentionPolicy.LIMITS,
                discard=DiscardPolicy.NEW,
                max_msgs_per_subject=_PER_EDGE,
                discard_new_per_subject=True,
                duplicate_window=_DUPLICATE_S,
            )
            found = (await jetstream.add_stream(wanted)).config
            _log.info("broker %s: made the stream %r", address.location, stream)
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
        "it confirms nothing (no_ack)": bool(found.no_ack),
        "retention is not limits (this cannot be edited)": found.retention != RetentionPolicy.LIMITS,
        "discard is not new": found.discard != DiscardPolicy.NEW,
        "its limit for each subject drops the oldest messages (set discard_new_per_subject)": (
            found.max_msgs_per_subject > 0 and not found.discard_new_per_subject
        ),
        "it has a max_age": bool(found.max_age),
        "nothing can be removed from it (deny_purge)": bool(found.deny_purge),
        "an edge may delete the messages of all (allow_rollup_hdrs)": found.allow_rollup_hdrs,
        "it renames subjects": found.subject_transform is not None,
        f"its subject is not {subject_of(stream, '*')}": found.subjects != [subject_of(stream, "*")],
    }
    if said := "; ".join(fault for fault, there in wrong.items() if there):
        raise LinkError(
            f"broker {address.location}: the stream {stream!r} would lose frames: {said}. Edit it, or let "
            f"ingest make another one (nats://{address.location}/NAME)"
        )


async def make_consumer(jetstream: JetStreamContext, stream: str, edge: str) -> None:
    """Make a new consumer of an edge's messages: it begins with the oldest that is there."""
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

    with contextlib.suppress(NotFoundError):
        await jetstream.delete_consumer(stream, edge)
    wanted = ConsumerConfig(
        durable_name=edge,
        filter_subject=subject_of(stream, edge),
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.ALL,
        mem_storage=True,  # it is made anew whenever it is needed
    )
    await jetstream.add_consumer(stream, wanted)


async def forget(jetstream: JetStreamContext, stream: str, edge: str, before: int) -> None:
    """Remove an edge's messages whose number in the stream is lower than this one."""
    await jetstream.purge_stream(stream, subject=subject_of(stream, edge), seq=before)
