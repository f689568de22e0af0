"""Settings that do not go together. Each problem names the settings, and says what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from smartedge.codec import get_codec
from smartedge.config.sections import ADDITIVE, DISCRETE
from smartedge.errors import CodecError
from smartedge.methods.base import get_method
from smartedge.models.blueprint import weights_named
from smartedge.types import EDGE_NAME

if TYPE_CHECKING:
    from smartedge.config.settings import Config

__all__ = ["problems_of"]

_LEVELS = ("uint8", "uint4", "uint2", "uint1", "learned")  # codecs that round to levels, which have differences
_MOST_LABELS = 6  # that adversary.mixture compares: 64 combinations; with more, too few images are alike


def problems_of(config: Config) -> list[str]:
    """What is wrong with these settings, beyond what their method and schedule refuse."""
    return [*_privacy(config), *_network(config), *_data(config), *_fleet(config), *_workers(config), *_link(config)]


def _data(config: Config) -> list[str]:
    problems = []
    both = {config.data.desired} if isinstance(config.data.desired, str) else set(config.data.desired)
    if not both:
        problems.append("data.desired: the list is empty; name at least one column")
    if shared := both & set(config.data.sensitive):
        problems.append(f"data.sensitive: {', '.join(sorted(shared))} cannot be desired and sensitive at once")
    part, parts = config.data.part
    if part > parts:
        problems.append(f"data.shard: there is no part {part} of {parts}; the first is 1/{parts}")
    return problems


def _link(config: Config) -> list[str]:
    problems = _codec(config)
    if (config.link.tls_cert is None) != (config.link.tls_key is None):
        problems.append("link.tls_cert, link.tls_key: give both or neither")
    return problems


def _codec(config: Config) -> list[str]:
    codec = config.codec
    if codec.name == "learned":
        if codec.bytes is None:
            return ["codec.bytes: codec 'learned' needs a target in bytes per image, such as 200"]
        if config.model.codebook is not None:
            return ["codec.name: 'learned' rounds numbers, and codewords (model.codebook) are exact; use 'code'"]
    elif codec.bytes is not None:
        return [f"codec.bytes: only for codec.name 'learned', not {codec.name!r}; remove it"]
    if codec.reference is not None and (codec.name or get_method(config.method).usual_codec(config)) not in _LEVELS:
        return [f"codec.reference: only for codec.name {', '.join(_LEVELS)}; remove it"]
    try:
        get_codec(config.codec_name)
    except CodecError as error:
        return [str(error)]
    return []


def _network(config: Config) -> list[str]:
    train, model, method = config.train, config.model, get_method(config.method)
    added = config.bottleneck is not None or model.codebook is not None or model.adapter is not None
    rules = (
        (
            bool(train.freeze) and not method.divides,
            f"train.freeze: method '{config.method}' does not divide the network and trains all of it; leave it out",
        ),
        (
            "front" in train.freeze and config.method == "split" and not added,
            "train.freeze: split learning trains the front from the cloud's gradient, and a frozen front has "
            "nothing to train; use method 'hierarchical', or add model.adapter",
        ),
        (
            "front" in train.freeze and config.suppresses and not added,
            "train.freeze, adversary: a frozen front cannot learn to hide anything; add model.bottleneck or "
            "model.adapter, which learn it",
        ),
        (
            model.adapter is not None and not train.freeze,
            "model.adapter: it corrects frozen layers; name them in train.freeze, for example 'front'",
        ),
        (
            train.lr_pretrained is not None and weights_named(model.name, model.weights) == "none",
            "train.lr_pretrained: the network has no pretrained weights; give model.weights, or use train.lr",
        ),
    )
    return [problem for wrong, problem in rules if wrong]


def _fleet(config: Config) -> list[str]:
    names = config.fleet.expect if isinstance(config.fleet.expect, tuple) else ()
    problems = [
        f"fleet.expect: {name!r} is no edge's name: small letters, digits, '-' and '_', 63 at most"
        for name in names
        if not re.fullmatch(EDGE_NAME, name)
    ]
    if len(set(names)) != len(names):
        problems.append("fleet.expect: a name is there twice")
    if config.several_edges and get_method(config.method).answered:
        problems.append(f"fleet.expect: method '{config.method}' answers one edge; use another method, or 1")
    if (cuts := config.fleet.cuts) is not None:
        if config.method != "hierarchical":
            problems.append(f"fleet.cuts: only for method 'hierarchical', not '{config.method}'; remove it")
        if len(set(cuts)) != len(cuts):
            problems.append("fleet.cuts: a cut is there twice")
        if config.model.cut not in cuts:
            problems.append(f"model.cut: {config.model.cut!r} is not one of fleet.cuts: {', '.join(cuts)}")
        if not config.several_edges:
            problems.append("fleet.cuts: for several edges; say in fleet.expect how many")
    return problems


def _workers(config: Config) -> list[str]:
    workers, shards, batch = config.cloud.workers, config.cloud.shards, config.train.batch_size
    rules = (
        (
            get_method(config.method).answered and (workers, shards) != (1, 1),
            f"cloud.workers, cloud.shards: method '{config.method}' answers each step before the edge goes on, so "
            "one worker computes it whole; leave both at 1",
        ),
        (
            workers > 0 and shards % workers != 0,
            f"cloud.shards: {shards} parts of a step cannot be divided equally among {workers} workers; choose a "
            f"multiple of {workers}",
        ),
        (
            2 * shards > batch,
            f"cloud.shards: a step has {batch} images (train.batch_size), and each of {shards} parts needs two; "
            f"choose at most {batch // 2}",
        ),
    )
    return [problem for wrong, problem in rules if wrong]


def _privacy(config: Config) -> list[str]:
    dp, model = config.dp, config.model
    additive, discrete = dp.mechanism in ADDITIVE, dp.mechanism in DISCRETE
    without = dp.mechanism == "none"
    labels = 1 if isinstance(config.data.desired, str) else len(config.data.desired)
    rules = (
        (
            config.suppresses and not config.data.sensitive,
            "data.sensitive: adversarial exits need at least one column to hide; name it here",
        ),
        (
            config.adversary.mixture > 0 and without,
            "adversary.mixture: it computes what the noise leaves readable, so it needs noise; choose a "
            "dp.mechanism, or hide by adversary.exits",
        ),
        (
            config.adversary.mixture > 0 and labels > _MOST_LABELS,
            "adversary.mixture: it compares images with the same combination of desired labels, and "
            f"{labels} labels have too many combinations; name at most {_MOST_LABELS}, or hide by adversary.exits",
        ),
        (
            isinstance(model.bottleneck, tuple) and model.codebook is not None,
            "model.bottleneck, model.codebook: give one of them",
        ),
        (
            without and (dp.epsilon is not None or dp.sigma is not None),
            "dp.mechanism: 'none' has neither epsilon nor sigma; choose a mechanism",
        ),
        (
            additive and (dp.epsilon is None) == (dp.sigma is None),
            f"dp.epsilon, dp.sigma: mechanism '{dp.mechanism}' needs exactly one of them",
        ),
        (
            discrete and (dp.epsilon is None or dp.sigma is not None),
            f"dp.epsilon: mechanism '{dp.mechanism}' needs it (and no sigma)",
        ),
        (
            discrete and model.codebook is None,
            f"model.codebook: mechanism '{dp.mechanism}' releases codewords; say how many, such as 8",
        ),
        (
            additive and model.codebook is not None,
            "dp.mechanism: codewords are released by 'randomised-response' or 'subset-selection'",
        ),
        (
            additive and config.bottleneck is None and dp.clip is None,
            "dp.clip: without model.bottleneck the features have no bound; give one, or name a bottleneck, such as "
            "4x1x1 (auto is for runs without noise)",
        ),
        (
            dp.granularity == "element" and dp.mechanism != "laplace",
            "dp.granularity: 'element' is for mechanism 'laplace'; use 'vector'",
        ),
    )
    return [problem for wrong, problem in rules if wrong]
