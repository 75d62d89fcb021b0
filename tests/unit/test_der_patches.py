"""The encoder as matrix products on patches equals the convolutions, with its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from rlzoo.agents.der import CnnPolicy
from rlzoo.agents.der.patches import PatchEncoder, fits


def layers(channels: int, *kernels: int) -> list[nn.Module]:
    found: list[nn.Module] = []
    for i, kernel in enumerate(kernels):
        outputs = 3 + 2 * i
        found += [nn.Conv2d(channels, outputs, kernel, kernel), nn.ReLU()]
        channels = outputs
    return [*found, nn.Flatten()]


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((4, 84, 84), (5, 5)),
        ((4, 84, 76), (5, 5)),  # pixels left over in both layers
        ((1, 13, 9), (4,)),
        ((3, 25, 31), (2, 3, 4)),
    ],
)
def test_patches_give_what_images_give(shape: tuple[int, ...], kernels: tuple[int, ...]) -> None:
    th.manual_seed(0)
    encoder = PatchEncoder(shape, *layers(shape[0], *kernels))
    images = th.randint(0, 256, (6, *shape), dtype=th.uint8)
    weights = th.randn(6, encoder(images / 255).shape[1])
    outputs, gradients = [], []
    for inputs in (images / 255, encoder.patches(images)):
        encoder.zero_grad()
        outputs.append(encoder(inputs))
        (outputs[-1] * weights).sum().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters()])  # type: ignore[union-attr]
    assert th.allclose(*outputs, atol=1e-6)
    assert outputs[0].std() > 0.01
    for a, b in zip(*gradients, strict=True):
        assert th.allclose(a, b, atol=1e-4)
        assert a.abs().max() > 0.1


def test_only_convolutions_without_overlap_can_be_cut() -> None:
    assert fits(layers(4, 5, 5))
    assert not fits([nn.Conv2d(4, 8, 5, 4), nn.Flatten()])


@pytest.mark.parametrize(("encoder", "cut"), [("data-efficient", True), ("nature", False)])
def test_which_policies_take_patches(encoder: str, cut: bool) -> None:
    space = spaces.Box(0, 255, (4, 84, 84), np.uint8)
    policy = CnnPolicy(space, spaces.Discrete(3), lambda _: 1e-4, encoder=encoder)
    images = th.from_numpy(np.stack([space.sample() for _ in range(5)]))
    inputs = policy.inputs(images)
    assert inputs.dim() == (2 if cut else 4)
    expected = policy.q_net(images / 255, False)
    assert th.allclose(policy.q_net(inputs, False), expected, atol=1e-6)
    assert policy.inputs(images, shift=2).dim() == 4  # which is done to images
    # The names of the weights are those of the convolutions, as before.
    assert {"q_net.encoder.0.weight", "q_net.encoder.2.bias"} <= set(policy.state_dict())
