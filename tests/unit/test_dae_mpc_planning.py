"""DAE-MPC's objective and planners (paper page, section 8, 2, 3, 5, 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from dae_mpc_testing import KnownDynamics, generator, task_of, unit_bounds

from rlzoo.agents.dae_mpc import objective as objective_module
from rlzoo.agents.dae_mpc.denoiser import Denoiser, ParzenDenoiser, Penalty
from rlzoo.agents.dae_mpc.dynamics import DynamicsModel
from rlzoo.agents.dae_mpc.objective import Objective, rank_safely
from rlzoo.agents.dae_mpc.planners import (
    PlannerSettings,
    Scorer,
    best_of,
    cem,
    draw_noise,
    move_on,
    plan,
    truncated_normal,
)

CEM = PlannerSettings("cem", n_candidates=400, n_elites=40, n_iters=10)
ADAM = PlannerSettings("adam", lr=0.02, n_iters=200, n_restarts=8)
RANDOM = PlannerSettings("random", n_candidates=4000)


def optimise(
    score: Scorer, settings: PlannerSettings, horizon: int = 1, n_starts: int = 1, width: int = 1
) -> th.Tensor:
    previous = th.zeros(horizon, n_starts, width)
    noise = draw_noise(settings, horizon, generator(), previous)
    return plan(score, previous, noise, settings)


def bowl(*center: float) -> Scorer:
    """Negative squared distance to a plan of one step."""
    return lambda plans: -(plans[0] - th.tensor(center)).square().sum(-1)


# ---------------------------------------------------------------------- planners


@pytest.mark.parametrize("settings", [CEM, ADAM, RANDOM], ids=lambda s: s.name)
def test_interior_optimum(settings: PlannerSettings) -> None:
    found = optimise(bowl(0.4, -0.6), settings, width=2)
    th.testing.assert_close(found[0, 0], th.tensor([0.4, -0.6]), rtol=0, atol=0.05)


@pytest.mark.parametrize("settings", [CEM, ADAM, RANDOM], ids=lambda s: s.name)
def test_optimum_outside_of_the_bounds(settings: PlannerSettings) -> None:
    largest: list[float] = []

    def score(plans: th.Tensor) -> th.Tensor:
        largest.append(plans.detach().abs().max().item())
        return bowl(3.0)(plans)

    found = optimise(score, settings)
    assert found.item() == pytest.approx(1.0, abs=0.1)
    assert max(largest) <= 1.0 + 1e-6
    assert found.abs().max() <= 1.0


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("settings", [CEM, ADAM], ids=lambda s: s.name)
def test_penalised_optimum_of_a_gaussian(settings: PlannerSettings, stop: bool) -> None:
    # max x - 25 (0.2 x)^2 is at 0.5; with g held constant a gradient ends at 0.1.
    penalty = Penalty(stop_gradient=stop)
    found = optimise(
        lambda x: x[0].squeeze(-1) - 25 * penalty(lambda y: 0.8 * y, x[0]),
        settings,  # type: ignore[arg-type]
    ).item()
    # CEM has no gradient to stop.
    expected = 0.1 if stop and settings.name == "adam" else 0.5
    assert found == pytest.approx(expected, abs=0.02)


def test_gradient_through_the_wrong_argument_is_noticed() -> None:
    """With x held constant instead of g, the gradient leads away from the data."""

    def score(plans: th.Tensor) -> th.Tensor:
        x = plans[0].squeeze(-1)
        return x - 25 * (0.8 * x - x.detach()).square()

    assert abs(optimise(score, ADAM).item() - 0.5) > 0.1


def test_cem_by_hand() -> None:
    """Against HoT's loop, written out in NumPy for one environment."""
    settings = PlannerSettings("cem", n_candidates=20, n_elites=4, n_iters=3)
    previous = th.tensor([[[0.9]], [[-0.3]]])
    noise = draw_noise(settings, 2, generator(), previous)[0]
    found = cem(lambda p: -(p - 0.2).square().sum((0, -1)), previous, noise, settings)

    mean, variance = np.array([0.9, -0.3]), np.full(2, 0.25)
    for drawn in noise[..., 0].double().numpy():
        room = np.minimum(((mean + 1) / 2) ** 2, ((1 - mean) / 2) ** 2)
        samples = mean + np.sqrt(np.minimum(room, variance)) * drawn.T
        order = np.argsort(((samples - 0.2) ** 2).sum(1))[:4]
        mean = 0.1 * mean + 0.9 * samples[order].mean(0)
        variance = 0.1 * variance + 0.9 * samples[order].var(0)
    np.testing.assert_allclose(found[:, 0, 0], mean, rtol=1e-5)


