"""Peeks, beliefs and predictions against hand-made ones (paper page, 2.1, 2.2; tests 2 to 6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo.agents.observational_dropout.population import Networks, draw_starts, play
from rlzoo.agents.observational_dropout.recursion import (
    Block,
    Episodes,
    believe,
    draw_peeks,
    run_episodes,
)
from rlzoo.agents.observational_dropout.stacked import (
    laid_out,
    mlp,
    shapes_of,
    size_of,
    split,
    tanh,
)
from rlzoo.agents.observational_dropout.world_models import WORLD_MODELS, true_dynamics
from rlzoo.core.swingup import DT, CartPoleSwingUp
from rlzoo.errors import RefusedError


def random_vectors(networks: Networks, count: int, seed: int = 0, scale: float = 0.5) -> th.Tensor:
    generator = th.Generator().manual_seed(seed)
    return scale * th.randn(count, networks.n_parameters, generator=generator, dtype=th.float64)


def swing_up_networks(kind: str = "cartpole") -> Networks:
    return Networks.make(kind, 5, 1, [10], None)


class Recorder:
    """A policy of a batch that remembers what it was shown and what it did."""

    def __init__(self, act: Any) -> None:
        self.act, self.seen, self.done = act, list[th.Tensor](), list[th.Tensor]()

    def __call__(self, x: th.Tensor) -> th.Tensor:
        self.seen.append(x.clone())
        self.done.append(self.act(x))
        return self.done[-1]


def run(
    task: CartPoleSwingUp, peeks: th.Tensor | None, n_steps: int, model: Any = None, **kwargs: Any
) -> tuple[Recorder, Episodes | None]:
    """Play three candidates in two episodes each."""
    networks = swing_up_networks()
    act, predict = networks.bind(random_vectors(networks, 3))
    states = th.from_numpy(task.start(np.random.default_rng(0), (3, 2)))
    policy = Recorder(act)
    return policy, run_episodes(
        task, states, peeks, policy, predict if model is None else model, n_steps, **kwargs
    )


# -------------------------------------------------------------------- networks


def test_numbers_of_parameters() -> None:
    networks = swing_up_networks()
    assert size_of(networks.model.shapes) == 962
    assert size_of(networks.policy_shapes) == 71
    assert networks.n_parameters == 1033
    assert swing_up_networks("none").n_parameters == 71


def test_a_vector_is_cut_into_layers_row_by_row() -> None:
    (w1, b1), (w2, b2) = split(th.arange(2 * 17.0).view(2, 17), shapes_of(2, [3], 2))
    assert w1[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert b1[0].tolist() == [[6, 7, 8]]
    assert w2[0].tolist() == [[9, 10], [11, 12], [13, 14]]
    assert b2.tolist() == [[[15, 16]], [[32, 33]]]


@pytest.mark.parametrize("bounded", [True, False])
def test_stacked_networks_are_single_networks(bounded: bool) -> None:
    shapes = shapes_of(3, [4], 2)
    vectors = th.randn(5, size_of(shapes), dtype=th.float64)
    inputs = th.randn(5, 6, 3, dtype=th.float64)
    together = mlp(laid_out(split(vectors, shapes)), inputs, bounded)
    for c in range(5):
        (w1, b1), (w2, b2) = split(vectors[c : c + 1], shapes)
        alone = th.tanh(inputs[c] @ w1[0] + b1[0]) @ w2[0] + b2[0]
        th.testing.assert_close(together[c], alone.tanh() if bounded else alone)


def test_squashing_is_tanh() -> None:
    x = th.linspace(-60, 60, 1_001)
    expected = x.tanh()
    th.testing.assert_close(tanh(x.clone()), expected, atol=3e-7, rtol=0)
    extremes = th.tensor([th.inf, -th.inf, th.nan, 1e30])
    th.testing.assert_close(tanh(extremes), th.tensor([1, -1, th.nan, 1]), equal_nan=True)
    needed = x.clone().requires_grad_()
    (slope,) = th.autograd.grad(tanh(needed).sum(), needed)
    th.testing.assert_close(slope, 1 - expected.square())


def test_the_swing_up_model_is_refused_elsewhere() -> None:
    with pytest.raises(RefusedError, match="residual"):
        WORLD_MODELS["cartpole"](3, 1, None)


# ----------------------------------------------------------------------- peeks


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_share_of_peeks(p: float) -> None:
    peeks = draw_peeks(np.random.default_rng(0), 1_000, (20, 10), p)
    assert peeks[0].all()
    later = peeks[1:]
    n = later.size
    assert later.mean() == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n))
    # Episodes and steps do not follow each other.
    one, other = later[:, 0, 0], later[:, 0, 1]
    assert (one != other).any()
    together = (later[:, ::2] & later[:, 1::2]).mean()
    assert together == pytest.approx(p * p, abs=4 * p / math.sqrt(n / 2))
    in_a_row = (later[1:] & later[:-1]).mean()
    assert in_a_row == pytest.approx(p * p, abs=4 * p / math.sqrt(n))


@pytest.mark.parametrize(("p", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_never_and_always(p: float, share: float) -> None:
    peeks = draw_peeks(np.random.default_rng(0), 50, (4,), p)
    assert peeks[0].all()
    assert peeks[1:].mean() == share


def test_belief() -> None:
    observation, prediction = th.ones(2, 3), th.zeros(2, 3)
    found = believe(observation, prediction, th.tensor([True, False]))
    assert found.tolist() == [[1, 1, 1], [0, 0, 0]]


# ------------------------------------------------------------------- recursion


def test_recursion_with_hand_made_peeks() -> None:
    """Every step again, one episode at a time."""
    task = CartPoleSwingUp()
    peeks = th.tensor(
        [[1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0], [1, 0, 0, 0, 1, 0], [0] * 6]
    ).bool().view(5, 3, 2)  # fmt: skip
    policy, episodes = run(task, peeks, 5)
    networks = swing_up_networks()
    states = th.from_numpy(task.start(np.random.default_rng(0), (3, 2)))
    for c in range(3):
        act, predict = networks.bind(random_vectors(networks, 3)[c : c + 1])
        for e in range(2):
            state, believed, total = states[c, e], th.zeros(5, dtype=th.float64), 0.0
            for t in range(5):
                x = task.observe(state) if peeks[t, c, e] else believed
                th.testing.assert_close(policy.seen[t][c, e], x)
                action = act(x.view(1, 1, 5))
                believed = predict(x.view(1, 1, 5), action).view(5)
                state, _, reward, _ = task.step(state, action.view(1))
                total += float(reward)
            assert episodes is not None
            assert float(episodes.returns[c, e]) == pytest.approx(total)
    assert episodes is not None
    assert episodes.peeks == pytest.approx(12 / 30)


def test_always_looking_is_the_bare_policy_whatever_the_model() -> None:
    task = CartPoleSwingUp()
    bare, _ = run(task, None, 60)
    looking, _ = run(task, th.ones(60, 3, 2, dtype=th.bool), 60)
    lost, _ = run(task, th.ones(60, 3, 2, dtype=th.bool), 60, model=lambda x, a: x * th.nan)
    for other in (looking, lost):
        assert all(th.equal(a, b) for a, b in zip(bare.done, other.done, strict=True))


class Gusty(CartPoleSwingUp):
    """Other dynamics, the same starts."""

    def step(self, state: th.Tensor, action: th.Tensor) -> Any:
        after, *_ = super().step(state, action)
        after = after + th.tensor([0.0, 0.5, 0.0, 0.3], dtype=after.dtype)
        seen = self.observe(after)
        return after, seen, *self.judge(seen)


def test_never_looking_does_not_depend_on_the_world() -> None:
    peeks = th.zeros(40, 3, 2, dtype=th.bool)
    peeks[0] = True
    calm, _ = run(CartPoleSwingUp(), peeks, 40)
    gusty, _ = run(Gusty(), peeks, 40)
    assert all(th.equal(a, b) for a, b in zip(calm.done, gusty.done, strict=True))
    peeks[7] = True
    seeing, other = run(CartPoleSwingUp(), peeks, 40)[0], run(Gusty(), peeks, 40)[0]
    same = [th.equal(a, b) for a, b in zip(seeing.done, other.done, strict=True)]
    assert same == [True] * 7 + [False] * 33


def test_with_the_true_dynamics_nothing_is_lost() -> None:
    """Rounding grows by exp(6.27 t) near upright: 200 steps only."""
    task = CartPoleSwingUp()
    never = th.zeros(200, 3, 2, dtype=th.bool)
    never[0] = True
    seeing, all_seen = run(task, None, 200)
    blind, nothing_seen = run(task, never, 200, model=true_dynamics(task))
    for a, b in zip(seeing.done, blind.done, strict=True):
        th.testing.assert_close(a, b, atol=1e-8, rtol=0)
    assert all_seen is not None
    assert nothing_seen is not None
    th.testing.assert_close(all_seen.returns, nothing_seen.returns, atol=1e-6, rtol=0)
    assert nothing_seen.error < 1e-16
    blind, _ = run(task, never, 200)
    assert not th.allclose(seeing.done[-1], blind.done[-1])


def test_zero_weights_keep_velocities() -> None:
    networks = swing_up_networks()
    _, predict = networks.bind(th.zeros(1, networks.n_parameters, dtype=th.float64))
    angle = th.linspace(-9, 9, 7, dtype=th.float64)
    x = th.stack([angle / 5, angle - 1, angle.cos(), angle.sin(), 2 * angle], -1)[None]
    found = predict(x, th.ones(1, 7, 1, dtype=th.float64))[0]
    moved = angle + 2 * angle * DT
    expected = th.stack(
        [angle / 5 + (angle - 1) * DT, angle - 1, moved.cos(), moved.sin(), 2 * angle], -1
    )
    th.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    th.testing.assert_close(found[:, 2].square() + found[:, 3].square(), th.ones_like(angle))


def test_the_swing_up_model_does_not_see_the_position() -> None:
    networks = swing_up_networks()
    _, predict = networks.bind(random_vectors(networks, 1))
    x = th.randn(1, 4, 5, dtype=th.float64)
    action = th.rand(1, 4, 1, dtype=th.float64)
    moved = x.clone()
    moved[..., 0] += 1
    difference = predict(moved, action) - predict(x, action)
    expected = th.tensor([1.0, 0, 0, 0, 0], dtype=th.float64).expand(1, 4, 5)
    th.testing.assert_close(difference, expected, atol=1e-12, rtol=0)
    assert not th.allclose(predict(x, action), predict(x, -action))


def test_the_residual_model_adds_a_tenth() -> None:
    networks = Networks.make("residual", 3, 2, [4], [6])
    vector = th.zeros(1, networks.n_parameters)
    vector[:, size_of(networks.model.shapes) - 3 : size_of(networks.model.shapes)] = th.tensor(
        [1.0, 2, 3]
    )
    x = th.randn(1, 4, 3)
    found = networks.bind(vector)[1](x, th.randn(1, 4, 2))
    th.testing.assert_close(found, x + th.tensor([0.1, 0.2, 0.3]))


def test_a_reward_that_is_not_finite_ends_the_episode() -> None:
    class Broken(CartPoleSwingUp):
        def judge(self, observation: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
            reward, ended = super().judge(observation)
            return th.where(observation[..., 0] > 0, th.nan, th.ones_like(reward)), ended

    task, states = Broken(), th.zeros(1, 2, 4, dtype=th.float64)
    states[..., 0], states[..., 1] = -0.105, th.tensor([1.0, 0.5], dtype=th.float64)
    episodes = run_episodes(task, states, None, lambda x: x[..., :1] * 0, lambda x, a: x, 30)
    assert episodes is not None
    assert episodes.lengths.tolist() == [[11, 22]]
    assert episodes.returns.tolist() == [[10, 21]]


def test_discounted_returns_and_ends() -> None:
    """Off the track in the third step; the step itself is rewarded."""
    task = CartPoleSwingUp()
    states = th.tensor([[[2.37, 1.5, 0, 0], [0.0, 0, 0, 0]]], dtype=th.float64)
    scores = run_episodes(task, states, None, lambda x: x[..., :1] * 0, lambda x, a: x, 4, 0.5)
    assert scores is not None
    assert scores.lengths.tolist() == [[3, 4]]
    positions = 2.37 + 0.015 * np.arange(1, 4)  # friction changes the fifth digit
    expected = (0.5 ** np.arange(3) * np.cos(math.pi / 4.8 * positions)).sum()
    assert float(scores.returns[0, 0]) == pytest.approx(expected, abs=2e-3)
    assert float(scores.returns[0, 1]) == pytest.approx(1.875)


# ------------------------------------------------------------------ population


def test_a_population_is_its_candidates_one_by_one() -> None:
    task, networks = CartPoleSwingUp(hard=True, max_steps=70), swing_up_networks()
    candidates = random_vectors(networks, 6)
    together = play(task, networks, candidates, 4, 0.3, np.random.default_rng(3))
    assert together is not None
    rng = np.random.default_rng(3)
    starts = draw_starts(task, rng, 3, 4)
    peeks = th.from_numpy(draw_peeks(rng, 70, (3, 4), 0.3))
    for c in range(6):
        act, predict = networks.bind(candidates[c : c + 1])
        alone = run_episodes(
            task, starts[c : c + 1], peeks[:, c % 3, None], act, predict, task.max_steps
        )
        assert alone is not None
        th.testing.assert_close(together.returns[c], alone.returns[0])
        assert together.lengths[c].tolist() == alone.lengths[0].tolist()
        assert float(together.fitness[c]) == pytest.approx(float(alone.returns.mean()), rel=1e-5)


def test_a_pair_shares_its_luck_and_others_do_not() -> None:
    task, networks = CartPoleSwingUp(hard=True, max_steps=50), swing_up_networks()
    same = random_vectors(networks, 1).expand(6, -1)
    scores = play(task, networks, same, 3, 0.2, np.random.default_rng(0))
    again = play(task, networks, same, 3, 0.2, np.random.default_rng(0))
    assert scores is not None
    assert again is not None
    assert th.equal(scores.returns[:3], scores.returns[3:])
    assert len(scores.returns[:3].unique()) == 9
    assert th.equal(scores.returns, again.returns)


def test_blocks_add_up() -> None:
    task, networks = CartPoleSwingUp(hard=True, max_steps=130), swing_up_networks()
    blocks: list[Block] = []
    candidates = random_vectors(networks, 4)
    scores = play(
        task, networks, candidates, 5, 0.5, np.random.default_rng(0),
        on_block=lambda block: blocks.append(block) is None,
    )  # fmt: skip
    assert scores is not None
    assert len(blocks) == 3
    assert sum(b.steps for b in blocks) == int(scores.lengths.sum())
    np.testing.assert_allclose(sum(b.rewards for b in blocks), scores.returns.numpy(), atol=1e-6)
    assert (sum(b.ended.astype(int) for b in blocks) == 1).all()
    assert play(task, networks, candidates, 5, 0.5, np.random.default_rng(0),
                on_block=lambda block: False) is None  # fmt: skip


def test_a_model_that_runs_away_does_no_harm() -> None:
    task, networks = CartPoleSwingUp(max_steps=60), swing_up_networks()
    wild = random_vectors(networks, 2, scale=1e30).float()
    scores = play(task, networks, wild, 2, 0.1, np.random.default_rng(0))
    assert scores is not None
    assert scores.fitness.isfinite().all()
