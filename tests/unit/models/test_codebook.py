"""Codewords at the cut: shapes, hard and soft, and what each side makes of them."""

from __future__ import annotations

import pytest
import torch

from smartedge.models.blueprint import Blueprint
from smartedge.models.codebook import CodewordExit, Decode, Encode, hard
from smartedge.models.exits import task_losses
from smartedge.models.network import divide
from smartedge.models.released import SimulatedRelease

BLUEPRINT = Blueprint("resnet18", at="layer1", outputs=3, image_size=32, codebook=8, seed=0)


@pytest.mark.parametrize("shape", [(64, 16, 16), (24, 3, 3), (24, 24, 40), (65, 192), (32,)])
def test_a_codeword_crosses_and_becomes_a_tensor_of_the_cut_again(shape):
    encode, decode = Encode(shape, 6), Decode(6, shape)
    shares = encode(torch.randn(5, *shape))
    assert shares.shape == (5, 6)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))
    assert (shares > 0).all(), "soft in training"
    encode.eval()
    codes = encode(torch.randn(5, *shape))
    assert torch.equal(codes.sort(dim=1).values, torch.eye(6)[-1:].expand(5, 6)), "one-hot in evaluation"
    back = decode(hard(shares))
    assert back.shape == (5, *shape)
    back.square().mean().backward()
    assert all(parameter.grad is not None for parameter in decode.parameters())


def test_a_set_of_codewords_is_the_sum_of_its_members():
    decode = Decode(5, (32,))
    both = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0]])
    members = decode(torch.eye(5))
    torch.testing.assert_close(decode(both)[0], members[0] + members[3] - decode.embed.bias)


def test_a_divided_network_with_a_codebook():
    parts = divide(BLUEPRINT)
    assert parts.feature_shape == (8,)
    images = torch.randn(4, 3, 32, 32)
    soft = parts.front.train()(images)
    assert parts.task_exit(soft).shape == (4, 3)
    codes = parts.front.eval()(images)
    assert torch.equal(codes, hard(codes))
    assert parts.back(codes).shape == (4, 3)
    again = divide(BLUEPRINT)
    for name, tensor in parts.back.state_dict().items():
        if "num_batches" not in name and "running" not in name:
            assert torch.equal(tensor, again.back.state_dict()[name]), "both sides build the same"


def test_the_exit_on_codewords_begins_with_a_meaning_for_each():
    head = CodewordExit(7, 3)
    logits = head(torch.eye(7))
    assert logits.argmax(dim=1).tolist() == [0, 1, 2, 0, 1, 2, 0]
    torch.testing.assert_close(head(torch.tensor([[1.0, 1.0, 0, 0, 0, 0, 0]]))[0], logits[0] + logits[1])


def test_a_front_learns_to_choose_codewords_through_a_channel():
    """Two blots of light, of which one decides the label: within 60 steps the codewords tell it."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (256,), generator=generator)
    maps = 0.3 * torch.randn(256, 4, 6, 6, generator=generator)
    maps[:, 0] += (2.0 * labels - 1)[:, None, None]
    torch.manual_seed(0)
    encode, head = Encode((4, 6, 6), 6), CodewordExit(6, 2)
    channel = 0.8 * torch.eye(6) + 0.2 / 6
    optimizer = torch.optim.Adam([*encode.parameters(), *head.parameters()], lr=3e-3)
    for start in range(0, 60 * 32, 32):
        part = torch.arange(start, start + 32) % 256
        released = SimulatedRelease(torch.eye(6), encode(maps[part]) @ channel)
        loss = released.expect(task_losses(released.answers(head), labels[part], "single")).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answers = head(encode.eval()(maps)).argmax(dim=1)
    assert (answers == labels).float().mean() > 0.95