def test_cem_ends_where_the_variance_is_small() -> None:
    settings = replace(CEM, epsilon=0.02)
    few, many = (optimise(bowl(0.4), replace(settings, n_iters=n)) for n in (10, 40))
    assert th.equal(few, many)
    assert not th.equal(optimise(bowl(0.4), replace(settings, n_iters=1)), few)


def test_truncated_normals() -> None:
    drawn = truncated_normal((200_000,), generator(), th.zeros(1))
    assert drawn.abs().max() <= 2
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.8796, abs=0.01)
    assert (drawn.abs() > 1.9).float().mean().item() == pytest.approx(0.0125, abs=0.002)


@pytest.mark.parametrize("settings", [CEM, ADAM, RANDOM], ids=lambda s: s.name)
def test_environments_are_planned_for_as_if_alone(settings: PlannerSettings) -> None:
    settings = replace(settings, n_iters=5)
    centers = th.tensor([-0.5, 0.0, 0.3, 0.8])
    previous = th.linspace(-0.4, 0.4, 12).view(3, 4, 1)
    noise = draw_noise(settings, 3, generator(), previous)

    def score(rows: th.Tensor) -> Scorer:
        return lambda p: -(p - rows.view(1, -1, 1, 1)).square().sum((0, -1))

    together = plan(score(centers), previous, noise, settings)
    for i in range(4):
        alone = plan(score(centers[i : i + 1]), previous[:, i : i + 1], noise, settings)
        th.testing.assert_close(together[:, i : i + 1], alone)


def test_adam_keeps_the_warm_start_and_the_best() -> None:
    settings = replace(ADAM, n_iters=1, lr=1e-6)
    previous = th.full((1, 1, 1), 0.123)
    noise = draw_noise(settings, 1, generator(), previous)
    assert plan(bowl(0.123), previous, noise, settings).item() == pytest.approx(0.123, abs=1e-5)


def test_adam_works_inside_no_grad() -> None:
    with th.no_grad():
        assert optimise(bowl(0.4), ADAM).item() == pytest.approx(0.4, abs=0.01)


def test_moving_on() -> None:
    plans = th.arange(1.0, 5).view(4, 1, 1)
    assert move_on(plans).flatten().tolist() == [2, 3, 4, 0]
    assert move_on(plans, 3).flatten().tolist() == [4, 0, 0, 0]


# --------------------------------------------------------------------- safe ranks


def elites_of_a_diverged_rollout(values: th.Tensor) -> th.Tensor:
    return rank_safely(values)[0].topk(3, dim=1).indices


def test_what_is_not_finite_is_never_an_elite(monkeypatch: pytest.MonkeyPatch) -> None:
    values = -th.rand(1, 10) - 1
    values[0, 4], values[0, 6], values[0, 7] = th.nan, th.inf, -th.inf
    safe, n_bad = rank_safely(values)
    assert n_bad.item() == 3
    assert safe.isfinite().all()
    bad = {4, 6, 7}
    assert not bad & set(elites_of_a_diverged_rollout(values)[0].tolist())
    # mbrl-lib's value ranks them above everything else.
    monkeypatch.setattr(objective_module, "WORST", -1e-10)
    assert set(elites_of_a_diverged_rollout(values)[0].tolist()) == bad


