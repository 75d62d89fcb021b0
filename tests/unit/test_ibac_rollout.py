"""The rollout: GAE, time limits, scaled rewards, one copy (section 8, tests 5 and 12)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from ibac_testing import VECTOR, collected, make
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.rewards import new_statistics, scale_rewards
from rlzoo.agents.ibac_sni.rollout import DeviceRolloutBuffer
from rlzoo.errors import RefusedError

T, N, GAMMA, LAM = 9, 3, 0.9, 0.8


def filled() -> tuple[DeviceRolloutBuffer, RolloutBuffer, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    data = {
        "obs": rng.normal(size=(T + 1, N, 4)).astype(np.float32),
        "rewards": rng.normal(size=(T, N)).astype(np.float32),
        "values": rng.normal(size=(T + 1, N)).astype(np.float32),
        "starts": rng.random((T + 1, N)) < 0.3,
    }
    arguments = (T, VECTOR, spaces.Discrete(3), "cpu")
    buffers = [
        cls(*arguments, gae_lambda=LAM, gamma=GAMMA, n_envs=N)
        for cls in (DeviceRolloutBuffer, RolloutBuffer)
    ]
    for buffer in buffers:
        for t in range(T):
            buffer.add(
                data["obs"][t], np.full((N, 1), t % 3), data["rewards"][t], data["starts"][t],
                th.from_numpy(data["values"][t]), th.full((N,), -0.5),
            )  # fmt: skip
        buffer.compute_returns_and_advantage(th.from_numpy(data["values"][T]), data["starts"][T])
    return buffers[0], buffers[1], data  # type: ignore[return-value]


def test_advantages_are_sums_of_all_later_errors() -> None:
    buffer, _, data = filled()
    v, r, starts = data["values"].astype(float), data["rewards"].astype(float), data["starts"]
    for n in range(N):
        for t in range(T):
            total, weight = 0.0, 1.0
            for s in range(t, T):
                alive = 1.0 - starts[s + 1, n]
                total += weight * (r[s, n] + GAMMA * v[s + 1, n] * alive - v[s, n])
                weight *= GAMMA * LAM * alive
            assert buffer.advantages[t, n].item() == pytest.approx(total, abs=1e-5)
            assert buffer.returns[t, n].item() == pytest.approx(total + v[t, n], abs=1e-5)
    assert data["starts"][1:].any()


def test_minibatches_are_those_of_sb3() -> None:
    ours, sb3, _ = filled()
    batches = []
    for buffer in (ours, sb3):
        np.random.seed(4)  # noqa: NPY002
        batches.append(list(buffer.get(10)))
    assert [len(b.actions) for b in batches[0]] == [10, 10, 7]
    for left, right in zip(*batches, strict=True):
        for name in ("observations", "actions", "old_values", "advantages", "returns"):
            a, b = (getattr(x, name).float().reshape(len(x.actions), -1) for x in (left, right))
            th.testing.assert_close(a, b)


def test_dict_observations_are_refused() -> None:
    with pytest.raises(RefusedError, match="cannot store"):
        DeviceRolloutBuffer(4, spaces.Dict({"a": VECTOR}), spaces.Discrete(2), "cpu")


# ----------------------------------------------------------------- time limits


class Endless(gym.Env[Any, Any]):
    """Pays 1 in every step and never ends."""

    observation_space, action_space = VECTOR, spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.full(4, self.t / 10, np.float32), 1.0, False, False, {}


def endless(**kwargs: Any) -> IBACSNI:
    env = DummyVecEnv([lambda: TimeLimit(Endless(), 5)] * 2)
    return IBACSNI(
        "MlpPolicy", env, n_steps=12, device="cpu", seed=0, n_noise_samples=2, latent_dim=8,
        **kwargs,
    )  # fmt: skip


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_time_limit_is_an_end_unless_it_is_bootstrapped(bootstrap: bool) -> None:
    model = collected(endless(normalize_reward=False, bootstrap_timeouts=bootstrap))
    rewards = model.rollout_buffer.rewards
    last = th.full((1, 4), 0.5)  # the fifth observation, not that of the reset behind it
    value = model.policy.predict_values(last).item() if bootstrap else 0.0
    assert abs(value) > 1e-3 or not bootstrap
    expected = th.ones(12, 2)
    expected[[4, 9]] += model.gamma * value
    th.testing.assert_close(rewards, expected)
    assert model.rollout_buffer.episode_starts[[0, 5, 10]].min() == 1
    assert model.rollout_buffer.episode_starts.sum() == 6


# --------------------------------------------------------------------- rewards


def test_scaled_rewards_are_those_of_vec_normalize() -> None:
    kwargs = {"gamma": 0.97}
    scaled = collected(endless(**kwargs, normalize_reward=True)).rollout_buffer.rewards
    env = VecNormalize(
        DummyVecEnv([lambda: TimeLimit(Endless(), 5)] * 2), norm_obs=False, gamma=0.97
    )
    model = endless(**kwargs)
    model.set_env(env)
    wrapped = collected(model)
    th.testing.assert_close(scaled, wrapped.rollout_buffer.rewards)
    assert not th.allclose(scaled, th.ones(12, 2), atol=0.05)
    assert wrapped.return_statistics == new_statistics()  # the wrapper does it


def test_statistics_are_not_changed_in_place() -> None:
    statistics, returns = new_statistics(), np.array([2.0, 3.0])
    rewards, starts = np.array([1.0, 100.0]), np.array([True, False])
    scaled, later, found = scale_rewards(rewards, starts, returns, statistics, 0.5)
    np.testing.assert_array_equal(later, [1.0, 101.5])
    np.testing.assert_array_equal(returns, [2.0, 3.0])
    assert statistics == new_statistics()
    assert found["count"] == pytest.approx(2.0001)
    assert scaled.dtype == np.float32
    many = {"mean": 0.0, "var": 1.0, "count": 1e9}
    clipped, _, _ = scale_rewards(np.array([50.0, -50.0]), starts, returns, many, 0.5)
    assert clipped.tolist() == [10, -10]


def test_episode_statistics_keep_the_rewards_of_the_task() -> None:
    model = make(normalize_reward=True).learn(512)
    returns = [info["r"] for info in model.ep_info_buffer]  # type: ignore[union-attr]
    assert all(r == info["l"] for r, info in zip(returns, model.ep_info_buffer, strict=True))  # type: ignore[arg-type]


def test_every_observation_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    copied: list[int] = []
    put = DeviceRolloutBuffer.put_observation

    def counted(self: DeviceRolloutBuffer, observation: Any) -> th.Tensor:
        copied.append(self.pos)
        return put(self, observation)

    monkeypatch.setattr(DeviceRolloutBuffer, "put_observation", counted)
    collected(model)
    assert copied[-model.n_steps :] == list(range(model.n_steps))
    monkeypatch.setattr(th, "as_tensor", None)  # the update has all it needs
    model.train()
