"""The rate in the loss: what heads see, what moves, and that the codec then needs fewer bytes for less error."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from smartedge.codec.learned import LearnedCodec
from smartedge.methods.front_step import edge_step
from smartedge.methods.protected_step import Protection, protected_step
from smartedge.methods.rate import RateTerm
from smartedge.models.optim import make_optimizer
from smartedge.privacy.mechanisms import make_mechanism

SHAPE = (8, 4, 4)
CODEC = LearnedCodec(32)
CPU = torch.device("cpu")
NONE = make_mechanism("none", feature_shape=SHAPE)


def features(seed: int = 0, batch: int = 32) -> torch.Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed)).tanh()


def network() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    front = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Tanh())
    return front, nn.Sequential(nn.Flatten(), nn.Linear(128, 2))


def images(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return inputs, (inputs[:, 0].mean(dim=(1, 2)) > 0).long()


def test_the_step_follows_from_the_first_batch_and_stays() -> None:
    term = RateTerm(SHAPE, CODEC, CPU)
    first_BF = features()
    term.rounded(first_BF)
    assert term.step == LearnedCodec(40).step(first_BF.numpy())  # a quarter more than the target
    before = term.step
    term.rounded(3 * first_BF)
    assert term.step == before


def test_heads_see_what_the_codec_makes_of_the_features_and_the_gradient_passes() -> None:
    term, features_BF = RateTerm(SHAPE, CODEC, CPU), features().requires_grad_()
    rounded_BF = term.rounded(features_BF)
    codec = LearnedCodec(40)  # with a quarter more than the target it takes the term's step
    payload, side = codec.encode(features_BF.detach().numpy())
    decoded_BF = codec.decode(payload, side, batch=32, feature_shape=SHAPE, dtype=np.dtype(np.float32))
    torch.testing.assert_close(rounded_BF.detach(), torch.from_numpy(decoded_BF))
    rounded_BF.sum().backward()
    assert features_BF.grad is not None and bool((features_BF.grad == 1).all())


def test_the_penalty_is_lambda_times_the_share_of_the_target() -> None:
    """Of features with noise as wide as a step, so that there is a gradient."""
    term, features_BF = RateTerm(SHAPE, CODEC, CPU), features().requires_grad_()
    term.rounded(features_BF)
    assert term.step is not None
    numbers = features_BF.detach().permute(0, 2, 3, 1).reshape(-1, 8) / term.step
    for term.weight in (0.1, 0.2):
        torch.manual_seed(3)
        bits = term._prior(numbers + torch.rand(numbers.shape) - 0.5).item()
        torch.manual_seed(3)
        penalty = term.penalty(features_BF)
        assert penalty.item() == pytest.approx(term.weight * bits / (8 * 32 * 32), rel=1e-5)
    penalty.backward()
    assert features_BF.grad is not None and bool((features_BF.grad != 0).any())


@pytest.mark.parametrize(("scale", "rises"), [(2.0, True), (0.2, False)])
def test_lambda_rises_while_the_rate_is_above_the_target_and_has_limits(scale: float, rises: bool) -> None:
    term = RateTerm(SHAPE, CODEC, CPU)
    term.rounded(features())
    seen = []
    for _ in range(200):
        term.penalty(scale * features()).backward()
        figures = term.update(scale * features())
        seen.append(figures["rate_weight"])
    assert (figures["rate_bytes"] > 32) == rises
    assert all(one <= other for one, other in zip(*((seen, seen[1:]) if rises else (seen[1:], seen)), strict=False))
    assert term.weight == (3.0 if rises else 0.01)


@pytest.mark.parametrize(("times", "power"), [(1.5, math.log(1.5)), (100.0, 1.0), (0.01, -1.0)])
def test_one_update_changes_lambda_by_a_twentieth_of_the_excess_which_is_one_at_most(
    monkeypatch: pytest.MonkeyPatch, times: float, power: float
) -> None:
    term = RateTerm(SHAPE, CODEC, CPU)
    term.rounded(features())
    monkeypatch.setattr(LearnedCodec, "frame_bytes", lambda *_: times * 32 * 32)
    term.penalty(features()).backward()
    assert term.update(features()) == {"rate_bytes": times * 32, "rate_weight": 0.1}
    assert term.weight == pytest.approx(0.1 * math.exp(0.05 * power))


@pytest.mark.parametrize("protected", [False, True])
def test_a_front_that_is_trained_for_the_rate_needs_fewer_bytes_and_is_as_good(protected: bool) -> None:
    """The label is in one of three colours; the others cost bytes and tell nothing.

    Both are trained alike but for the term, and then coded with one step. Seeds are fixed.
    """

    def trained(term: RateTerm | None) -> tuple[float, float]:
        torch.manual_seed(1)
        front, head = network()
        optimizer = make_optimizer([front, head], name="adamw", lr=0.01, weight_decay=0.0, momentum=0.0)
        for seed in range(150):
            inputs, labels = images(seed)
            if protected:
                protected_step(front, head, optimizer, inputs, labels, "single", Protection(NONE, rate=term))
            else:
                edge_step(front, head, optimizer, inputs, labels, "single", rate=term)
        front.eval()
        head.eval()
        inputs, labels = images(1000)
        with torch.no_grad():
            features_BF = front(inputs)
            right = (head(features_BF).argmax(1) == labels).float().mean().item()
        return CODEC.frame_bytes(features_BF.numpy(), 0.5) / 32, right

    (with_term, right), (without, right_without) = trained(RateTerm(SHAPE, CODEC, CPU)), trained(None)
    assert with_term < 0.8 * without
    assert right > right_without - 0.04


def test_both_steps_are_one_where_nothing_is_protected() -> None:
    inputs, labels = images(0)
    results = []
    for step in ("plain", "protected"):
        front, head = network()
        optimizer = make_optimizer([front, head], name="sgd", lr=0.1, weight_decay=0.0, momentum=0.0)
        term = RateTerm(SHAPE, CODEC, CPU)
        torch.manual_seed(5)
        if step == "plain":
            made = edge_step(front, head, optimizer, inputs, labels, "single", rate=term)
        else:
            made = protected_step(front, head, optimizer, inputs, labels, "single", Protection(NONE, rate=term))
        results.append((made, front[0].weight.detach(), term))
    (plain, weight, term), (other, other_weight, _) = results
    assert plain.loss == pytest.approx(other.loss, rel=1e-6)
    assert plain.figures == other.figures and set(plain.figures) == {"rate_bytes", "rate_weight"}
    torch.testing.assert_close(weight, other_weight)
    torch.testing.assert_close(plain.features_BF, other.features_BF)
    assert term.step is not None
    size = CODEC.frame_bytes(plain.features_BF.numpy(), term.step) / 32
    assert plain.figures["rate_bytes"] == pytest.approx(size)  # of what is sent


def test_the_state_is_all_that_training_changes() -> None:
    def go_on(term: RateTerm, seeds: range) -> list[float]:
        found = []
        for seed in seeds:
            torch.manual_seed(seed)
            term.rounded(features(seed))
            penalty = term.penalty(features(seed))
            penalty.backward()
            found += [penalty.item(), *term.update(features(seed)).values()]
        return found

    term = RateTerm(SHAPE, CODEC, CPU)
    go_on(term, range(3))
    state = copy.deepcopy(term.state())
    other = RateTerm(SHAPE, CODEC, CPU)
    other.load_state(state)
    assert go_on(other, range(3, 6)) == go_on(term, range(3, 6))


def test_tokens_have_their_channels_last() -> None:
    term = RateTerm((5, 12), CODEC, CPU)
    tokens_BTD = torch.randn(16, 5, 12, generator=torch.Generator().manual_seed(0))
    assert term._prior.means.shape == (3, 12)
    term.rounded(tokens_BTD)
    assert np.isfinite(term.penalty(tokens_BTD).item())