def test_planners_survive_candidates_that_diverge() -> None:
    def score(plans: th.Tensor) -> th.Tensor:
        value = bowl(0.2)(plans) - 1
        return rank_safely(th.where(plans[0, ..., 0] > 0.5, th.nan, value))[0]

    for settings in (CEM, replace(ADAM, n_restarts=16), RANDOM):
        assert optimise(score, settings).item() == pytest.approx(0.2, abs=0.05)


# --------------------------------------------------------------------- objective


def quadratic(o: th.Tensor, a: th.Tensor, following: th.Tensor) -> th.Tensor:
    return -following.square().sum(-1) - 0.1 * a.square().sum(-1)


A = th.tensor([[0.9, 0.2], [-0.1, 1.1]], dtype=th.float64)
B = th.tensor([[0.3, 0.0], [0.1, 0.5]], dtype=th.float64)


def linear(states: th.Tensor, actions: th.Tensor) -> th.Tensor:
    return states @ A.T + actions @ B.T


def lq(**options: Any) -> Objective:
    bounds = unit_bounds(2, th.float64)
    return Objective(KnownDynamics(linear), task_of(quadratic), *bounds, **options)


def test_gradient_of_a_linear_quadratic_rollout() -> None:
    start = th.tensor([[1.0, -0.5]], dtype=th.float64)
    plans = (th.rand(3, 1, 1, 2, dtype=th.float64, generator=generator()) - 0.5).requires_grad_()
    objective = lq()
    total = objective(start, plans).objective.sum()
    (gradient,) = th.autograd.grad(total, plans)

    states = [start[0]]
    for action in plans.detach()[:, 0, 0]:
        states.append(A @ states[-1] + B @ action)
    expected = []
    for i in range(3):  # d s_k / d a_i = A^(k - i - 1) B
        chain = -0.2 * plans.detach()[i, 0, 0]
        for k in range(i + 1, 4):
            jacobian = th.linalg.matrix_power(A, k - i - 1) @ B
            chain = chain - 2 * jacobian.T @ states[k]
        expected.append(chain)
    th.testing.assert_close(gradient[:, 0, 0], th.stack(expected), rtol=1e-10, atol=1e-12)

    step = 1e-6
    for index in np.ndindex(3, 1, 1, 2):
        moved = plans.detach().clone()
        moved[index] += step
        up = objective(start, moved).objective.sum()
        moved[index] -= 2 * step
        slope = (up - objective(start, moved).objective.sum()) / (2 * step)
        assert gradient[index].item() == pytest.approx(slope.item(), rel=1e-5)


def test_penalty_is_subtracted_and_summed() -> None:
    rows = th.randn(10, 4, dtype=th.float64, generator=generator())
    denoiser = ParzenDenoiser(rows, 0.4)
    plans = th.rand(5, 1, 3, 2, dtype=th.float64, generator=generator()) - 0.5
    start = th.zeros(1, 2, dtype=th.float64)
    plain = lq()(start, plans)
    score = lq(alpha=0.3, denoiser=denoiser)(start, plans)
    pairs = KnownDynamics(linear).rollout(start, plans).pairs
    by_hand = (denoiser(pairs) - pairs).square().sum(-1).sum(0)
    th.testing.assert_close(score.penalties[0], by_hand)
    th.testing.assert_close(score.returns, plain.returns)
    th.testing.assert_close(score.objective, plain.objective - 0.3 * by_hand)
    assert not plain.penalties.any()
    assert lq(denoiser=denoiser)(start, plans, familiar=True).penalties.equal(score.penalties)


