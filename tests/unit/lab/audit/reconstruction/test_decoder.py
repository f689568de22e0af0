from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from smartedge.images.size import ImageSize
from smartedge.lab.audit.reconstruction import decoder as module
from smartedge.lab.audit.reconstruction.decoder import fresh_pairs, new_decoder, reconstruct_images, train_decoder
from smartedge.lab.audit.reconstruction.gan import train_gan
from smartedge.lab.audit.reconstruction.measures import psnr
from smartedge.lab.audit.reconstruction.networks import Decoder, PatchCritic
from smartedge.lab.audit.reconstruction.pixels import to_image
from smartedge.privacy.mechanisms import make_mechanism


class Shuffled(torch.nn.Module):
    """Pixels in another order."""

    def forward(self, inputs_BCHW):
        return torch.nn.functional.pixel_unshuffle(inputs_BCHW, 4)


def quiet(*_: object) -> None:
    """No progress."""


@pytest.mark.parametrize(
    ("feature_shape", "size"),
    [
        ((8, 4, 4), 64),
        ((64, 16, 16), 32),
        ((12, 12, 7), 33),  # channels last
        ((3, 5, 8), 40),
        ((17, 10), 48),  # a class token and 4×4 others
        ((16, 10), 48),
        ((6, 10), 16),  # tokens that are no square
        ((1, 9), 16),
        ((5,), 96),
        ((4, 1, 1), 32),
        ((3, 32, 32), 32),  # larger than what the decoder works at
        ((2, 2, 2), 8),
        ((8, 4, 8), ImageSize(32, 64)),
        ((17, 10), ImageSize(64, 16)),  # a class token and 8×2 others
        ((6, 10), ImageSize(17, 40)),
    ],
)
def test_every_layout_becomes_an_image_and_every_feature_counts(feature_shape, size):
    torch.manual_seed(0)
    decoder = Decoder(feature_shape, size)
    features = torch.randn(4, *feature_shape)
    decoder.fit_scale(features)
    features.requires_grad_(True)
    images = decoder(features)
    assert images.shape == (4, *ImageSize.of(size).shape) and images.min() >= 0 and images.max() <= 1
    images.square().sum().backward()
    assert (features.grad != 0).float().mean() > 0.99


def test_one_image_does_not_depend_on_the_others_beside_it():
    decoder = Decoder((8, 4, 4), 16)
    features = torch.randn(5, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(decoder(features)[2:3], decoder(features[2:3]), atol=1e-5, rtol=0)


def test_the_scale_ignores_units_and_does_not_blow_up_what_hardly_varies():
    decoder = Decoder((3,), 16)
    features = torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 5.0, 0.0]) + 7
    decoder.fit_scale(features)
    scaled = (features - decoder.centre) * decoder.scale
    assert scaled[:, :2].std() == pytest.approx(1, abs=0.05)
    assert decoder.scale[2] <= 20.1 / features.std(dim=0).mean()


def test_critic_scores_patches():
    images = torch.rand(2, 3, 32, 32)
    assert PatchCritic()(images, images).shape == (2, 1, 4, 4)
    small = images[:, :, :18, :18]  # 9, 4 and 2 wide: each convolution pads by one
    assert PatchCritic()(small, small).shape == (2, 1, 2, 2)


def test_fresh_pairs_mirror_images_with_their_features(shuffled):
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([3, 1, 2])
    mirrored = 0
    for _ in range(20):
        features, images = fresh_pairs(shuffled, shuffled.train, rows, generator)
        pixels = torch.nn.functional.pixel_shuffle(features, 4) / 4 + 0.5
        assert torch.allclose(pixels, images, atol=1e-5, rtol=0)
        mirrored += not torch.equal(images, to_image(shuffled.images(shuffled.train.split, rows)))
    assert 0 < mirrored < 20  # both happen; that they do not has chance 2^-19 and is decided by the seed


