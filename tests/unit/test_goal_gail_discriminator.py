"""The discriminator: closed-form input gradient, penalty, and the optimum of a known problem."""

from __future__ import annotations

import pytest
import torch as th
from goal_gail_testing import make_agent, tensors_of
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.goal_gail.discriminator import (
    Discriminator,
    disc_inputs,
    disc_loss,
    disc_width,
    gradient_penalty,
)
from rlzoo.agents.goal_gail.relabel import GoalBatch


@pytest.mark.parametrize("hidden", [[], [8], [16, 12], [8, 8, 8]])
def test_closed_form_gradient(hidden: list[int]) -> None:
    th.manual_seed(0)
    disc = Discriminator(5, hidden)
    x = th.randn(20, 5, requires_grad=True)
    logits, gradient = disc.logits_and_gradient(x, 7)
    (expected,) = th.autograd.grad(disc(x).sum(), x)
    th.testing.assert_close(gradient, expected[-7:], atol=1e-5, rtol=1e-5)
    th.testing.assert_close(logits, disc(x))


def test_one_backward_pass_gives_the_gradients_of_double_backward() -> None:
    th.manual_seed(0)
    disc = Discriminator(6, [16, 16])
    expert, agent = th.randn(32, 6), th.randn(32, 6) + 1
    th.manual_seed(1)
    disc_loss(disc, expert, agent, 10.0).loss.backward()
    mine = [p.grad.clone() for p in disc.parameters() if p.grad is not None]
    disc.zero_grad()
    th.manual_seed(1)
    u = th.rand(32, 1)
    mixed = (u * agent + (1 - u) * expert).requires_grad_()
    (gradient,) = th.autograd.grad(disc(mixed).sum(), mixed, create_graph=True)
    penalty = (gradient.norm(dim=-1) - 1).square().mean()
    entropy = F.softplus(-disc(expert)).mean() + F.softplus(disc(agent)).mean()
    (entropy + 10 * penalty).backward()
    theirs = [p.grad for p in disc.parameters()]
    assert len(mine) == len(theirs)
    for a, b in zip(mine, theirs, strict=True):
        th.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_penalty_of_a_linear_logit() -> None:
    disc = Discriminator(4, [])
    with th.no_grad():
        disc.linears[0].weight.copy_(th.tensor([[3.0, 0.0, 0.0, 0.0]]))
    x = th.randn(10, 4)
    _, gradient = disc.logits_and_gradient(x, 10)
    assert gradient_penalty(gradient).item() == pytest.approx(4.0, abs=1e-5)
    without, with_penalty = (disc_loss(disc, x, x, c).loss.item() for c in (0.0, 10.0))
    assert with_penalty - without == pytest.approx(40.0, abs=1e-4)


def test_penalty_is_smooth_where_the_gradient_is_zero() -> None:
    zero = th.zeros(3, 4, requires_grad=True)
    penalty = gradient_penalty(zero)
    penalty.backward()
    assert penalty.item() == pytest.approx(1.0, abs=1e-5)
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize(("gp_coef", "slope"), [(0.0, 2.0), (10.0, 1.012)])
def test_optimum_for_two_gaussians(gp_coef: float, slope: float) -> None:
    """N(+1, 1) against N(-1, 1): the log-odds are 2x; the penalty holds the slope near 1."""
    th.manual_seed(0)
    expert, agent = th.randn(100_000, 1) + 1, th.randn(100_000, 1) - 1
    disc = Discriminator(1, [])
    nn.init.constant_(disc.linears[0].weight, 0.5)  # the penalty has another minimum near -1
    optimizer = th.optim.LBFGS(disc.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> th.Tensor:
        optimizer.zero_grad()
        loss = disc_loss(disc, expert, agent, gp_coef).loss
        loss.backward()
        return loss

    optimizer.step(closure)
    assert disc.linears[0].weight.item() == pytest.approx(slope, abs=0.05)
    assert disc.linears[0].bias.item() == pytest.approx(0.0, abs=0.05)


def batch() -> GoalBatch:
    values = [th.full((4, n), float(i)) for i, n in enumerate((3, 2, 3, 2, 2, 2))]
    return GoalBatch(*values, th.zeros(4, dtype=th.bool))


@pytest.mark.parametrize(
    ("kind", "keys", "expected"),
    [
        ("s_sp", ["observation"], [0, 0, 0, 5, 5, 2, 2, 2]),
        ("sa", ["observation"], [0, 0, 0, 5, 5, 1, 1]),
        ("s", ["observation"], [0, 0, 0, 5, 5]),
        ("s_sp", ["achieved_goal"], [3, 3, 5, 5, 4, 4]),
        ("s", ["observation", "achieved_goal"], [0, 0, 0, 3, 3, 5, 5]),
    ],
)
def test_inputs(kind: str, keys: list[str], expected: list[int]) -> None:
    rows = disc_inputs(kind, keys, batch(), 0.15 if kind != "sa" else 0.0)  # type: ignore[arg-type]
    assert rows[0].tolist() == expected
    assert disc_width(kind, keys, 3, 2, 2) == len(expected)  # type: ignore[arg-type]


def test_noise_is_on_the_actions_only_and_clipped() -> None:
    th.manual_seed(0)
    rows = disc_inputs("sa", ["observation"], batch(), 0.15)
    assert (rows[:, :3] == 0).all()
    assert (rows[:, 3:5] == 5).all()
    assert rows[:, 5:].max() == 1
    assert rows[:, 5:].min() < 1


def test_first_weights() -> None:
    disc = Discriminator(7, [32, 32])
    for layer in disc.linears:
        assert not layer.bias.any()
    weight = disc.linears[1].weight
    th.testing.assert_close(weight @ weight.T, th.eye(32), atol=1e-5, rtol=0)
    assert [type(module) for module in disc.layers] == [nn.Linear] * 3


def test_losses_move_their_own_networks_only() -> None:
    model = make_agent().learn(60)
    before = tensors_of(model)
    model._update_policy(32)
    after = tensors_of(model)
    changed = {name for name in before if not th.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("policy/actor.", "policy/critic.")) for name in changed)
    assert model.discriminator is not None
    model.discriminator.zero_grad()
    model._update_policy(32)
    assert all(p.grad is None for p in model.discriminator.parameters())
    model.policy.zero_grad()
    before = tensors_of(model)
    model._update_disc(16)
    after = tensors_of(model)
    assert {n[:5] for n in before if not th.equal(before[n], after[n])} == {"disc/"}
    assert all(p.grad is None for p in model.policy.parameters())


def test_rows_of_the_discriminator() -> None:
    """Expert rows have goals reached later, agent rows the goals they were collected with."""
    model = make_agent(hindsight_p=1.0, expert_relabel_p=1.0).learn(60)
    seen = []
    inner = model._disc_inputs

    def record(rows: GoalBatch, noise: float = 0.0) -> th.Tensor:
        seen.append(rows)
        return inner(rows, noise)

    model._disc_inputs = record  # type: ignore[method-assign]
    model._update_disc(200)
    expert, agent = seen
    own = {tuple(g) for g in model._replay.desired_goals[:60, 0].tolist()}
    assert {tuple(g) for g in agent.goals.tolist()} <= own
    assert model.demonstrations is not None
    given = {tuple(g) for g in model.demonstrations.desired_goals.tolist()}
    assert not {tuple(g) for g in expert.goals.tolist()} & given
    model.disc_relabel_agent = True
    seen.clear()
    model._update_disc(200)
    assert not {tuple(g) for g in seen[1].goals.tolist()} & own