def test_columns_windows_and_threshold_reach_the_penalty() -> None:
    denoiser = Denoiser(2 * 3, (5,)).double()
    plans = th.rand(4, 1, 2, 2, dtype=th.float64, generator=generator()) - 0.5
    start = th.zeros(1, 2, dtype=th.float64)
    columns, threshold = th.tensor([0, 2, 3]), th.tensor(0.05, dtype=th.float64)
    score = lq(alpha=1.0, denoiser=denoiser, columns=columns, window=2, threshold=threshold)
    pairs = KnownDynamics(linear).rollout(start, plans).pairs[..., columns]
    with th.no_grad():
        windows = th.cat((pairs[:-1], pairs[1:]), -1)
        errors = (denoiser(windows) - windows).square().sum(-1)
        by_hand = (errors - 0.05).clamp(min=0).sum(0)
        th.testing.assert_close(score(start, plans).penalties[0], by_hand)


def test_rewards_see_units_of_the_environment_and_stop_after_the_end() -> None:
    task = task_of(
        lambda o, a, following: a[..., 0],
        1,
        1,
        termination=lambda o, a, following: following[..., 0] > 0.5,
    )
    low, high = th.tensor([-2.0]), th.tensor([6.0])
    objective = Objective(KnownDynamics(lambda s, a: s + a), task, low, high, gamma=0.5)
    plans = th.tensor([[0.4, 0.4, 0.4], [0.0, 0.0, 0.0]]).T.reshape(3, 1, 2, 1).contiguous()
    score = objective(th.zeros(1, 1), plans)
    # Scaled 0.4 is 3.6 there, and 0 is 2. The first plan ends with its second step.
    th.testing.assert_close(score.returns, th.tensor([[3.6 * 1.5, 2 * 1.75]]))


# ----------------------------------------------------------------- model rollouts


def make_model(n_members: int = 1, **options: Any) -> DynamicsModel:
    th.manual_seed(1)
    task = task_of(
        quadratic, 3, 2, features=lambda o: th.cat((o.sin(), o[..., :1]), -1), value_dims=(1,)
    )
    model = DynamicsModel(task, n_members, (16, 16), **options)
    model.measure(th.randn(50, 6) * 2 + 1, th.randn(50, model.network.n_outputs) * 0.3 + 0.1)
    return model


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_both_ways_to_roll_out_agree(members: int, learned: bool) -> None:
    model = make_model(members, learned_reward=learned)
    start = th.randn(2, 3, generator=generator())
    plans = th.rand(5, 2, 4, 2, generator=generator()) * 2 - 1
    fast = model.rollout(start, plans)
    slow = model.rollout(start, plans.clone().requires_grad_())
    for a, b in zip(fast, slow, strict=True):
        if a is None:
            assert b is None
            continue
        th.testing.assert_close(a, b.detach(), rtol=1e-5, atol=1e-5)
    # By hand, one step: dimension 1 is a value, the others differences.
    pair = model.inputs.normalize(model.raw_pairs(start[:1], plans[0, :1, 0]))
    found = model.targets.restore(model.predict(pair))[0]
    expected = start[0] * th.tensor([1.0, 0.0, 1.0]) + found[:3]
    th.testing.assert_close(fast.states[1, 0], expected, rtol=1e-5, atol=1e-5)
    if learned:
        assert fast.rewards is not None
        th.testing.assert_close(fast.rewards[0, 0], found[3], rtol=1e-5, atol=1e-5)


def test_gradients_reach_the_plan_and_not_the_network() -> None:
    model = make_model()
    plans = th.zeros(3, 1, 2, 2, requires_grad=True)
    model.rollout(th.zeros(1, 3), plans).states[-1].sum().backward()
    assert plans.grad is not None
    assert plans.grad[0].abs().max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_particles_keep_their_member_and_draw_its_noise() -> None:
    model = make_model(2, propagation="tsinf", n_particles=4)
    start, plans = th.randn(2, 3, generator=generator()), th.zeros(3, 2, 5, 2)
    first = model.rollout(start, plans, generator(1))
    assert first.states.shape == (4, 4 * 2 * 5, 3)
    again = model.rollout(start, plans, generator(1))
    assert th.equal(first.states, again.states)
    # Without noise particles differ by their member alone.
    with th.no_grad():
        model.network.min_log_variance.fill_(-60)
        model.network.max_log_variance.fill_(-60)
    states = model.rollout(start, plans, generator(2)).states.view(4, 4, 2, 5, 3)
    th.testing.assert_close(states[:, 0], states[:, 1])
    th.testing.assert_close(states[:, 2], states[:, 3])
    assert (states[-1, 0] - states[-1, 2]).abs().max() > 1e-3
    alone = model.rollout(start[1:], plans[:, 1:], generator(2)).states.view(4, 4, 1, 5, 3)
    th.testing.assert_close(states[:, :, 1:], alone, rtol=1e-4, atol=1e-5)


