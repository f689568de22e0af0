"""The flow-matching attacker: its network, and how it draws an image."""

from __future__ import annotations

import torch
from flow import Flow, draw_images
from torch import Tensor, nn


class _ToOneImage(nn.Module):
    """The exact velocity where all images are one constant, which the release names."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, x_BCHW: Tensor, times_B: Tensor, features_BF: Tensor, told_B: Tensor) -> Tensor:
        image_B = torch.where(told_B, features_BF[:, 0], 0.0)
        return (x_BCHW - image_B[:, None, None, None]) / times_B[:, None, None, None]


def test_a_draw_ends_at_the_image_that_the_release_names_and_without_it_elsewhere() -> None:
    released_NF = torch.tensor([[1.0], [-1.0], [0.5]])
    made = {
        told: draw_images(_ToOneImage(), released_NF, (8, 12), told=told, steps=3, seed=1)  # type: ignore[arg-type]
        for told in (True, False)
    }
    assert made[True].shape == (3, 3, 8, 12) and made[True].dtype == torch.uint8
    assert [image.unique().tolist() for image in made[True]] == [[255], [0], [191]]
    assert made[False].unique().tolist() == [128]


def test_the_network_sees_the_release_only_where_it_is_told() -> None:
    torch.manual_seed(0)
    for shape in ((4, 1, 1), (6, 4, 4)):
        flow = Flow(shape).eval()
        for parameter in flow.parameters():
            nn.init.normal_(parameter, std=0.1)
        inputs, times = torch.randn(1, 3, 16, 16).expand(2, -1, -1, -1), torch.tensor([0.3, 0.3])
        released = torch.randn(2, *shape)
        told = flow(inputs, times, released, torch.tensor([True, True]))
        untold = flow(inputs, times, released, torch.tensor([False, False]))
        assert not torch.allclose(told[0], told[1], atol=1e-3), shape
        torch.testing.assert_close(untold[0], untold[1])
