from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from smartedge.models.optim import (
    SGD,
    Adam,
    AdamW,
    apply_gradients,
    in_one_pass,
    make_optimizer,
    set_learning_rate,
)
from smartedge.models.zoo.weights import fill
from smartedge.runs.checkpoint import Checkpoints

LAYOUTS = {
    "as it comes": lambda: torch.randn(6, 5, 3, 3),
    "channels_last": lambda: torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(5, 6, 3, 3).transpose(0, 1),
    "with gaps": lambda: torch.randn(6, 5, 3, 6)[..., ::2],
    "bfloat16": lambda: torch.randn(6, 5, 3, 3).bfloat16(),
    "float64": lambda: torch.randn(6, 5, 3, 3).double(),
    "complex": lambda: torch.randn(6, 5, 3, 3, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_pass_gives_what_torch_gives(kind, layout):
    torch.manual_seed(0)
    values = LAYOUTS[layout]()
    plain, ours = nn.Parameter(values.clone()), nn.Parameter(torch.empty(0))
    ours.data = values  # clone() would close gaps
    expected = kind([plain], lr=0.01, weight_decay=0.1, fused=False, foreach=False)
    found = in_one_pass(kind([ours], lr=0.01, weight_decay=0.1))
    for _ in range(4):
        plain.grad = torch.randn(6, 5, 3, 3, dtype=plain.dtype)
        ours.grad = plain.grad.clone()  # laid out as it comes
        expected.step()
        found.step()
    bits = {torch.bfloat16: 0.02, torch.float64: 1e-12}.get(plain.dtype, 1e-6)
    torch.testing.assert_close(ours.detach(), plain.detach(), rtol=bits, atol=bits)
    fused = layout not in ("with gaps", "complex")
    assert found.param_groups[0]["fused"] is fused


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_checkpoint_and_a_change_of_layout_lead_to_the_same_bits(name, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3))
    network = network.to(memory_format=torch.channels_last)
    gradients = [[torch.randn_like(p) for p in network.parameters()] for _ in range(4)]

    def updated(network, states):
        optimizer = make_optimizer([network], name=name, lr=0.01, weight_decay=0.1, momentum=0.9)
        if states is not None:
            network.load_state_dict(states["network"])
            optimizer.load_state_dict(states["optimizer"])
        for step in gradients if states is None else gradients[2:]:
            for p, gradient in zip(network.parameters(), step, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
            if states is None and step is gradients[1]:
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
                Checkpoints(tmp_path).save(1, state)
        return [p.detach() for p in network.parameters()]

    fresh = copy.deepcopy(network)
    whole = updated(network, None)
    resumed = updated(fresh, Checkpoints(tmp_path).load(1))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize("clip_norm", [0.5, 50.0])
def test_gradients_are_scaled_as_torch_does_and_not_in_place(clip_norm):
    torch.manual_seed(0)
    plain, ours = ([nn.Parameter(torch.ones(shape)) for shape in ((4, 3), (3,), (2,))] for _ in range(2))
    gradients = [torch.randn(4, 3), torch.randn(3)]  # the last parameter has none
    before = [gradient.clone() for gradient in gradients]
    for p, q, gradient in zip(plain, ours, gradients, strict=False):
        p.grad, q.grad = gradient.clone(), gradient
    expected = nn.utils.clip_grad_norm_(plain, clip_norm)
    torch.optim.SGD(plain, lr=0.1).step()
    found = apply_gradients(torch.optim.SGD(ours, lr=0.1), clip_norm=clip_norm)
    assert torch.equal(found, expected)
    assert all(torch.equal(p, q) for p, q in zip(plain, ours, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients, before, strict=True))
    assert all(q.grad is None for q in ours)


@pytest.mark.parametrize(
    ("ours", "kind", "more"),
    [(Adam, torch.optim.Adam, {}), (AdamW, torch.optim.AdamW, {}), (SGD, torch.optim.SGD, {"momentum": 0.9})],
)
def test_an_optimizer_without_the_compiler_is_torchs(ours, kind, more):
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(4, 3)) for _ in range(2)]
    parameters[1].data = parameters[0].data.clone()
    optimizers = [made([p], lr=0.1, **more) for made, p in zip((ours, kind), parameters, strict=True)]
    for _ in range(3):
        gradient = torch.randn(4, 3)
        for optimizer, p in zip(optimizers, parameters, strict=True):
            p.grad = gradient.clone()
            optimizer.step()
            optimizer.zero_grad()
            optimizer.load_state_dict(optimizer.state_dict())
    assert torch.equal(*parameters)


def test_an_update_imports_no_compiler():
    program = """
import sys, torch
from smartedge.models.optim import apply_gradients, make_optimizer
for name in ("adamw", "sgd"):
    layer = torch.nn.Linear(2, 2)
    optimizer = make_optimizer([layer], name=name, lr=0.1, weight_decay=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    apply_gradients(optimizer, clip_norm=1.0)
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_matrices_and_kernels_decay_and_nothing_else(name):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    groups = make_optimizer([network], name=name, lr=0.1, weight_decay=0.3, momentum=0.9).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {key: decay[id(p)] for key, p in network.named_parameters()} == {
        "0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.3, "3.bias": 0.0,
    }  # fmt: skip


def test_the_rate_rises_for_a_tenth_and_falls_as_a_cosine():
    optimizer = make_optimizer([nn.Linear(1, 1)], name="sgd", lr=1.0, weight_decay=0.0, momentum=0.0)
    rates = [set_learning_rate(optimizer, peak=0.4, step=step, steps=20) for step in range(20)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4]) and rates[11] == pytest.approx(0.2)
    assert rates[19] == pytest.approx(0.2 * (1 + math.cos(math.pi * 17 / 18)))
    assert {group["lr"] for group in optimizer.param_groups} == {rates[19]}


@pytest.mark.parametrize(("name", "momentum"), [("adamw", 0.9), ("sgd", 0.9), ("sgd", 0.0)])
def test_pretrained_parameters_have_a_rate_of_their_own_that_rises_and_falls_with_the_others(name, momentum):
    old, new = nn.Linear(2, 3), nn.Linear(3, 2)
    fill(old, old.state_dict(), "a file", head=())
    how = {"name": name, "lr": 0.1, "weight_decay": 0.3, "momentum": momentum}
    for own, share in ((0.02, 0.2), (None, 1.0)):
        optimizer = make_optimizer([old, new], **how, lr_pretrained=own)
        assert all(group.get("nesterov", False) == (name == "sgd" and momentum > 0) for group in optimizer.param_groups)
        for step, rate in ((0, 0.05), (1, 0.1)):
            set_learning_rate(optimizer, peak=0.1, step=step, steps=20)
            rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            assert [rates[id(p)] for p in (*old.parameters(), *new.parameters())] == pytest.approx(
                [share * rate] * 2 + [rate] * 2
            )