def test_every_release_is_fresh(evidence_of):
    mechanism = make_mechanism("gaussian", feature_shape=(48, 4, 4), clip=5.0, sigma=0.5)
    evidence = evidence_of(Shuffled(), mechanism)
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(8)
    one, other = (fresh_pairs(evidence, evidence.val, rows, generator)[0] for _ in range(2))  # val has one view
    assert (one - other).std() == pytest.approx(0.5 * 2**0.5, rel=0.1)


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr("smartedge.lab.audit.reconstruction.networks._WIDEST", 32)
    monkeypatch.setattr(module, "_LEAST_STEPS", 160)
    monkeypatch.setattr(module, "_EPOCHS", 1)


def trained(evidence, **changes):
    """Trained without being shown anything of the protected images."""
    hidden = replace(evidence, test=None, test_features_NF=None, test_labels={}, test_desired=None, exit_scores={})
    settings = {"seconds": float("inf"), "seed": 0, "report": quiet, **changes}
    return train_decoder(hidden, **settings)


def test_decoder_recovers_images_from_features_that_hold_them(shuffled, few_steps):
    decoder, fitted = trained(shuffled)
    found = to_image(reconstruct_images(decoder, shuffled.test_features_NF))
    originals = to_image(shuffled.images(shuffled.test))
    mean = to_image(shuffled.images(shuffled.train.split)).mean(dim=0).expand_as(originals)
    assert psnr(originals, found).mean() > 20
    assert psnr(originals, mean).mean() < 15  # what knowing nothing gives
    assert fitted.epochs == fitted.planned


def test_decoder_gives_the_median_image_where_features_tell_nothing(blind, few_steps):
    decoder, _ = trained(blind)
    found = to_image(reconstruct_images(decoder, blind.test_features_NF))
    own = to_image(blind.images(blind.train.split))
    median = torch.cat([own, own.flip(-1)]).median(dim=0).values
    assert psnr(median.expand_as(found), found).mean() > 25
    assert torch.equal(found[0], found[-1])


def test_same_seed_same_decoder(shuffled, monkeypatch):
    monkeypatch.setattr(module, "_LEAST_STEPS", 12)
    monkeypatch.setattr(module, "_EPOCHS", 1)
    one, other, third = trained(shuffled)[0], trained(shuffled)[0], trained(shuffled, seed=1)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), third.parameters(), strict=True))


def by_pixels(ours, theirs):
    return (ours - theirs).abs().flatten(1).mean(dim=1)


def test_a_gan_that_comes_no_nearer_is_its_decoder(shuffled, monkeypatch):
    monkeypatch.setattr("smartedge.lab.audit.reconstruction.gan._LEAST_STEPS", 24)
    monkeypatch.setattr("smartedge.lab.audit.reconstruction.gan._EPOCHS", 1)
    decoder = new_decoder(shuffled, seed=0)
    asked = []

    def farther_each_time(ours, theirs):
        asked.append(ours)
        return torch.full((len(ours),), float(len(asked)))

    painter, fitted = train_gan(shuffled, decoder, farther_each_time, seconds=float("inf"), seed=0, report=quiet)
    assert len(asked) == 3 and fitted.score == 0
    state = painter.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in decoder.state_dict().items())


def test_gan_goes_on_from_the_decoder_and_leaves_it_alone(shuffled, monkeypatch):
    monkeypatch.setattr("smartedge.lab.audit.reconstruction.gan._LEAST_STEPS", 24)
    monkeypatch.setattr("smartedge.lab.audit.reconstruction.gan._EPOCHS", 1)
    decoder = new_decoder(shuffled, seed=0)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    painter, fitted = train_gan(shuffled, decoder, by_pixels, seconds=float("inf"), seed=0, report=quiet)
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.state_dict().items())
    assert not torch.equal(painter.paint.weight, before["paint.weight"])
    assert fitted.epochs == fitted.planned == 2 and fitted.score > 0
    error = [
        float(
            (to_image(reconstruct_images(each, shuffled.test_features_NF)) - to_image(shuffled.images(shuffled.test)))
            .abs()
            .mean()
        )
        for each in (decoder, painter)
    ]
    assert error[1] < error[0]