def test_returns_of_particles_are_averaged() -> None:
    model = make_model(2, propagation="tsinf", n_particles=2)
    objective = Objective(model, model.task, *unit_bounds(2), alpha=0.1, denoiser=Denoiser(6, (4,)))
    start, plans = th.zeros(1, 3), th.zeros(3, 1, 5, 2)
    score = objective(start, plans, generator(3))
    assert score.objective.shape == (1, 5)
    rollout = model.rollout(start, plans, generator(3))
    rewards = objective.imagined_rewards(rollout, plans).sum(0).view(2, 1, 5).mean(0)
    th.testing.assert_close(score.returns, rewards)


@pytest.mark.parametrize("settings", [CEM, ADAM], ids=lambda s: s.name)
def test_planning_for_several_states_equals_planning_for_each(settings: PlannerSettings) -> None:
    model = make_model()
    objective = Objective(
        model, model.task, *unit_bounds(2), alpha=0.05, denoiser=Denoiser(6, (8,))
    )
    settings = replace(settings, n_candidates=30, n_elites=5, n_iters=3)
    start, previous = th.randn(4, 3, generator=generator()), th.zeros(4, 4, 2)
    noise = draw_noise(settings, 4, generator(), previous)
    together = plan(lambda u: objective(start, u).objective, previous, noise, settings)
    for i in range(4):
        one = start[i : i + 1]
        alone = plan(lambda u, s=one: objective(s, u).objective, previous[:, :1], noise, settings)
        th.testing.assert_close(together[:, i : i + 1], alone, rtol=1e-4, atol=1e-4)


def test_best_of() -> None:
    plans = th.rand(2, 3, 7, 1, generator=generator())
    found = best_of(lambda p: p.sum((0, -1)), plans)
    totals = plans.sum((0, -1))
    th.testing.assert_close(found.sum((0, -1)), totals.amax(1))


# -------------------------------------------------------------------------- speed


@pytest.mark.parametrize("rows", [1, 511, 1300])
def test_denoiser_a_piece_at_a_time_is_the_same(rows: int) -> None:
    th.manual_seed(0)
    denoiser, windows = Denoiser(6, (16, 16)), th.randn(rows, 2, 6)
    expected = denoiser(windows).detach()
    with th.no_grad():
        found = denoiser(windows)
    th.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("members", [1, 3])
def test_bfloat16_is_close(members: int) -> None:
    exact, rough = make_model(members), make_model(members, bf16=True)
    start = th.randn(2, 3, generator=generator())
    plans = th.rand(5, 2, 40, 2, generator=generator()) * 2 - 1
    a, b = (model.rollout(start, plans).states for model in (exact, rough))
    assert not th.equal(a, b)
    assert (a - b).norm() < 0.01 * a.norm()
    slow = rough.rollout(start, plans.requires_grad_()).states
    th.testing.assert_close(slow, a, rtol=1e-5, atol=1e-5)  # gradients are never rough
    fine, coarse = Denoiser(6, (64, 64)), Denoiser(6, (64, 64), bf16=True)
    coarse.load_state_dict(fine.state_dict())
    windows = th.randn(300, 6)
    with th.no_grad():
        errors = [(net(windows) - windows).square().sum(-1) for net in (fine, coarse)]
    assert 0 < (errors[0] - errors[1]).norm() < 0.01 * errors[0].norm()
