from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from smartedge.lab.audit.run_evidence import RunEvidence
from smartedge.lab.audit.store import Store, key_of, weights_key
from smartedge.privacy.mechanisms import Gaussian


def test_store_gives_back_only_whole_pieces_of_the_same_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("a", "key", {"x": 1}, {"t": torch.arange(3)})
    found = store.load("a", "key")
    assert found is not None and found[0] == {"x": 1} and found[1]["t"].tolist() == [0, 1, 2]
    assert store.load("a", "other") is None and store.load("b", "key") is None
    (tmp_path / "a.safetensors").write_bytes(b"torn")
    assert store.load("a", "key") is None
    (tmp_path / "a.json").write_text("{")
    assert store.load("a", "key") is None


def test_a_key_tells_apart_all_that_an_attack_works_on(evidence_of: Callable[..., RunEvidence]) -> None:
    truth = [torch.arange(4) % 2] * 3
    evidence = evidence_of([torch.zeros(4, 2)] * 3, truth, front=nn.Linear(2, 2))
    same = replace(evidence, test_features_NF=evidence.test_features_NF.clone())
    assert key_of(same, 0) == key_of(evidence, 0)
    others = [
        replace(evidence, test_features_NF=evidence.test_features_NF + 1),
        replace(evidence, test_labels={"hidden": 1 - truth[2]}),
        replace(evidence, train=replace(evidence.train, views_VNF=(torch.ones(4, 2),))),
        replace(evidence, front=nn.Linear(2, 2)),
        replace(evidence, mechanism=Gaussian((2,), clip=1.0, scale=0.1, delta_=1e-5)),
        replace(evidence, noisy=True),
        replace(evidence, releases=2),
        replace(evidence, labelled=True),
        replace(evidence, config=evidence.config.model_copy(update={"seed": 7})),
    ]
    keys = [key_of(other, 0) for other in (evidence, *others)] + [key_of(evidence, 1)]
    assert len(set(keys)) == len(keys)


def test_networks_are_told_apart_by_their_weights() -> None:
    network = nn.Linear(1, 1, bias=False)
    first = weights_key(network)
    assert weights_key(network) == first and weights_key(None) is None
    with torch.no_grad():
        network.weight += 1
    assert weights_key(network) != first
