"""Files of the cloud in a run of several edges."""

from __future__ import annotations

from pathlib import Path

from smartedge.artifacts.fleet_run import Snapshot
from smartedge.errors import RunError


def test_no_bit_that_turned_in_a_snapshot_leaves_out_frames_in_silence(tmp_path: Path) -> None:
    """Every bit: the same numbers are read, or an error says that the file is damaged."""
    file, frames = tmp_path / "snapshot.json", {"door": 17, "gate": 120}
    Snapshot.of(frames).write(file)
    data, silent = file.read_bytes(), []
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            if Snapshot.read(file).frames != frames:
                silent.append(bit)
        except RunError as error:
            if str(file) not in str(error):
                silent.append(bit)
    assert silent == []
