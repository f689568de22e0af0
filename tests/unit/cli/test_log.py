"""``smartedge log``: lists, checks and exports what the cloud stored."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from headers import stream_header

from smartedge.cli.app import main
from smartedge.cloud.store.feature_log import FeatureLog, log_folder
from smartedge.errors import LogError
from smartedge.types import EncodedBatch, Frame
from smartedge.wire.frame import serialise

HEADER = stream_header(batch_size=3, frames=4, train_steps=4)
COUNT = int(np.prod(HEADER.feature_shape))


@pytest.fixture
def run_dir(tmp_path):
    """A run of two edges; the second one misses frames 1 and 2."""
    for edge, seqs in (("door", (0, 1, 2)), ("roof", (0, 3))):
        with contextlib.closing(FeatureLog(log_folder(tmp_path / "cloud", edge), edge)) as log:
            log.begin(HEADER)
            for seq in seqs:
                log.mark_gap(seq)
                values = np.arange(3 * COUNT, dtype=np.float32) + 100 * seq
                batch = EncodedBatch(np.arange(3) + 3 * seq, np.array([0, 1, 0]), values.tobytes(), b"")
                log.append(seq, *serialise(Frame(seq, batch), HEADER))
            log.sync()
    return tmp_path


def test_edges_streams_and_gaps_are_listed(run_dir, capsys):
    assert main(["log", str(run_dir), "--verify"]) == 0
    shown = capsys.readouterr().out
    assert "edge door: 3 frames, 9 images, 0.0 MB, durable before frame 3\n" in shown
    assert "  epoch 1 train: frames 0 to 3, 3 are there, 9 images\n" in shown
    assert "edge roof: 2 frames, 6 images" in shown and "  missing: frames 1 to 2\n" in shown
    assert "2 edges, 5 frames, 15 images" in shown
    assert shown.endswith("Every checksum is right.\n")


def test_as_json(run_dir, capsys):
    assert main(["log", str(run_dir), "--json"]) == 0
    door, roof = json.loads(capsys.readouterr().out)["edges"]
    assert (door["edge"], door["frames"], door["images"], door["durable"], door["gaps"]) == ("door", 3, 9, 3, [])
    assert (roof["next_seq"], roof["gaps"]) == (4, [[1, 3]])
    size = (log_folder(run_dir / "cloud", "door") / "000000.frames").stat().st_size
    assert door["bytes"] == size


@pytest.mark.parametrize("place", [60, -1])  # in the header of a record; in the last payload
def test_damage_is_an_error_that_names_edge_and_frame(run_dir, capsys, place):
    file = log_folder(run_dir / "cloud", "door") / "000000.frames"
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert main(["log", str(run_dir), "--verify"]) == LogError.exit_code
    out, err = capsys.readouterr()
    assert f"edge 'door', frame {0 if place == 60 else 2}: damaged" in err
    assert "edge roof" in out, "the other edge is shown all the same"


def test_the_export_holds_every_image(run_dir, tmp_path, capsys):
    file = tmp_path / "out.parquet"
    assert main(["log", str(run_dir), "--export", str(file)]) == 0
    assert f"{file}: 15 images" in capsys.readouterr().out
    table = pq.read_table(file).to_pylist()
    assert [(row["edge"], row["frame"], row["image"]) for row in table[:4]] == [
        ("door", 0, 0),
        ("door", 0, 1),
        ("door", 0, 2),
        ("door", 1, 3),
    ]
    last = table[-1]
    assert (last["edge"], last["frame"], last["split"], last["labels"]) == ("roof", 3, "train", [0])
    assert last["shape"] == list(HEADER.feature_shape)
    assert last["features"] == [float(300 + value) for value in range(2 * COUNT, 3 * COUNT)]


def test_where_there_is_nothing(tmp_path, capsys):
    assert main(["log", str(tmp_path)]) == LogError.exit_code
    assert "has stored nothing there" in capsys.readouterr().err
    (tmp_path / "cloud" / "log").mkdir(parents=True)
    (tmp_path / "cloud" / "log" / "streams.jsonl").write_text("{}\n")
    assert main(["log", str(tmp_path)]) == LogError.exit_code
    assert "of an earlier version" in capsys.readouterr().err
