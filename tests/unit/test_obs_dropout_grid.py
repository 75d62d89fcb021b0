"""The agent on apples and fires: thresholds, lag, learning (page, tests 2, 11, 17)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo import ObservationalDropout, make_vec
from rlzoo.agents.observational_dropout.deployment import returns_of
from rlzoo.agents.observational_dropout.environments import Plan, play_in_env
from rlzoo.agents.observational_dropout.population import Networks, draw_starts, play
from rlzoo.agents.observational_dropout.recursion import choose, draw_peeks, run_episodes
from rlzoo.agents.observational_dropout.stacked import size_of, split
from rlzoo.agents.observational_dropout.world_models import WORLD_MODELS
from rlzoo.core.foraging import WIDTH, AppleFireGrid
from rlzoo.core.seeding import stream
from rlzoo.errors import RefusedError

CELLS = WIDTH * WIDTH
GRID = "rlzoo/AppleFireGrid-v0"


def networks(kind: str = "grid_conv", lagged: bool = False) -> Networks:
    return Networks.make(kind, 50, 5, [10, 32], None, discrete=True, lagged=lagged)


def vectors_of(made: Networks, count: int) -> th.Tensor:
    generator = th.Generator().manual_seed(0)
    return th.randn(count, made.n_parameters, generator=generator, dtype=th.float64)


def make(**kwargs: Any) -> ObservationalDropout:
    settings: dict[str, Any] = {
        "pop_size": 6, "n_eval_episodes": 2, "peek_prob": 0.4, "seed": 0, "device": "cpu",
        "zero_policy": False, "policy_kwargs": {"net_arch": [4], "model_arch": [5]},
    }  # fmt: skip
    return ObservationalDropout("MlpPolicy", make_vec(GRID), **{**settings, **kwargs})


def one_hot(actions: Any) -> th.Tensor:
    return th.eye(5, dtype=th.float64)[th.as_tensor(actions)]


# ---------------------------------------------------------------- world models


def test_numbers_of_parameters() -> None:
    policy = 51 * 10 + 11 * 32 + 33 * 5
    for kind, count in (("grid_fc", 10_650), ("grid_conv", 1_201)):
        assert size_of(networks(kind).model.shapes) == count
        assert networks(kind).n_parameters == count + policy
    with pytest.raises(RefusedError, match="residual"):
        WORLD_MODELS["grid_conv"](5, 1, None)
    assert make().policy.world_model == "grid_conv"
    assert make(backend="env").policy.world_model == "residual"


def hand_set(direction: bool = True) -> list[Any]:
    """A kernel with five hidden units: each says whether its neighbour is full and walked to."""
    vector = th.zeros(1, 11 * 5 + 6, dtype=th.float64)
    (w1, b1), (w2, b2) = split(vector, ((10, 5), (5, 1)))
    for unit in range(5):
        neighbour = unit if direction else unit ^ 1  # the other way
        w1[0, neighbour, unit] = w1[0, 5 + unit, unit] = 20
    b1 -= 30
    w2 += 0.5
    b2 += 2.5
    made = WORLD_MODELS["grid_conv"](50, 5, [5])
    # What split() gives are views of the vector, bias included.
    return [made, split(vector, made.shapes)]


@pytest.mark.parametrize("right", [True, False])
def test_a_kernel_set_by_hand_knows_all_that_can_be_known(right: bool) -> None:
    """All cells that were seen before but for the apple that is eaten; not into walls."""
    model, layers = hand_set(right)
    task, rng, n = AppleFireGrid(), np.random.default_rng(1), 2_000
    state, seen, _, _ = task.step(
        th.from_numpy(task.start(rng, (n,))), one_hot(rng.integers(5, size=n))
    )
    actions = rng.integers(0, 5, n)
    after, true, _, _ = task.step(state, one_hot(actions))
    predicted = model.predict(layers, seen[None], one_hot(actions)[None])[0]
    assert set(predicted.unique().tolist()) == {0, 1}
    free = (after[:, CELLS : CELLS + 2] != state[:, CELLS : CELLS + 2]).any(-1) | th.from_numpy(
        actions == 4
    )
    foreseen = task.foresee(seen, one_hot(actions))
    new = np.zeros((5, 2, 5, 5), bool)
    new[0, :, 4], new[1, :, 0], new[2, :, :, 4], new[3, :, :, 0] = True, True, True, True
    known = th.from_numpy(~new.reshape(5, 50)[actions])
    wrong = (predicted != true) & known & free.unsqueeze(1)
    eaten = (foreseen != predicted) & known
    if right:
        assert th.equal(wrong, eaten & free.unsqueeze(1))
        assert int(eaten.sum()) == int(((seen[:, 12] == 1) & known.any(1)).sum()) > 100
    else:
        assert int(wrong.sum()) > 1_000


def test_the_kernel_is_the_same_everywhere() -> None:
    made = networks()
    _, predict = made.bind(3 * vectors_of(made, 2))
    x = (th.rand(2, 3, 2, 5, 5, generator=th.Generator().manual_seed(0)) < 0.4).double()
    action = one_hot([[0, 1, 4], [2, 3, 3]])
    found = predict(x.flatten(2), action).view(2, 3, 2, 5, 5)
    assert 0.1 < float(found.mean()) < 0.9
    swapped = predict(x.flip(2).flatten(2), action).view(2, 3, 2, 5, 5)
    assert th.equal(swapped.flip(2), found)  # apples and fires alike
    moved = th.zeros_like(x)
    moved[..., 1:, :] = x[..., :-1, :]
    shifted = predict(moved.flatten(2), action).view(2, 3, 2, 5, 5)
    assert th.equal(shifted[..., 2:4, :], found[..., 1:3, :])


@pytest.mark.parametrize("kind", ["grid_fc", "grid_conv"])
def test_predictions_are_thresholds_of_plain_networks(kind: str) -> None:
    made = networks(kind)
    vectors = vectors_of(made, 2)
    x = (th.rand(2, 3, 50, generator=th.Generator().manual_seed(0)) < 0.3).double()
    action = one_hot([[0, 1, 4], [2, 3, 3]])
    found = made.bind(vectors)[1](x, action)
    (w1, b1), (w2, b2) = split(vectors, made.model.shapes)
    for c in range(2):
        for e in range(3):
            told = x[c, e]
            if kind == "grid_conv":
                wide = np.zeros((2, 7, 7))
                wide[:, 1:6, 1:6] = x[c, e].view(2, 5, 5)
                rows = [
                    [wide[m, r + 1, k], wide[m, r - 1, k], wide[m, r, k + 1], wide[m, r, k - 1],
                     wide[m, r, k]] for m in range(2) for r in range(1, 6) for k in range(1, 6)
                ]  # fmt: skip
                told = th.tensor(rows, dtype=th.float64)
            inputs = th.cat([told, action[c, e].expand(*told.shape[:-1], 5)], -1)
            out = ((inputs @ w1[c] + b1[c, 0]).tanh() @ w2[c] + b2[c, 0]).flatten()
            assert th.equal(found[c, e], (out > 0.5).double())


# ------------------------------------------------------------------------- lag


@pytest.mark.parametrize("lagged", [False, True])
def test_a_population_is_its_candidates_one_by_one(lagged: bool) -> None:
    """The same starts, peeks and luck; each step again, one episode at a time."""
    task, made = AppleFireGrid(), networks("grid_fc", lagged)
    candidates = vectors_of(made, 4)
    together = play(task, made, candidates, 3, 0.3, np.random.default_rng(3))
    assert together is not None
    rng = np.random.default_rng(3)
    starts = draw_starts(task, rng, 2, 3)
    peeks = draw_peeks(rng, 106, (2, 3), 0.3)
    luck = th.from_numpy(rng.random((106, 2, 3), np.float32))
    for c in range(4):
        act, predict = made.bind(candidates[c : c + 1])
        for e in range(3):
            state, last, t, ended = starts[c, e][None], one_hot([0]), 0, False
            x = task.observe(state)
            while not ended:
                action = choose(act(x[None]), luck[t, c % 2, e][None, None])[0]
                believed = predict(x[None], (last if lagged else action)[None])[0]
                state, seen, reward, over = task.step(state, action)
                last, t, ended = action, t + 1, bool(over)
                x = seen if t < 106 and peeks[t, c % 2, e] else believed
            assert int(together.lengths[c, e]) == t
            assert float(together.returns[c, e]) == pytest.approx(float(reward))


def test_the_lag_is_seen_in_every_route() -> None:
    model = make(lagged_action=True, peek_prob=0.0)
    policy, other = model.policy, make(peek_prob=0.0).policy
    policy.load_vector(4 * policy.vector)
    other.load_vector(policy.vector)
    rng = np.random.default_rng(0)
    views = (rng.random((40, 50)) < 0.3).astype(np.float32)
    _, predict = policy.bind()

    def predicted(x: Any, action: th.Tensor) -> Any:
        with th.no_grad():
            return predict(th.as_tensor(x)[None], action.float()[None])[0].numpy()

    actions, state = model.predict(views)
    assert state is not None
    np.testing.assert_array_equal(state[0], predicted(views, one_hot(np.zeros(40, int))))
    np.testing.assert_array_equal(state[2], one_hot(actions))
    begins = rng.random(40) < 0.5
    x = np.where(begins[:, None], views, state[0])
    later, after = model.predict(views, state, begins)
    assert after is not None
    told = np.where(begins, 0, actions)
    np.testing.assert_array_equal(after[0], predicted(x, one_hot(told)))
    assert not np.array_equal(after[0], predicted(x, one_hot(later)))
    assert len(other.predict(views)[1] or ()) == 2


@pytest.mark.parametrize("lagged", [False, True])
@pytest.mark.parametrize("n_steps", [None, 30])
def test_slots_are_episodes_step_by_step(lagged: bool, n_steps: int | None) -> None:
    """With turns of 30 steps episodes end within them: what is told begins anew."""
    env, alone = make_vec(GRID, 4, seed=1), make_vec(GRID, 4, seed=1)
    made = networks(lagged=lagged)
    candidates = vectors_of(made, 2).float()
    plan = Plan(made, candidates, 2, 0.3, seed=5, n_steps=n_steps)
    first = np.asarray(env.reset())
    scores = play_in_env(env, first, plan, lambda scope: True)
    assert scores is not None
    alone.reset()
    if n_steps is None:
        alone._seeds = [stream(5, "start", 0, e) for e in (0, 0, 1, 1)]
        first = np.asarray(alone.reset())
    act, predict = made.bind(candidates[th.tensor([0, 1, 0, 1])])
    flags, luck = (
        [np.random.default_rng(stream(5, what, 0, e)) for e in (0, 0, 1, 1)]
        for what in ("peeks", "actions")
    )
    x, last = th.from_numpy(first)[:, None], one_hot([[0]] * 4).float()
    total, alive, step = np.zeros(4), np.ones(4, bool), 0
    while alive.any() and step != n_steps:
        action = choose(act(x), th.tensor([[rng.random()] for rng in luck]))
        believed = predict(x, last if lagged else action)
        obs, rewards, dones, _ = alone.step(action.argmax(-1)[:, 0].numpy())
        total += rewards * alive
        last = th.where(th.from_numpy(dones)[:, None, None], one_hot([[0]] * 4).float(), action)
        look = np.array([rng.random() < 0.3 for rng in flags])
        if n_steps is None:
            alive &= ~dones
        else:
            look |= dones
        x = th.where(
            th.from_numpy(look)[:, None, None], th.from_numpy(np.asarray(obs))[:, None], believed
        )
        step += 1
    np.testing.assert_allclose(scores.returns.T.flatten(), total, atol=1e-5)


def test_lag_changes_what_is_learned() -> None:
    learned = [make(lagged_action=lag).learn(400).policy.vector for lag in (False, True, True)]
    assert not th.equal(learned[0], learned[1])
    assert th.equal(learned[1], learned[2])


# --------------------------------------------------------------------- the task


def test_standing_still_earns_one_whatever_is_seen() -> None:
    model = make(peek_prob=0.2)
    vector = th.zeros_like(model.policy.vector)
    vector[-1] = 50  # the last bias is the logit of staying
    model.policy.load_vector(vector)
    assert (returns_of(model.policy, AppleFireGrid(), 50) == 1).all()


def test_episodes_end_when_they_should() -> None:
    task, made = AppleFireGrid(), networks()
    states = th.from_numpy(task.start(np.random.default_rng(0), (1, 200)))
    act, predict = made.bind(vectors_of(made, 1))
    luck = th.rand(106, 1, 200)
    episodes = run_episodes(task, states, None, act, predict, 106, luck=luck)
    assert episodes is not None
    assert th.equal(episodes.lengths, states[..., CELLS + 3].long())


def test_models_and_dreams() -> None:
    model = make(peek_prob=0.1)
    swapped = model.swap_models(n_episodes=20)
    assert all(found.isfinite().all() for found in swapped.values())
    dream = model.dream_env(3)
    dream.reset()
    for _ in range(106):
        seen, rewards, dones, infos = dream.step(np.full(3, 4))
        assert set(np.unique(seen)) <= {0, 1}
    assert dones.all()
    last = np.stack([info["terminal_observation"] for info in infos])
    assert (rewards * 106).tolist() == pytest.approx(
        (1 + 6 * last[:, 12] - 8 * last[:, 37]).tolist()
    )
