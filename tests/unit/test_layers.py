"""Stacked networks equal separate ones, forward and backward."""

import pytest
import torch as th
from torch import nn

from rlzoo.core.layers import StackedMLP, mlp, polyak_update


def separate(stack):
    """The members of a stack as ordinary networks with copied weights."""
    networks = []
    for k in range(stack.n_stack):
        layers = []
        for stacked in stack.stacked:
            linear = nn.Linear(stacked.weight.shape[1], stacked.weight.shape[2])
            with th.no_grad():
                linear.weight.copy_(stacked.weight[k].T)
                linear.bias.copy_(stacked.bias[k, 0])
            layers += [linear, nn.ReLU()]
        networks.append(nn.Sequential(*layers[:-1]).double())
    return networks


@pytest.mark.parametrize("n_stack", [1, 2, 5])
def test_stack_equals_separate_networks(n_stack):
    th.manual_seed(0)
    stack = StackedMLP(n_stack, 4, [8, 6])
    networks = separate(stack)
    stack.double()
    inputs = th.randn(7, 4, dtype=th.float64, requires_grad=True)
    other = inputs.detach().clone().requires_grad_()
    output = stack(inputs)
    expected = th.stack([network(other).squeeze(-1) for network in networks])
    assert output.shape == (n_stack, 7)
    assert th.allclose(output, expected, atol=1e-12)

    weights = th.randn(n_stack, 7, dtype=th.float64)
    (output * weights).sum().backward()
    (expected * weights).sum().backward()
    assert th.allclose(inputs.grad, other.grad, atol=1e-12)
    for k, network in enumerate(networks):
        linears = [layer for layer in network if isinstance(layer, nn.Linear)]
        for stacked, linear in zip(stack.stacked, linears, strict=True):
            assert th.allclose(stacked.weight.grad[k].T, linear.weight.grad, atol=1e-12)
            assert th.allclose(stacked.bias.grad[k, 0], linear.bias.grad, atol=1e-12)


def test_members_start_different_and_within_the_bounds_of_torchs_linear():
    th.manual_seed(0)
    stack = StackedMLP(3, 100, [200])
    first, last = stack.stacked
    for layer, bound in ((first, 0.1), (last, 200**-0.5)):
        assert layer.weight.abs().max() <= bound
        assert layer.weight.abs().max() > 0.9 * bound
        assert layer.bias.abs().max() <= bound
        assert not th.equal(layer.weight[0], layer.weight[1])


def test_stack_in_bf16_agrees_to_two_percent():
    th.manual_seed(0)
    stack = StackedMLP(2, 14, [256, 256])
    inputs = th.randn(4000, 14)
    with th.no_grad():
        exact, rounded = stack(inputs), stack.forward_bfloat16(inputs)
    assert ((rounded - exact).norm() / exact.norm()).item() < 0.02
    assert rounded.dtype == th.float32
    assert not th.equal(rounded, exact)


def test_mlp_has_relu_between_its_layers_only():
    assert [type(layer).__name__ for layer in mlp(3, [5, 4], 2)] == [
        "Linear", "ReLU", "Linear", "ReLU", "Linear",
    ]  # fmt: skip
    assert [type(layer).__name__ for layer in mlp(3, [], 2)] == ["Linear"]


@pytest.mark.parametrize("tau", [0.0, 0.005, 1.0])
def test_polyak_update_moves_the_target_alone(tau):
    th.manual_seed(0)
    online, target = mlp(3, [4], 2), mlp(3, [4], 2)
    before = [p.detach().clone() for p in target.parameters()]
    source = [p.detach().clone() for p in online.parameters()]
    polyak_update(online, target, tau)
    for new, old, other, now in zip(
        target.parameters(), before, source, online.parameters(), strict=True
    ):
        assert th.allclose(new, (1 - tau) * old + tau * other, atol=1e-7)
        assert th.equal(now, other)
