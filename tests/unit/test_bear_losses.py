"""Target, dual step and likelihood against hand computations (section 8, items 5 and 6)."""

import math

import pytest
import torch as th
from bear_testing import make_bear

from rlzoo.agents.bear.losses import dual_gradient
from rlzoo.core.behavior import cvae_loss, tanh_log_prob
from rlzoo.core.critics import soft_clipped_target

# [K=2, B=2, p=3]. Minimum over critics per action: [1, 2, 0], [4, -1, 2]; maximum: [5, 3, 9],
# [6, 3, 2]. The order of the operations matters: the maximum over actions of the minimum alone
# would pick another action than the mix does.
TABLE = th.tensor(
    [[[1.0, 3.0, 0.0], [6.0, -1.0, 2.0]], [[5.0, 2.0, 9.0], [4.0, 3.0, 2.0]]], dtype=th.float64
)
REWARDS = th.tensor([0.5, -1.0], dtype=th.float64)


@pytest.mark.parametrize(
    ("mix", "best"),
    [
        (0.75, [2.25, 4.5]),  # row 0: 2, 2.25, 2.25; row 1: 4.5, 0, 2
        (0.5, [4.5, 5.0]),  # row 0: 3, 2.5, 4.5: another action than with 0.75
        (1.0, [2.0, 4.0]),  # maximum of the minima
        (0.0, [9.0, 6.0]),  # maximum of the maxima
    ],
)
def test_target_mixes_critics_before_it_takes_the_best_action(mix, best):
    target = soft_clipped_target(TABLE, REWARDS, th.zeros(2, dtype=th.float64), 0.9, mix)
    assert target.tolist() == pytest.approx([0.5 + 0.9 * best[0], -1 + 0.9 * best[1]], abs=1e-12)


def test_target_of_a_terminal_transition_is_the_reward_exactly():
    target = soft_clipped_target(TABLE, REWARDS, th.ones(2, dtype=th.float64), 0.99, 0.75)
    assert th.equal(target, REWARDS)


def test_target_of_the_agent_needs_no_gradient_and_respects_dones():
    model = make_bear()
    batch = model.replay_buffer.sample(64)
    target = model._target(batch)
    assert target.shape == (64,)
    assert not target.requires_grad
    ended = batch.dones.squeeze(-1) == 1
    assert ended.any()
    assert th.equal(target[ended], batch.rewards.squeeze(-1)[ended])


def test_target_of_the_agent_uses_target_critics_and_the_current_actor():
    model = make_bear()
    batch = model.replay_buffer.sample(64)

    def target():
        th.manual_seed(0)
        return model._target(batch)

    before = target()
    with th.no_grad():
        for parameter in model.critic.parameters():
            parameter.add_(1.0)
    assert th.equal(target(), before)
    with th.no_grad():
        for parameter in model.critic_target.parameters():
            parameter.add_(1.0)
    assert not th.equal(target(), before)


def test_gradient_of_the_dual_step():
    log_alpha = th.tensor(1.3, dtype=th.float64, requires_grad=True)
    violation = th.tensor(0.17, dtype=th.float64)
    (expected,) = th.autograd.grad(-(log_alpha.exp() * violation), log_alpha)
    assert dual_gradient(log_alpha.detach(), violation, "exp").item() == pytest.approx(
        expected.item(), abs=1e-12
    )
    assert expected.item() == pytest.approx(-math.exp(1.3) * 0.17)
    assert dual_gradient(log_alpha.detach(), violation, "linear").item() == pytest.approx(-0.17)


def dual_trajectory(violation, steps, dual="exp"):
    log_alpha = th.zeros((), dtype=th.float64, requires_grad=True)
    optimizer = th.optim.Adam([log_alpha], lr=1e-3)
    constant, values = th.tensor(violation, dtype=th.float64), [0.0]
    for _ in range(steps):
        log_alpha.grad = dual_gradient(log_alpha.detach(), constant, dual)
        optimizer.step()
        with th.no_grad():
            log_alpha.clamp_(-5, 10)
        values.append(log_alpha.item())
    return values


