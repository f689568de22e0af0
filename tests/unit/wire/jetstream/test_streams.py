"""What ingest makes in a broker, and what it refuses there, with a broker that is played."""

from __future__ import annotations

import asyncio
import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from smartedge.errors import LinkError
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.jetstream.streams import check_stream, forget, make_consumer, make_streams

ADDRESS = Address("broker", 5, "faces", 2)


def sound(stream: str) -> StreamConfig:
    """What ingest makes."""
    return StreamConfig(
        name=stream,
        subjects=[f"smartedge.{stream}.*"],
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        max_msgs_per_subject=65536,
        discard_new_per_subject=True,
        duplicate_window=120.0,
    )


class Played:
    """Knows some streams, and notes what is done."""

    def __init__(self, *known: StreamConfig) -> None:
        self.known = {config.name: config for config in known}
        self.done: list[tuple[object, ...]] = []

    async def stream_info(self, name: str) -> Any:
        if name not in self.known:
            raise NotFoundError
        return SimpleNamespace(config=self.known[name])

    async def add_stream(self, config: StreamConfig) -> Any:
        self.done.append(("add", config))
        return SimpleNamespace(config=config)

    async def purge_stream(self, name: str, **which: object) -> None:
        self.done.append(("purge", name, which))

    async def delete_consumer(self, stream: str, name: str) -> None:
        self.done.append(("delete", stream, name))
        raise NotFoundError

    async def add_consumer(self, stream: str, config: ConsumerConfig) -> None:
        self.done.append(("add", stream, config))


def test_the_streams_that_are_missing_are_made() -> None:
    broker: Any = Played(sound("faces"))
    asyncio.run(make_streams(broker, ADDRESS))
    assert broker.done == [("add", sound("faces+2"))]


def test_a_stream_that_is_there_is_looked_at() -> None:
    broker: Any = Played(sound("faces"), dataclasses.replace(sound("faces+2"), max_age=60.0))
    said = r"^broker broker:5: the stream 'faces\+2' would lose frames: it has a max_age\."
    with pytest.raises(LinkError, match=said):
        asyncio.run(make_streams(broker, ADDRESS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"storage": StorageType.MEMORY}, "storage is not file"),
        ({"persist_mode": "async"}, r"it confirms before it writes \(persist_mode async\)"),
        ({"no_ack": True}, r"it confirms nothing \(no_ack\)"),
        ({"retention": RetentionPolicy.INTEREST}, r"retention is not limits \(this cannot be edited\)"),
        ({"discard": DiscardPolicy.OLD}, "discard is not new"),
        ({"max_msgs_per_subject": 1, "discard_new_per_subject": False}, "its limit for each subject drops .*"),
        ({"max_age": 1.0}, "it has a max_age"),
        ({"deny_purge": True}, r"nothing can be removed from it \(deny_purge\)"),
        ({"allow_rollup_hdrs": True}, r"an edge may delete the messages of all \(allow_rollup_hdrs\)"),
        ({"subject_transform": "x"}, "it renames subjects"),
        ({"subjects": ["smartedge.faces.door"]}, r"its subject is not smartedge\.faces\.\*"),
        ({"max_age": 1.0, "deny_purge": True}, r"it has a max_age; nothing can be removed from it \(deny_purge\)"),
    ],
    ids=str,
)
def test_a_stream_that_would_lose_frames_is_refused_and_each_fault_named(changes: dict[str, Any], said: str) -> None:
    found: Any = SimpleNamespace(**{**vars(sound("faces")), **changes})
    with pytest.raises(LinkError, match=rf"^broker broker:5: the stream 'faces' would lose frames: {said}\. Edit it"):
        check_stream(ADDRESS, "faces", found)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_stream_without_a_limit_for_each_edge_loses_nothing(limit: int) -> None:
    """Also where the library is older and does not know some of its settings."""
    facts = vars(sound("faces")) | {"max_msgs_per_subject": limit, "discard_new_per_subject": False}
    facts.pop("persist_mode", None)
    check_stream(ADDRESS, "faces", SimpleNamespace(**facts))  # type: ignore[arg-type]


def test_a_consumer_is_made_anew_and_begins_with_the_oldest_message() -> None:
    broker: Any = Played()
    asyncio.run(make_consumer(broker, "faces", "door"))
    wanted = ConsumerConfig(
        durable_name="door",
        filter_subject="smartedge.faces.door",
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.ALL,
        mem_storage=True,
    )
    assert broker.done == [("delete", "faces", "door"), ("add", "faces", wanted)]


def test_only_one_edges_messages_before_a_number_are_removed() -> None:
    broker: Any = Played()
    asyncio.run(forget(broker, "faces", "door", 7))
    assert broker.done == [("purge", "faces", {"subject": "smartedge.faces.door", "seq": 7})]
