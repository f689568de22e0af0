"""The mixture term against plain loops, finite differences and the certificate's plug-in; its memory."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from smartedge.methods.differentiable import Differentiable, differentiable
from smartedge.models.released import SimulatedRelease
from smartedge.models.suppression.adversary import TrainingLabels
from smartedge.models.suppression.mixtures import KnownImages, Mixtures
from smartedge.privacy.mechanisms import Mechanism, make_mechanism
from smartedge.types import Task

TASK = Task("single", ("smile",), ("no", "yes"))
MULTI = Task("multi", ("smile", "hat"), ("smile", "hat"))
COLUMNS = {"group": Task("single", ("group",), ("a", "b", "c")), "club": Task("single", ("club",), ("no", "yes"))}
MECHANISMS: dict[str, Mechanism] = {
    "gaussian": make_mechanism("gaussian", feature_shape=(2, 1, 2), clip=2.0, sigma=0.7),
    "laplace": make_mechanism("laplace", feature_shape=(2, 1, 2), clip=2.0, sigma=0.7),
    "randomised-response": make_mechanism("randomised-response", feature_shape=(4,), codebook=4, epsilon=1.0),
    "subset-selection": make_mechanism("subset-selection", feature_shape=(4,), codebook=4, epsilon=0.5),
}


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest) -> Mechanism:
    return MECHANISMS[request.param]


def labels_of(size: int, seed: int, task: Task = TASK) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    desired = torch.randint(0, 2, (size,) if task.kind == "single" else (size, 2), generator=generator)
    hidden = {name: torch.randint(0, one.outputs, (size,), generator=generator) for name, one in COLUMNS.items()}
    return desired if task.kind == "single" else desired.float(), hidden


def mixtures(feature_shape: tuple[int, ...], *, task: Task = TASK, size: int = 12) -> Mixtures:
    desired, hidden = labels_of(60, 5, task)
    return Mixtures(feature_shape, TrainingLabels(task, desired, COLUMNS, hidden), size=size)


def features_of(mechanism: Mechanism, size: int, seed: int) -> Tensor:
    raw = torch.randn(size, *mechanism.feature_shape, generator=torch.Generator().manual_seed(seed))
    return raw if mechanism.channel() is None else torch.softmax(2 * raw, dim=1)


def batch_of(one: Mixtures, mechanism: Mechanism, size: int, seed: int, *, first: int) -> KnownImages:
    desired, hidden = labels_of(size, seed, one.task)
    inputs = differentiable(mechanism).law_inputs(features_of(mechanism, size, seed))
    return one.known(inputs, torch.arange(first, first + size), desired, hidden)


def term(one: Mixtures, twin: Differentiable, released: SimulatedRelease, batch: KnownImages) -> Tensor:
    return one.confuse(released, partial(twin.log_density, released), batch)


def plain_density(mechanism: Mechanism, seen: np.ndarray, outcome: int, clean: np.ndarray) -> float:
    """Density of a release for clean features, up to a factor; for codewords the probability of an outcome."""
    channel = mechanism.channel()
    if channel is not None:
        return float(clean @ channel[:, outcome].astype(np.float64))
    if mechanism.name == "gaussian":
        return math.exp(-((seen - clean) ** 2).sum() / (2 * mechanism.sigma**2))
    return math.exp(-np.abs(seen - clean).sum() * math.sqrt(2) / mechanism.sigma)


def by_loops(one: Mixtures, mechanism: Mechanism, released: SimulatedRelease, batch: KnownImages) -> float:
    """The term, image by image and class by class."""
    rows = released.features_NF.detach().double().flatten(1).numpy()
    known = [
        (features.double().numpy().reshape(-1), int(image), int(group), hidden.tolist())
        for part in (batch, KnownImages(one.features, one.ids, one.groups, one.sensitive))
        for features, image, group, hidden in zip(
            part.features_NF.detach(), part.ids_N, part.groups_N, part.sensitive_NC, strict=True
        )
        if group >= 0
    ]
    total = 0.0
    for image, column in itertools.product(range(len(batch.ids_N)), range(len(one.columns))):
        shares = [1.0] if released.shares_BO is None else released.shares_BO[image].detach().tolist()
        own = int(batch.sensitive_NC[image, column])
        group = int(batch.groups_N[image])
        for outcome, share in enumerate(shares):
            seen = rows[image if released.shares_BO is None else outcome]
            densities = []
            for kind in range(one.classes[column]):
                others = [
                    plain_density(mechanism, seen, outcome, features)
                    for features, other, its_group, hidden in known
                    if its_group == group and hidden[column] == kind and other != int(batch.ids_N[image])
                ]
                densities += [sum(others) / len(others)] if others else []
            posterior = [density / sum(densities) for density in densities]
            divergence = sum(math.log(1 / len(posterior) / p) for p in posterior) / max(1, len(posterior))
            total += float(one.weights_GS[column][group, own]) * share * divergence
    return total / len(batch.ids_N)


@pytest.mark.parametrize("task", [TASK, MULTI], ids=["single", "multi"])
def test_the_term_equals_plain_loops(mechanism, task):
    """With an empty memory, a half filled one, and one that holds other features of the same images."""
    one, twin = mixtures(mechanism.feature_shape, task=task, size=24), differentiable(mechanism)
    for first in (0, 100, 5, 200):
        batch = batch_of(one, mechanism, 10, 50 + first, first=first)
        torch.manual_seed(first)
        released = twin.released(batch.features_NF)
        found = term(one, twin, released, batch)
        assert found.item() == pytest.approx(by_loops(one, mechanism, released, batch), rel=2e-4, abs=1e-5)
        one.remember(batch)


@pytest.mark.parametrize("path", ["release", "mixtures", "both"])
def test_the_gradient_is_that_of_finite_differences(mechanism, path):
    one, twin = mixtures(mechanism.feature_shape), differentiable.__wrapped__(mechanism)  # a twin of its own
    if twin.channel is not None:
        twin.channel, twin.outcomes = twin.channel.double(), twin.outcomes.double()
    one.remember(batch_of(one, mechanism, 12, 1, first=100))
    one.double()
    batch = batch_of(one, mechanism, 8, 2, first=0)
    clean = batch.features_NF.double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def value(moved: Tensor) -> Tensor:
        seen, inside = moved if path != "mixtures" else clean, moved if path != "release" else clean
        released = SimulatedRelease(seen + 0.5 * noise)
        if twin.channel is not None:
            released = SimulatedRelease(twin.outcomes, seen @ twin.channel)
        known = KnownImages(inside, batch.ids_N, batch.groups_N, batch.sensitive_NC)
        return term(one, twin, released, known)

    moved = clean.clone().requires_grad_(True)
    value(moved).backward()
    step = 1e-6
    for place in range(moved.numel()):
        nudge = torch.zeros_like(clean).view(-1)
        nudge[place] = step
        nudge = nudge.view_as(clean)
        with torch.no_grad():
            slope = (value(clean + nudge) - value(clean - nudge)).item() / (2 * step)
        assert moved.grad.view(-1)[place].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)
    assert moved.grad.abs().max() > 1e-4


def test_the_memory_has_no_gradient(mechanism):
    one, twin = mixtures(mechanism.feature_shape), differentiable(mechanism)
    features = features_of(mechanism, 8, 2).requires_grad_(True)
    desired, hidden = labels_of(8, 2)
    one.remember(one.known(twin.law_inputs(features), torch.arange(8), desired, hidden))
    assert not one.features.requires_grad and not list(one.parameters())


def alone(mechanism: Mechanism, *, earlier: bool) -> tuple[float, float]:
    """The term for images of which no two are alike, with their own earlier features in memory or without."""
    size = 40
    one, twin = mixtures(mechanism.feature_shape, size=200), differentiable(mechanism)
    desired = torch.zeros(size, dtype=torch.int64)
    hidden = {"group": torch.zeros(size, dtype=torch.int64), "club": torch.arange(size) % 2}
    raw = torch.randn(size, *mechanism.feature_shape, generator=torch.Generator().manual_seed(0))
    batch = one.known(twin.law_inputs(raw), torch.arange(size), desired, hidden)
    if earlier:
        for _ in range(4):
            one.remember(batch)
    torch.manual_seed(0)
    released = twin.released(raw)
    strangers = KnownImages(batch.features_NF, batch.ids_N + 1000, batch.groups_N, batch.sensitive_NC)
    return term(one, twin, released, batch).item(), term(one, twin, released, strangers).item()


def test_an_image_does_not_count_for_itself():
    """Features that say nothing about the label. With its own earlier features, an image gives itself away."""
    mechanism = make_mechanism("gaussian", feature_shape=(3,), clip=9.0, sigma=1.2)
    without, _ = alone(mechanism, earlier=False)
    with_earlier, as_strangers = alone(mechanism, earlier=True)
    assert with_earlier == pytest.approx(without, rel=1e-4), "also the features of earlier epochs are left out"
    assert as_strangers > 2 * without, "what the test is worth: the same features under other ids are counted"


def test_equal_densities_cost_nothing_and_the_term_tells_them_from_others():
    mechanism = MECHANISMS["gaussian"]
    one, twin = mixtures(mechanism.feature_shape), differentiable(mechanism)
    desired = torch.zeros(12, dtype=torch.int64)
    hidden = {"group": torch.zeros(12, dtype=torch.int64), "club": torch.arange(12) % 2}
    same = torch.ones(12, *mechanism.feature_shape) / 4
    apart = same * (2 * hidden["club"] - 1)[:, None, None, None]
    for features, least, most in ((same, -1e-5, 1e-5), (apart, 0.1, 9.0)):
        batch = one.known(features, torch.arange(12), desired, hidden)
        torch.manual_seed(0)
        assert least < term(one, twin, twin.released(features), batch).item() < most


def test_images_are_compared_with_those_of_the_same_desired_label():
    """Features that tell the desired label alone, which goes with the sensitive one: nothing is to be unlearned."""
    mechanism = MECHANISMS["gaussian"]
    one, twin = mixtures(mechanism.feature_shape), differentiable(mechanism)
    desired = torch.arange(40) % 2
    club = torch.where(torch.arange(40) % 10 < 8, desired, 1 - desired)
    hidden = {"group": torch.zeros(40, dtype=torch.int64), "club": club}
    features = (2.0 * desired - 1)[:, None, None, None].expand(40, *mechanism.feature_shape) / 4
    batch = one.known(features, torch.arange(40), desired, hidden)
    torch.manual_seed(0)
    released = twin.released(features)
    assert term(one, twin, released, batch).abs() < 1e-5
    mixed = KnownImages(batch.features_NF, batch.ids_N, torch.zeros_like(batch.groups_N), batch.sensitive_NC)
    assert term(one, twin, released, mixed) > 0.05


def test_a_class_that_is_not_known_says_nothing():
    mechanism = MECHANISMS["gaussian"]
    one, twin = mixtures(mechanism.feature_shape), differentiable(mechanism)
    features = features_of(mechanism, 6, 0).requires_grad_(True)
    hidden = {"group": torch.zeros(6, dtype=torch.int64), "club": torch.ones(6, dtype=torch.int64)}
    batch = one.known(features, torch.arange(6), torch.zeros(6, dtype=torch.int64), hidden)
    found = term(one, twin, twin.released(features), batch)
    found.backward()
    assert found.item() == 0
    assert torch.equal(features.grad, torch.zeros_like(features))


def test_far_features_leave_finite_values_and_gradients():
    mechanism = make_mechanism("gaussian", feature_shape=(128,), clip=100.0, sigma=0.01)
    one, twin = mixtures(mechanism.feature_shape), differentiable(mechanism)
    desired, hidden = labels_of(16, 3)
    features = torch.randn(16, 128, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    batch = one.known(twin.law_inputs(features), torch.arange(16), desired, hidden)
    found = term(one, twin, twin.released(features), batch)
    found.backward()
    assert torch.isfinite(found) and torch.isfinite(features.grad).all()


def test_the_memory_keeps_the_latest():
    one = mixtures((1,), size=5)
    for first in (0, 3, 6):
        ids = torch.arange(first, first + 3)
        one.remember(one.known(ids[:, None].float(), ids, ids % 2, {"group": ids % 3, "club": ids % 2}))
    assert sorted(one.ids.tolist()) == [4, 5, 6, 7, 8]
    assert torch.equal(one.features[:, 0], one.ids.float())
    assert torch.equal(one.groups, one.ids % 2)
    assert torch.equal(one.sensitive, torch.stack([one.ids % 3, one.ids % 2], dim=1))
    ids = torch.arange(20, 32)
    one.remember(one.known(ids[:, None].float(), ids, ids % 2, {"group": ids % 3, "club": ids % 2}))
    assert sorted(one.ids.tolist()) == [27, 28, 29, 30, 31], "of a batch larger than the memory its last images"
    one.remember(one.known(ids[:1, None].float(), ids[:1], ids[:1] % 2, {"group": ids[:1] % 3, "club": ids[:1] % 2}))
    assert sorted(one.ids.tolist()) == [20, 28, 29, 30, 31], "the oldest of these goes first"


def test_no_name_of_a_column_is_in_the_state():
    assert not {"group", "club"} & {part for name in mixtures((2,)).state_dict() for part in name.split(".")}
    assert mixtures((2,)).columns == ("group", "club")
