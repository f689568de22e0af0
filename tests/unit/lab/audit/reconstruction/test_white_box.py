from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from smartedge.lab.audit.reconstruction import white_box
from smartedge.lab.audit.reconstruction.decoder import new_decoder
from smartedge.lab.audit.reconstruction.measures import psnr
from smartedge.lab.audit.reconstruction.pixels import prepare, to_image
from smartedge.lab.audit.reconstruction.white_box import Limits, Weights, choose_weights, invert, total_variation
from smartedge.models.codebook import Encode
from smartedge.privacy.mechanisms import make_mechanism


def quiet(*_: object) -> None:
    """No progress."""


SMOOTH = Weights(1e-4, 0.0)


def inverted(evidence, weights=SMOOTH, *, decoder=None, rows=6, **changes):
    effort = Limits(**{"starts": 1, "steps": 150, "seconds": float("inf"), **changes})
    return invert(evidence, evidence.test_features_NF[:rows], decoder, weights, effort, seed=0, report=quiet)


def likeness(evidence, images) -> float:
    return float(psnr(to_image(evidence.images(evidence.test)[: len(images)]), to_image(images)).mean())


def test_total_variation_is_that_of_a_plain_loop():
    images = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    for row, value in enumerate(total_variation(images).tolist()):
        x = images[row]
        down = [abs(float(x[c, i + 1, j] - x[c, i, j])) for c in range(3) for i in range(4) for j in range(6)]
        right = [abs(float(x[c, i, j + 1] - x[c, i, j])) for c in range(3) for i in range(5) for j in range(5)]
        assert value == pytest.approx(sum(down) / len(down) + sum(right) / len(right), abs=1e-5)


def test_an_invertible_front_gives_the_image_away(shuffled):
    images, done = inverted(shuffled)
    assert likeness(shuffled, images) > 30
    assert done == 1


def test_the_front_behind_a_clip_is_inverted_through_the_clip(evidence_of):
    class Pooled(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool2d(x, 2)

    mechanism = make_mechanism("gaussian", feature_shape=(3, 8, 8), clip=5.0, sigma=0.01)
    evidence = evidence_of(Pooled(), mechanism)
    images, _ = inverted(evidence, Weights(1e-3, 0.0))
    with torch.no_grad():
        own = evidence.twin.bound(evidence.front(prepare(to_image(images))))
    error = (own - evidence.test_features_NF[:6]).square().mean()
    assert error < 0.05 * evidence.test_features_NF[:6].var()


def test_nothing_in_the_release_leaves_a_smooth_image_near_the_mean(blind):
    images, _ = inverted(blind, Weights(0.1, 0.0))
    assert likeness(blind, images) < 15


def test_the_best_of_several_starts_counts(shuffled):
    worst, _ = inverted(shuffled, starts=1, steps=4)
    best, _ = inverted(shuffled, starts=3, steps=4)

    def objective(images):
        with torch.no_grad():
            own = shuffled.front(prepare(to_image(images)))
        return (own - shuffled.test_features_NF[:6]).square().flatten(1).mean(dim=1)

    assert (objective(best) <= objective(worst) + 1e-3).all()


def test_time_ends_the_search(shuffled):
    images, done = inverted(shuffled, seconds=0.0)
    assert done == 0 and images.shape == (6, 3, 16, 16)


def test_a_strong_prior_gives_the_decoders_image(shuffled):
    decoder = new_decoder(shuffled, seed=3).eval()
    images, _ = inverted(shuffled, Weights(0.0, 1e5), decoder=decoder, steps=60)
    with torch.no_grad():
        painted = decoder(shuffled.test_features_NF[:6])
    assert (to_image(images) - painted).abs().mean() < 0.02


def test_weights_are_those_that_do_best_on_the_attackers_own_images(shuffled, monkeypatch):
    monkeypatch.setattr(white_box, "_TUNED_ON", 4)
    monkeypatch.setattr(white_box, "_CHOICES", (Weights(100.0, 0.0), Weights(1e-4, 0.0), Weights(1e-4, 1e5)))
    own_images_only = replace(shuffled, test=None, test_features_NF=None)
    decoder = new_decoder(shuffled, seed=3).eval()  # untrained: a bad prior
    for prior in (decoder, None):
        chosen = choose_weights(own_images_only, prior, seconds=float("inf"), seed=0, report=quiet)
        assert chosen == Weights(1e-4, 0.0)


@pytest.mark.parametrize("name", ["randomised-response", "subset-selection"])
def test_codewords_are_matched_through_the_channel(evidence_of, name):
    torch.manual_seed(0)
    mechanism = make_mechanism(
        name,
        feature_shape=(6,),
        granularity="vector",
        clip=None,
        bottleneck=False,
        codebook=6,
        epsilon=1.0,
        delta=1e-5,
        sigma=None,
        releases=1,
    )
    front = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), Encode((8, 8, 8), 6))
    encode = front[2]
    with torch.no_grad():
        encode.choose.classify.weight *= 100  # a front that is sure of its codeword, as a trained one
    evidence = evidence_of(front, mechanism)
    images, _ = inverted(evidence, Weights(0.0, 0.0), steps=60)
    assert not any(module.training for module in front.modules())
    channel, outcomes = evidence.twin.channel, evidence.twin.outcomes

    def likelihood(pictures):
        encode.training = True
        with torch.no_grad():
            shares = front(prepare(pictures))
        encode.training = False
        found = []
        for share, released in zip(shares, evidence.test_features_NF[:6], strict=True):
            outcome = next(o for o in range(len(outcomes)) if torch.equal(outcomes[o], released))
            found.append(sum(float(share[k] * channel[k, outcome]) for k in range(6)))
        return torch.tensor(found)

    mean = to_image(evidence.images(evidence.train.split)).mean(dim=0).expand(6, 3, 16, 16)
    # The best that any image can reach is a front that is sure of the likeliest codeword.
    assert (likelihood(to_image(images)) > 0.9 * channel.max()).all()
    assert (likelihood(mean) < 0.9 * channel.max()).any()
