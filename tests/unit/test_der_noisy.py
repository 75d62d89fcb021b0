"""Noisy layers and the network (paper page, section 8, tests 6 and 7)."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from rlzoo.agents.der import CnnPolicy, MlpPolicy
from rlzoo.agents.der.augment import random_shift
from rlzoo.agents.der.noisy import NoisyLinear, draw, factor, summed
from rlzoo.agents.der.policies import DERPolicy, Head
from rlzoo.errors import RefusedError

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


def policy(n_actions: int = 6, cls: type[DERPolicy] = CnnPolicy, **kwargs: object) -> DERPolicy:
    space = kwargs.pop("observation_space", IMAGES)
    return cls(space, spaces.Discrete(n_actions), lambda _: 1e-4, **kwargs)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 7])  # evaluated in two ways
def test_noise_is_an_outer_product_that_is_added_to_the_weights(rows: int) -> None:
    th.manual_seed(0)
    layer, x = NoisyLinear(20, 30, 0.5), th.randn(rows, 20)
    draw([layer])
    weight = layer.weight + layer.weight_sigma * th.outer(layer.noise_out, layer.noise_in)
    bias = layer.bias + layer.bias_sigma * layer.noise_out
    assert (layer(x) - nn.functional.linear(x, weight, bias)).abs().max() < 1e-6


def test_mean_over_noise_is_the_layer_without() -> None:
    th.manual_seed(0)
    layer, x, draws = NoisyLinear(10, 5, 0.5), th.randn(3, 10), 20_000
    total, squares = th.zeros(3, 5), th.zeros(3, 5)
    with th.no_grad():
        mean = layer(x, noisy=False)
        for _ in range(draws):
            draw([layer])
            y = layer(x) - mean
            total += y
            squares += y**2
    error = total / draws
    assert (error.abs() < 5 * (squares / draws**2).sqrt()).all()
    assert squares.min() > 0


def test_factors() -> None:
    th.manual_seed(0)
    u = factor(200_000)
    # f(u)^2 = |u|, whose mean is sqrt(2 / pi).
    assert u.mean().abs() < 0.01
    assert float((u**2).mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.01)


@pytest.mark.parametrize(("bias_fan", "width"), [("out", 30), ("in", 20)])
def test_initial_scales(bias_fan: str, width: int) -> None:
    layer = NoisyLinear(20, 30, 0.1, bias_fan)  # type: ignore[arg-type]
    assert th.allclose(layer.weight_sigma, th.full((30, 20), 0.1 / math.sqrt(20)))
    assert th.allclose(layer.bias_sigma, th.full((30,), 0.1 / math.sqrt(width)))
    assert layer.weight.abs().max() <= 1 / math.sqrt(20)


@pytest.mark.parametrize("rows", [1, 2])
def test_sigma_gets_a_gradient(rows: int) -> None:
    layer = NoisyLinear(4, 3)
    draw([layer])
    layer(th.ones(rows, 4)).sum().backward()
    assert layer.weight_sigma.grad.abs().sum() > 0  # type: ignore[union-attr]
    assert layer.bias_sigma.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_one_draw_gives_every_factor_its_own_numbers() -> None:
    layers = [NoisyLinear(20, 30), NoisyLinear(30, 20)]
    draw(layers)
    factors = [f for layer in layers for f in (layer.noise_in, layer.noise_out)]
    assert [len(f) for f in factors] == [20, 30, 30, 20]
    assert len(set(th.cat(factors).tolist())) == 100
    draw([])  # a network without noise


def test_weights_that_are_formed_once_are_those_of_every_evaluation() -> None:
    layer, x = NoisyLinear(20, 30), th.randn(5, 20)
    draw([layer])
    alone, one = layer(x), layer(x[:1])
    with summed([layer]):
        assert th.equal(layer(x), alone)
        assert th.allclose(layer(x[:1]), one, atol=1e-6)
        layer(x).sum().backward()
        assert not th.equal(layer(x, noisy=False), alone)
    assert layer.weight_sigma.grad.abs().sum() > 0  # type: ignore[union-attr]
    draw([layer])
    assert not th.equal(layer(x), alone)


def test_online_and_target_noise_are_independent() -> None:
    both = policy()
    both.q_net.reset_noise()
    before = both.q_net.value.noise_in.clone()
    both.q_net_target.reset_noise()
    assert th.equal(both.q_net.value.noise_in, before)
    assert not th.equal(both.q_net_target.value.noise_in, before)


def test_noise_is_off_when_deterministic() -> None:
    agent = policy()
    image = th.from_numpy(IMAGES.sample()[None])
    outputs = []
    for _ in range(2):
        agent.q_net.reset_noise()
        outputs.append(agent.q_net(agent.inputs(image), False))
    assert th.equal(*outputs)
    assert not th.equal(outputs[0], agent.q_net(agent.inputs(image), True))


# ------------------------------------------------------------------- network


def n_parameters(agent: DERPolicy) -> int:
    return sum(p.numel() for p in agent.q_net.parameters())


def test_size_of_the_published_network() -> None:
    agent = policy()
    assert n_parameters(agent) == 828_842
    assert agent.q_net.encoder(th.zeros(1, 4, 84, 84)).shape == (1, 576)


def test_size_of_the_canonical_rainbow() -> None:
    agent = policy(encoder="nature", net_arch=[512])
    assert n_parameters(agent) == pytest.approx(6.87e6, rel=0.001)
    assert agent.q_net.encoder(th.zeros(1, 4, 84, 84)).shape == (1, 3136)


def test_advantages_have_no_mean() -> None:
    agent = policy()
    net, inputs = agent.q_net, th.rand(3, 4, 84, 84)
    features = net.encoder(inputs)
    value = net.value(net.value_hidden(features, False).relu(), False)
    # What is left of the logits beside the value is the centred advantage.
    rest = net(inputs, False) - value.unsqueeze(1)
    assert rest.abs().max() > 1e-3
    assert rest.mean(1).abs().max() < 1e-6


def test_layers_can_be_left_out() -> None:
    plain = policy(head=Head(n_atoms=1, dueling=False, sigma=None))
    assert not any(isinstance(m, NoisyLinear) for m in plain.q_net.modules())
    assert plain.q_net(th.rand(2, 4, 84, 84), True).shape == (2, 6, 1)
    assert plain.q_net.value is None
    shared = policy(shared_hidden=True)
    assert shared.q_net.value_hidden is None
    assert n_parameters(policy()) - n_parameters(shared) == 2 * (576 + 1) * 256


@pytest.mark.parametrize(
    ("space", "width"),
    [(spaces.Box(-1, 1, (3, 2), np.float64), 6), (spaces.Discrete(5), 5)],
)
def test_vectors_are_flattened(space: spaces.Space, width: int) -> None:
    agent = policy(cls=MlpPolicy, observation_space=space, net_arch=[16, 8])
    assert agent.q_net.encoder[1].in_features == width
    action, _ = agent.predict(np.asarray(space.sample()))
    assert agent.action_space.contains(int(action))


def test_cnn_policy_refuses_what_is_not_an_image() -> None:
    space = gym.make("CartPole-v1").observation_space
    with pytest.raises(RefusedError, match="CnnPolicy cannot take"):
        policy(observation_space=space)
    with pytest.raises(RefusedError, match="too small"):
        policy(observation_space=spaces.Box(0, 255, (4, 20, 20), np.uint8))
    small = policy(observation_space=spaces.Box(0, 255, (1, 10, 5), np.uint8), encoder="small")
    assert small.q_net(th.rand(1, 1, 10, 5), True).shape == (1, 6, 51)
    with pytest.raises(RefusedError, match="net_arch"):
        policy(net_arch=[256, 256])


# ---------------------------------------------------------------- image shift


def test_shifted_images_are_windows_of_the_padded_one() -> None:
    th.manual_seed(0)
    image = th.arange(36.0).view(1, 1, 6, 6).expand(200, 2, 6, 6) + 0
    padded = nn.functional.pad(image[:1], (2,) * 4, mode="replicate")[0]
    seen = set()
    for one in random_shift(image, 2):
        fits = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if th.equal(one, padded[:, y : y + 6, x : x + 6])
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25
    assert random_shift(image, 0) is image