@pytest.mark.parametrize("violation", [0.01, 0.3])
def test_dual_trajectory_runs_away_to_the_cap(violation):
    values = dual_trajectory(violation, 5200)
    for step, expected in ((1000, 1.265), (2000, 3.071), (3000, 5.200), (5000, 9.753)):
        assert values[step] == pytest.approx(expected, abs=1e-3)
    assert next(step for step, value in enumerate(values) if value >= 10) == 5107
    assert set(values[5107:]) == {10.0}


def test_dual_trajectory_of_a_satisfied_constraint_ends_at_the_bottom():
    assert dual_trajectory(-0.05, 10_500)[-1] == -5.0


def test_linear_dual_moves_by_the_learning_rate():
    values = dual_trajectory(0.1, 2000, "linear")
    assert values[500] == pytest.approx(0.5, rel=0.01)
    assert values[2000] == pytest.approx(2.0, rel=0.01)


@pytest.mark.parametrize("dual", ["exp", "linear"])
def test_dual_trajectory_of_the_agent(dual):
    model = make_bear(dual=dual)
    distance = th.tensor(0.05 + 0.1)
    found = {}
    for step in range(1, 5151):
        model._dual_step(distance)
        found[step] = model.log_alpha.item()
    if dual == "linear":
        assert found[3000] == pytest.approx(3.0, rel=0.01)
        return
    for step, expected in ((1000, 1.265), (2000, 3.071), (3000, 5.200), (5000, 9.753)):
        assert found[step] == pytest.approx(expected, abs=2e-3)
    reached = next(step for step, value in found.items() if value >= 10)
    assert abs(reached - 5107) <= 2  # single precision
    assert found[5150] == 10.0


def test_dual_step_of_the_agent_respects_its_bounds():
    model = make_bear(log_alpha_bounds=(-0.01, 0.02))
    for _ in range(100):
        model._dual_step(th.tensor(1.0))
    assert model.log_alpha.item() == pytest.approx(0.02)
    for _ in range(300):
        model._dual_step(th.tensor(-1.0))
    assert model.log_alpha.item() == pytest.approx(-0.01)


def test_tanh_log_prob_equals_torchs_transformed_distribution():
    generator = th.Generator().manual_seed(0)
    x, mean, log_std = (
        0.7 * th.randn(20, 3, dtype=th.float64, generator=generator) for _ in range(3)
    )
    base = th.distributions.Normal(mean, log_std.exp())
    squashed = th.distributions.TransformedDistribution(
        base, th.distributions.transforms.TanhTransform()
    )
    expected = squashed.log_prob(th.tanh(x)).sum(-1)
    assert th.allclose(tanh_log_prob(x, mean, log_std), expected, atol=1e-9)


def test_tanh_log_prob_is_finite_in_saturation():
    x = th.tensor([[50.0]])
    assert tanh_log_prob(x, x, th.zeros(1, 1)).item() == pytest.approx(
        -0.5 * math.log(2 * math.pi) - math.log(1e-6), rel=1e-5
    )


@pytest.mark.parametrize(
    ("mean", "log_std", "expected"),
    [(0.0, 0.0, 0.0), (1.0, 0.0, 0.5), (0.0, 1.0, -0.5 * (3 - math.exp(2)))],
)
def test_kl_of_the_cvae_is_a_mean_over_latents(mean, log_std, expected):
    full = (5, 4)
    actions = th.zeros(5, 2, dtype=th.float64)
    reconstruction, kl = cvae_loss(
        actions + 0.5, actions,
        th.full(full, mean, dtype=th.float64), th.full(full, log_std, dtype=th.float64),
    )  # fmt: skip
    assert kl.item() == pytest.approx(expected, abs=1e-12)
    assert reconstruction.item() == pytest.approx(0.25, abs=1e-12)
