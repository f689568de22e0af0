"""Each fact that is equal in all streams of an edge, or of a run."""

from __future__ import annotations

import dataclasses

from headers import stream_header

from smartedge.cloud.ingest.same_run import facts_of_edge, facts_of_run

HEADER = stream_header()
OTHERS = {"feature_dtype": "uint8", "task_kind": "multi", "outputs": 3}  # also in all streams of a run
OF_AN_EDGE = OTHERS | {
    "run": "another",
    "agreement": '{"seed": 1}',
    "codec": "uint8",
    "feature_shape": (2, 2, 3),
    "batch_size": 5,
    "train_steps": 2,
}
OF_A_STREAM = {"epoch": 1, "split": "val", "first_seq": 1, "frames": 2, "joined_frames": 2}


def test_a_stream_of_another_run_or_edge_differs_in_one_of_these() -> None:
    for facts, names in ((facts_of_run, OTHERS), (facts_of_edge, OF_AN_EDGE)):
        changed = {
            name
            for name, value in (OF_AN_EDGE | OF_A_STREAM).items()
            if facts(dataclasses.replace(HEADER, **{name: value})) != facts(HEADER)
        }
        assert changed == set(names)
