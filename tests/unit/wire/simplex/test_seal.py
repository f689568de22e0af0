"""Sealed datagrams: forged, damaged and repeated ones are refused, and no counter is used twice."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from smartedge.errors import LinkError
from smartedge.wire.simplex import seal
from smartedge.wire.simplex.seal import KEY_BYTES, OVERHEAD, Opener, Sealer

KEY, OTHER = bytes(range(KEY_BYTES)), bytes(KEY_BYTES)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be changed in place."""
    now = [0.0]
    monkeypatch.setattr(seal, "time", SimpleNamespace(time=lambda: now[0]))
    return now


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer("cam-1", KEY, tmp_path / "counter")


@pytest.fixture
def opener() -> Opener:
    return Opener({"cam-1": KEY, "cam-2": OTHER})


def test_what_was_sealed_is_opened_once(sealer: Sealer, opener: Opener) -> None:
    datagram = sealer.seal(b"four words of text")
    assert len(datagram) == len(b"four words of text") + OVERHEAD
    assert b"words" not in datagram
    assert opener.open(datagram) == ("cam-1", b"four words of text")
    assert not opener.unopened
    for _ in range(3):
        assert opener.open(datagram) is None
    assert opener.open(sealer.seal(b"")) is None, "nothing is in it"
    assert opener.unopened == {"cam-1": 3}, "an edge whose key is wrong is told of by this"


def test_every_damaged_bit_is_seen(sealer: Sealer, opener: Opener) -> None:
    datagram = sealer.seal(b"content")
    for bit in range(8 * len(datagram)):
        damaged = bytearray(datagram)
        damaged[bit // 8] ^= 1 << bit % 8
        assert opener.open(bytes(damaged)) is None
    for length in range(len(datagram)):
        assert opener.open(datagram[:length]) is None
    assert opener.open(datagram) is not None  # forgeries have not used up its counter


def test_another_edge_cannot_speak_for_it(tmp_path: Path, opener: Opener) -> None:
    assert opener.open(Sealer("cam-1", OTHER, tmp_path / "a").seal(b"x")) is None
    assert opener.open(Sealer("cam-3", OTHER, tmp_path / "b").seal(b"x")) is None
    assert opener.open(Sealer("cam-2", OTHER, tmp_path / "c").seal(b"x")) == ("cam-2", b"x")


def test_keys_may_be_added_changed_and_taken_away(sealer: Sealer, opener: Opener, tmp_path: Path) -> None:
    first = sealer.seal(b"x")
    assert opener.open(first) is not None
    assert opener.admit({"cam-1": KEY, "cam-3": OTHER}) == ["cam-2"]
    assert opener.open(first) is None, "what has come is remembered"
    assert opener.open(Sealer("cam-2", OTHER, tmp_path / "2").seal(b"x")) is None
    assert opener.open(Sealer("cam-3", OTHER, tmp_path / "3").seal(b"x")) is not None
    assert opener.admit({"cam-1": OTHER}) == ["cam-1", "cam-3"]
    assert opener.open(sealer.seal(b"x")) is None
    assert opener.open(Sealer("cam-1", OTHER, tmp_path / "1").seal(b"x")) is not None


def test_late_datagrams_come_once_within_the_window(
    sealer: Sealer, opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seal, "_WINDOW", 8)
    sent = [sealer.seal(b"%d" % number) for number in range(20)]
    assert opener.open(sent[10]) is not None
    assert opener.open(sent[2]) is None  # too old
    assert opener.open(sent[3]) is not None
    assert opener.open(sent[3]) is None
    assert opener.open(sent[19]) is not None
    assert opener.open(sent[11]) is None  # too old now
    assert [opener.open(sent[number]) is not None for number in range(12, 20)] == [True] * 7 + [False]


def test_a_window_keeps_so_many_bits_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_WINDOW", 8)
    window = seal._Window()
    for counter in [*range(100), 10_000]:
        window.note(counter)
        assert window._come.bit_length() <= 8
        assert not window.may_come(counter) and window.may_come(counter + 1)


def test_a_counter_at_its_end_is_refused(tmp_path: Path) -> None:
    """The next one would not fit in a datagram."""
    file = tmp_path / "counter"
    file.write_text(seal._counter_text(2**63))
    assert Sealer("cam-1", KEY, file).seal(b"x")
    file.write_text(seal._counter_text(2**64 - 1))
    with pytest.raises(LinkError, match="it is damaged"):
        Sealer("cam-1", KEY, file)


def test_no_counter_is_used_twice_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal, "_RESERVED", 4)
    used = []
    for sends in (0, 3, 4, 9, 1):  # each time as if killed afterwards
        sealer = Sealer("cam-1", KEY, tmp_path / "counter")
        for _ in range(sends):
            used.append(sealer.counter)
            sealer.seal(b"x")
            assert used[-1] < int((tmp_path / "counter").read_text().split()[0]), "it is reserved on the disk"
    assert len(used) == len(set(used)) == 17
    assert used == sorted(used)


def test_a_counter_that_was_lost_or_restored_from_a_backup_repeats_none(tmp_path: Path, clock: list[float]) -> None:
    clock[0] = 1_000.0
    file = tmp_path / "counter"
    opener, used = Opener({"cam-1": KEY}), []
    sealer = Sealer("cam-1", KEY, file)
    assert opener.open(sealer.seal(b"x"))
    older = file.read_bytes()
    for _ in range(3):
        clock[0] += 1
        sealer = Sealer("cam-1", KEY, file)
        used += [sealer.counter, sealer.counter + 1]
        assert opener.open(sealer.seal(b"x")) and opener.open(sealer.seal(b"x"))
        file.write_bytes(older)
    file.unlink()
    clock[0] += 1
    used.append(Sealer("cam-1", KEY, file).counter)
    assert used == sorted(set(used))
    file.write_bytes(older)
    clock[0] = 0.0  # the clock alone is wrong: the disk counts
    assert Sealer("cam-1", KEY, file).counter == int(older.split()[0])


def test_no_bit_of_a_counter_turns_in_silence(sealer: Sealer, tmp_path: Path) -> None:
    sealer.seal(b"x")
    file = tmp_path / "counter"
    data = file.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(LinkError, match=f"{file}: the counter"):
            Sealer("cam-1", KEY, file)


@pytest.mark.parametrize("text", ["", "12", "12\n", "x\n", "-3\n", "4 4\n"])
def test_a_damaged_counter_is_not_guessed(text: str, tmp_path: Path) -> None:
    (tmp_path / "counter").write_text(text)
    with pytest.raises(LinkError, match="counter of the one-way link cannot be read"):
        Sealer("cam-1", KEY, tmp_path / "counter")


def test_nothing_is_sealed_where_the_counter_cannot_be_kept(sealer: Sealer, tmp_path: Path) -> None:
    tmp_path.rmdir()
    with pytest.raises(LinkError, match="breaks the encryption"):
        sealer.seal(b"x")


@pytest.mark.parametrize("absent", ["cryptography", "raptorq"])
def test_without_its_libraries(absent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else find(name))
    with pytest.raises(LinkError, match=r"pip install .*\[simplex\]"):
        Sealer("cam-1", KEY, tmp_path / "counter")
