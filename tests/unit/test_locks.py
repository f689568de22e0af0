"""Locks on files: alone, shared, at once, and released with the file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from smartedge.locks import holding, lock, lock_at_once, lock_shared, open_lock


def test_one_holds_a_lock_alone_until_its_file_is_closed(tmp_path: Path) -> None:
    first, second = (open_lock(tmp_path / "lock") for _ in range(2))
    assert lock_at_once(first) and not lock_at_once(second) and not lock_at_once(second, shared=True)
    os.close(first)
    assert lock_at_once(second)
    os.close(second)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_several_share_a_lock_and_nobody_has_it_alone_meanwhile(tmp_path: Path) -> None:
    first, second, third = (open_lock(tmp_path / "lock") for _ in range(3))
    lock_shared(first)
    assert lock_at_once(second, shared=True) and not lock_at_once(third)
    os.close(first)
    assert not lock_at_once(third)
    os.close(second)
    assert lock_at_once(third)
    os.close(third)


@pytest.mark.parametrize("how", [lock, lock_shared])
def test_who_finds_a_lock_taken_waits_for_it(tmp_path: Path, how: object) -> None:
    assert callable(how)
    begun, events = threading.Event(), list[str]()

    def wait() -> None:
        begun.set()
        with holding(tmp_path / "lock", how):
            events.append("held")

    waiting = threading.Thread(target=wait)
    with holding(tmp_path / "lock"):
        waiting.start()
        assert begun.wait(20)
        waiting.join(timeout=0.1)  # it cannot end before the block does
        assert waiting.is_alive() and events == []
        events.append("released")
    waiting.join(timeout=20)
    assert events == ["released", "held"]


def test_a_lock_is_released_where_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyError), holding(tmp_path / "lock"):
        raise KeyError
    file = open_lock(tmp_path / "lock")
    assert lock_at_once(file)
    os.close(file)
