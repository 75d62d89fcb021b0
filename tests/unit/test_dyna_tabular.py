"""The table model, and the paper's equivalence: replay is planning with a table."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.agents.dyna_dqn import DynaDQN
from rlzoo.agents.dyna_dqn.tabular_model import TableModel

DYNA_Q = DynaDQN.PRESETS["dyna-q"]


def one_hot(*states: int, n: int = 4) -> th.Tensor:
    return th.eye(n)[list(states)]


@pytest.fixture
def model() -> TableModel:
    table = TableModel(4, 2)
    for _ in range(3):
        table.observe(0, 1, 2, 0.1, 0.0)
    table.observe(0, 1, 3, 5.0, 1.0)
    table.observe(1, 0, 2, -1.0, 0.0)
    return table


def test_counts(model: TableModel) -> None:
    assert model.count(0, 1, 2) == 3
    assert model.count(0, 1, 3) == 1
    assert model.count(0, 0, 2) == 0
    assert model.is_fitted
    assert not TableModel(4, 2).is_fitted


def test_constant_rewards_are_kept_to_the_last_bit(model: TableModel) -> None:
    float32 = np.float32(0.1)
    table = TableModel(4, 2)
    for _ in range(1000):
        table.observe(0, 0, 1, float(float32), 1.0)
    found = table.forward_sample(one_hot(0), th.tensor([0]))
    assert found.rewards.dtype == th.float32
    assert found.rewards.numpy()[0] == float32
    assert found.dones.tolist() == [1.0]


def test_forward_draws_by_count(model: TableModel) -> None:
    th.manual_seed(0)
    n = 4000
    found = model.forward_sample(one_hot(*[0] * n), th.ones(n, dtype=th.long))
    states = found.observations.argmax(-1)
    assert set(states.tolist()) == {2, 3}
    assert abs((states == 2).float().mean() - 0.75) < 0.03
    assert th.equal(found.rewards == 5.0, states == 3)
    assert th.equal(found.dones == 1.0, states == 3)


def test_backward_draws_by_count(model: TableModel) -> None:
    th.manual_seed(0)
    n = 4000
    found = model.backward_sample(one_hot(*[2] * n))
    states = found.observations.argmax(-1)
    assert abs((states == 0).float().mean() - 0.75) < 0.03
    assert th.equal(found.actions == 1, states == 0)
    assert th.equal(found.rewards == -1.0, states == 1)
    assert found.dones.tolist() == [0.0] * n


def test_what_never_happened_is_in_doubt(model: TableModel) -> None:
    ahead = model.forward_sample(one_hot(0, 3), th.tensor([1, 0]))
    behind = model.backward_sample(one_hot(3, 1))
    for found in (ahead, behind):
        assert found.doubt.isfinite().tolist() == [True, False]
        assert found.observations.sum(-1).tolist() == [1, 1]


def test_backup_is_the_expectation(model: TableModel) -> None:
    value = th.tensor([0.0, 0.0, 10.0, 100.0])
    found = model.backup(one_hot(0, 1, 3), th.tensor([1, 0, 1]), lambda s: s @ value, 0.5)
    assert th.allclose(found[:2], th.tensor([(3 * (0.1 + 5) + 5.0) / 4, -1 + 5.0]))
    assert found[2].isnan()


def test_state_dict(model: TableModel) -> None:
    other = TableModel(4, 2)
    other.observe(3, 1, 0, 9.0, 0.0)  # is forgotten
    other.load_state_dict(model.state_dict())
    assert th.equal(other.get_extra_state(), model.get_extra_state())
    assert other.count(3, 1, 0) == 0
    assert other.count(0, 1, 2) == 3
    for table in (model, other):  # they go on counting in the same order
        table.observe(0, 1, 1, 0.0, 0.0)
    draws = []
    for table in (model, other):
        th.manual_seed(1)
        draws.append(table.forward_sample(one_hot(*[0] * 50), th.ones(50, dtype=th.long)))
    assert all(th.equal(a, b) for a, b in zip(*draws, strict=True))


# ------------------------------------------------------------------- the whole agent


def train(env_id: str, steps: int = 400, **kwargs: Any) -> DynaDQN:
    model = DynaDQN("MlpPolicy", gym.make(env_id), seed=0, device="cpu", **kwargs)
    return model.learn(steps)


def q_table(model: DynaDQN) -> np.ndarray:
    """Q values by actions and states."""
    (weight,) = model.q_net.parameters()
    return weight.detach().numpy()


SETTINGS = [
    DYNA_Q,
    {**DYNA_Q, "planning_steps": 32, "batch_size": 32, "train_freq": 4, "learn_from_real": False},
    {
        "policy_kwargs": {"net_arch": [16]},
        "learning_starts": 20,
        "planning_steps": 8,
        "batch_size": 8,
    },
]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("env_id", ["CliffWalking-v1", "Taxi-v4"])
def test_in_a_deterministic_world_replay_is_dyna_with_a_table(
    env_id: str, settings: dict[str, Any]
) -> None:
    steps = 120
    replay = train(env_id, steps, **{**settings, "source": "replay"})
    table = train(env_id, steps, **{**settings, "source": "forward"})
    left, right = (list(m.q_net.parameters()) for m in (replay, table))
    assert all(th.equal(a, b) for a, b in zip(left, right, strict=True))
    assert any(weight.abs().sum() > 0 for weight in left)
    assert replay.counters() == table.counters()


def test_in_a_random_world_it_is_not() -> None:
    settings = {**DYNA_Q, "exploration_final_eps": 1.0, "exploration_initial_eps": 1.0}
    settings["learning_rate"] = 0.5
    env_id = "CliffWalkingSlippery-v1"
    tables = [
        q_table(train(env_id, 200, **{**settings, "source": s})) for s in ("replay", "forward")
    ]
    assert not np.array_equal(*tables)


def test_dyna_q_finds_the_way() -> None:
    model = train("CliffWalking-v1", 1500, **{**DYNA_Q, "gamma": 1.0, "learning_rate": 0.5})
    env = gym.make("CliffWalking-v1")
    state, total = env.reset(seed=0)[0], 0.0
    for _ in range(30):
        state, reward, ended, *_ = env.step(int(model.predict(state, deterministic=True)[0]))
        total += float(reward)
        if ended:
            break
    assert total == -13  # the shortest way


def test_ties_are_broken_at_random_while_learning() -> None:
    # An empty table would walk into the first wall for ever.
    model = DynaDQN("MlpPolicy", "FrozenLake-v1", device="cpu", seed=0, **DYNA_Q)
    states = np.full(400, 3)
    model.exploration_initial_eps = model.exploration_final_eps = 0.0
    assert np.bincount(model.predict(states)[0], minlength=4).min() > 60
    planned = model._choose(th.eye(16)[states])
    assert th.bincount(planned, minlength=4).min() > 60
    assert set(model.predict(states, deterministic=True)[0]) == {0}
    with th.no_grad():
        model.q_net.weight[2, 3] = 0.1  # type: ignore[index, union-attr]
    assert set(model.predict(states)[0]) == {2}


def test_an_update_of_a_table_is_q_learning() -> None:
    model = train("FrozenLake-v1", 1, **{**DYNA_Q, "learn_from_real": False, "gamma": 0.5})
    with th.no_grad():
        for network in (model.q_net, model.q_net_target):
            network.weight.copy_(th.arange(64.0).view(4, 16) / 100)  # type: ignore[union-attr]
    before = q_table(model).copy()
    control = model._control(model.replay_buffer)  # type: ignore[arg-type]
    batch = control.newest(1)
    model._update(batch)
    state, action = int(batch.observations.argmax()), int(batch.actions)
    following = int(batch.next_observations.argmax())
    target = float(batch.rewards) + 0.5 * (1 - float(batch.dones)) * before[:, following].max()
    expected = before.copy()
    expected[action, state] += 0.1 * (target - before[action, state])
    np.testing.assert_allclose(q_table(model), expected, rtol=1e-6)


# Steps per iteration, planned per iteration, both as in the table of the paper page; T = 400.
INSTANCES = {
    "DQN-style replay": ({"source": "replay"}, 4, 32, 32),
    "Dyna-Q": ({"source": "forward"}, 1, 5, 1),
    "DER": ({"source": "replay"}, 1, 32, 32),
    "backward": ({"source": "backward"}, 4, 32, 16),
    "rollout": ({"source": "rollout", "rollout_length": 3}, 4, 32, 32),
    "return": ({"source": "rollout", "rollout_target": "return"}, 2, 8, 8),
    "act": ({"source": "act"}, 8, 8, 8),
}


@pytest.mark.parametrize("name", INSTANCES)
def test_counters_of_the_papers_loop(name: str) -> None:
    settings, m, p, batch = INSTANCES[name]
    total = 400
    model = train(
        "FrozenLake-v1", total, learning_starts=0, train_freq=m, planning_steps=p,
        batch_size=batch, **settings,
    )  # fmt: skip
    k = total // m
    assert model.counters() == {
        "iterations": k, "real_steps": total, "planned_transitions": k * p
    }  # fmt: skip
    assert model._n_updates == k * p // batch
    logged = {f"planning/{name}": value for name, value in model.counters().items()}
    last = {k: v for k, v in model.logger.name_to_value.items() if k.startswith("planning/")}
    assert last == logged
    if name == "DQN-style replay":
        assert logged["planning/planned_transitions"] == 8 * total


def test_steps_before_learning_are_real_steps_of_no_iteration() -> None:
    model = train("FrozenLake-v1", 60, learning_starts=20, planning_steps=8, batch_size=8)
    assert model.counters() == {
        "iterations": 40, "real_steps": 60, "planned_transitions": 320
    }  # fmt: skip


@pytest.mark.parametrize("n_envs", [1, 3])
def test_the_table_sees_every_real_step(n_envs: int) -> None:
    envs = DummyVecEnv([lambda: gym.make("FrozenLake-v1") for _ in range(n_envs)])
    model = DynaDQN("MlpPolicy", envs, seed=0, source="backward", device="cpu").learn(120)
    table = model.policy.dynamics
    assert isinstance(table, TableModel)
    assert float(table.get_extra_state()[:, 3].sum()) == model.counters()["real_steps"] == 120
    seen = model.replay_buffer.observations[:5].reshape(-1)  # type: ignore[union-attr]
    following = model.replay_buffer.next_observations[:5].reshape(-1)  # type: ignore[union-attr]
    actions = model.replay_buffer.actions[:5].reshape(-1)  # type: ignore[union-attr]
    for row in zip(seen.tolist(), actions.tolist(), following.tolist(), strict=True):
        assert table.count(*row) > 0


def test_a_loaded_copy_has_the_table(tmp_path: Any) -> None:
    model = train("FrozenLake-v1", 200, source="act")
    model.save(tmp_path / "model")
    loaded = DynaDQN.load(tmp_path / "model", device="cpu")
    assert th.equal(
        loaded.policy.dynamics.get_extra_state(), model.policy.dynamics.get_extra_state()  # type: ignore[union-attr]
    )  # fmt: skip
    states = np.arange(16)
    np.testing.assert_array_equal(
        loaded.predict(states, deterministic=True)[0], model.predict(states, deterministic=True)[0]
    )
    assert loaded.counters() == model.counters()


def test_rewards_whose_scale_changes_are_refused() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("FrozenLake-v1")]), norm_obs=False)
    model = DynaDQN("MlpPolicy", env, source="forward", device="cpu")
    with pytest.raises(ValueError, match=r"norm_reward[\s\S]*norm_reward=False"):
        model.learn(10)
