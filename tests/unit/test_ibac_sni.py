"""The mixed policy gradient against an enumeration of actions (paper page, section 8, test 2)."""

from __future__ import annotations

import pytest
import torch as th

from rlzoo.agents.ibac_sni import sni
from rlzoo.agents.ibac_sni.bottleneck import draw, gaussian, mixture_log_prob

LAMBDAS = [0.0, 0.5, 1.0]
A = 5


class Linear:
    """One state, a linear-softmax head on a latent of 3, five actions, fixed advantages."""

    def __init__(self) -> None:
        generator = th.Generator().manual_seed(0)
        self.w = th.randn(A, 3, dtype=th.float64, generator=generator).requires_grad_()
        self.mu = th.randn(1, 3, dtype=th.float64, generator=generator).requires_grad_()
        self.rho = th.randn(1, 3, dtype=th.float64, generator=generator).requires_grad_()
        self.advantages = th.randn(A, dtype=th.float64, generator=generator)
        th.manual_seed(1)
        z = draw(gaussian(th.cat((self.mu, self.rho), -1), 0.0), 4)
        self.quiet = (self.mu @ self.w.T).log_softmax(-1)[0]
        self.noisy = mixture_log_prob((z @ self.w.T).log_softmax(-1))[0]

    def gradients(self, objective: th.Tensor) -> list[th.Tensor]:
        leaves = (self.w, self.mu, self.rho)
        return [
            th.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(
                leaves,
                th.autograd.grad(objective, leaves, retain_graph=True, allow_unused=True),
                strict=True,
            )
        ]


@pytest.mark.parametrize("objective", ["ppo", "a2c"])
@pytest.mark.parametrize("lam", LAMBDAS)
def test_gradient_by_enumeration(lam: float, objective: sni.Objective) -> None:
    problem = Linear()
    old = problem.quiet.detach()
    # Every action once, weighted with the probability that the acting policy takes it.
    weighted = A * old.exp() * problem.advantages
    never = th.tensor(1e9, dtype=th.float64)
    quiet = sni.policy_term(problem.quiet, old, weighted, never, objective, weighted=False)
    noisy = sni.policy_term(problem.noisy, old, weighted, never, objective)
    mixed = sni.mixed((lam, 1 - lam), (quiet.loss, noisy.loss))

    expectation = (problem.quiet.exp() * problem.advantages).sum()
    noisy_expectation = (problem.noisy.exp() * problem.advantages).sum()
    expected = problem.gradients(lam * expectation + (1 - lam) * noisy_expectation)
    for got, want in zip(problem.gradients(-mixed), expected, strict=True):
        assert (got - want).abs().max() < 1e-12
    rho = problem.gradients(-mixed)[2]
    assert (rho == 0).all() == (lam == 1)


def test_each_branch_is_clipped_on_its_own() -> None:
    old = th.zeros(4)
    advantages = th.tensor([1.0, 1.0, -1.0, -1.0])
    ratios = th.tensor([1.5, 0.5, 1.5, 0.5])
    term = sni.policy_term(ratios.log(), old, advantages, th.tensor(0.2))
    # min(r A, clip(r) A): 1.2, 0.5, -1.5, -0.8
    assert term.loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4)
    assert term.clip_fraction.item() == 1
    inside = sni.policy_term(th.full((4,), 1.1).log(), old, advantages, th.tensor(0.2))
    assert inside.clip_fraction.item() == 0
    kl = (ratios - 1 - ratios.log()).mean().item()
    assert term.approx_kl.item() == pytest.approx(kl, rel=1e-5)


def test_a_term_of_weight_zero_is_left_out() -> None:
    nan, one = th.tensor(float("nan")), th.tensor(1.0)
    assert sni.mixed((1.0, 0.0), (one, nan)) == 1
    assert sni.mixed((0.0, 1.0), (nan, one)) == 1
    assert sni.mixed((0.25, 0.75), (one, 2 * one)) == 1.75


def test_value_loss() -> None:
    values, old, returns = th.tensor([1.0, 1.0]), th.tensor([0.0, 0.9]), th.tensor([2.0, 0.0])
    assert sni.value_loss(values, old, returns, None).item() == pytest.approx(1.0)
    # Clipped: 0 + 0.2 and 0.9 + 0.1; the larger error counts: (0.2 - 2)^2 and 1.
    clipped = sni.value_loss(values, old, returns, th.tensor(0.2))
    assert clipped.item() == pytest.approx((1.8**2 + 1) / 2)


def test_advantages() -> None:
    x = th.tensor([1.0, 2.0, 3.0, 6.0])
    for name, correction in (("population", 0), ("sample", 1)):
        expected = (x - 3) / (x.std(correction=correction) + 1e-8)
        th.testing.assert_close(sni.normalized(x, name), expected)  # type: ignore[arg-type]
    assert sni.normalized(x[:1], "population").item() == 1
