"""The generated code and the documented protocol are those of today's link.proto and stream header."""

from __future__ import annotations

import dataclasses
import re
from importlib.resources import files
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from smartedge.types import PROTOCOL, StreamHeader
from smartedge.wire import link_pb2
from smartedge.wire.files import PIECE_BYTES
from smartedge.wire.frame import MAX_HEAD_BYTES, MAX_HEADER_BYTES
from smartedge.wire.grpc_link import COLLECT, METHOD
from smartedge.wire.grpc_receiver import Limits
from smartedge.wire.parts import MESSAGE_BYTES, MIN_PART_BYTES

PROTO = (files("smartedge.wire") / "link.proto").read_text(encoding="utf-8")
FIELD = re.compile(r"^  (optional |repeated )?(\w+) (\w+) = (\d+);", re.MULTILINE)


def test_the_generated_code_is_of_this_proto_file() -> None:
    found = {
        name: {(kind, field, int(number)) for _, kind, field, number in FIELD.findall(body)}
        for name, body in re.findall(r"message (\w+) \{(.*?)\n\}", PROTO, re.DOTALL)
    }
    kinds = {
        FieldDescriptor.TYPE_BYTES: "bytes",
        FieldDescriptor.TYPE_BOOL: "bool",
        FieldDescriptor.TYPE_UINT64: "uint64",
        FieldDescriptor.TYPE_STRING: "string",
    }
    generated = {
        name: {
            (each.message_type.name if each.message_type else kinds[each.type], each.name, each.number)
            for each in described.fields
        }
        for name, described in link_pb2.DESCRIPTOR.message_types_by_name.items()
    }
    assert found == generated and set(found) == {"Up", "Frame", "Down", "Ask", "Told", "File"}
    assert f"package {link_pb2.DESCRIPTOR.package};" in PROTO
    assert f"/{link_pb2.DESCRIPTOR.package}.Link/Send" == METHOD
    assert f"/{link_pb2.DESCRIPTOR.package}.Link/Collect" == COLLECT


@pytest.mark.source
def test_the_page_names_every_key_and_the_limits() -> None:
    page = (Path(__file__).parents[3] / "docs" / "wire-protocol.md").read_text(encoding="utf-8")
    keys = set(re.findall(r"`(\w+)`", page[page.index("## The header") : page.index("## A frame")]))
    assert {field.name for field in dataclasses.fields(StreamHeader)} <= keys
    assert f"| `protocol` | {PROTOCOL}: " in page
    limits = Limits()
    for told in (
        f"at most {MAX_HEADER_BYTES:,} bytes".replace(",", " "),
        f"at least {MIN_PART_BYTES:,} bytes".replace(",", " "),
        f"at most {MESSAGE_BYTES // 2**20} MiB",
        f"| {MESSAGE_BYTES // 2**20} MiB; 16 KiB |",
        f"Largest head: {MAX_HEAD_BYTES // 2**10} KiB",
        f"{PIECE_BYTES:,} bytes".replace(",", " "),
        f"| {limits.handshake_s:g} s |",
        f"| {limits.header_s:g} s; {2 * limits.header_s:g} s |",
        f"| {limits.idle_s / 60:g} min |",
        f"| {limits.connections}; {limits.connections_per_host}. ",
        f"| connections of one edge | {limits.streams_per_edge + limits.spare_connections}; ",
    ):
        assert told in page, told
