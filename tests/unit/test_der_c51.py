"""C51 against closed forms of the paper page (section 8, test 3) and a looped reference."""

from __future__ import annotations

import pytest
import torch as th

from rlzoo.agents.der.c51 import atoms, cross_entropy, expectation, project

Z = atoms(-10, 10, 51)


def distributions(n: int = 64, seed: int = 0) -> th.Tensor:
    generator = th.Generator().manual_seed(seed)
    return (3 * th.randn(n, 51, generator=generator)).softmax(-1)


def looped(p: th.Tensor, rewards: th.Tensor, discounts: th.Tensor) -> th.Tensor:
    """The projection as Bellemare et al. write it, in float64, safe where b is an integer."""
    z, spacing = Z.double(), 0.4
    out = th.zeros(p.shape, dtype=th.float64)
    for row in range(len(p)):
        for i in range(51):
            moved = min(max(float(rewards[row] + discounts[row] * z[i]), -10.0), 10.0)
            place = (moved + 10) / spacing
            low = min(int(place), 49)
            out[row, low] += p[row, i] * (1 - (place - low))
            out[row, low + 1] += p[row, i] * (place - low)
    return out


def test_identity() -> None:
    p = distributions()
    same = project(p, th.zeros(64), th.ones(64), Z)
    assert (same - p).abs().max() < 1e-6


def test_mass_and_mean() -> None:
    p = distributions()
    p[:, :10] = p[:, -10:] = 0  # so that nothing is clipped
    p /= p.sum(-1, keepdim=True)
    rewards = th.linspace(-2, 2, 64)
    discounts = th.full((64,), 0.8)
    m = project(p, rewards, discounts, Z)
    assert (m.sum(-1) - 1).abs().max() < 1e-5
    assert (m @ Z - (rewards + 0.8 * (p @ Z))).abs().max() < 1e-5


def test_terminal_reward_between_two_atoms() -> None:
    m = project(distributions(1), th.tensor([0.7]), th.zeros(1), Z)
    below, above = (int((Z - value).abs().argmin()) for value in (0.4, 0.8))
    assert m[0, below] == pytest.approx(0.25, abs=1e-5)
    assert m[0, above] == pytest.approx(0.75, abs=1e-5)
    assert m.sum() == pytest.approx(1, abs=1e-6)


def test_dense_form_equals_the_loop() -> None:
    p = distributions(16, seed=1)
    rewards, discounts = th.linspace(-12, 12, 16), th.linspace(0, 1, 16)
    assert (project(p, rewards, discounts, Z) - looped(p, rewards, discounts)).abs().max() < 1e-5


@pytest.mark.parametrize(("reward", "atom"), [(35.0, -1), (-35.0, 0)])
def test_beyond_the_support_all_mass_is_at_its_end(reward: float, atom: int) -> None:
    m = project(distributions(3), th.full((3,), reward), th.ones(3), Z)
    assert m[:, atom].tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_cross_entropy_and_expectation() -> None:
    p = distributions(8)
    logits = p.log() + 5  # a constant changes nothing
    entropy = -(p * p.log()).sum(-1)
    assert th.allclose(cross_entropy(p, logits), entropy, atol=1e-5)
    assert th.allclose(expectation(logits, Z), p @ Z, atol=1e-4)
    # Finite where softmax underflows, unlike log(softmax).
    sure = th.zeros(1, 51)
    sure[0, 0] = 1000.0
    assert cross_entropy(p[:1], sure).isfinite().all()
