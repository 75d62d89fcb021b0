"""``set_env``, ``get_env`` and ``VecNormalize``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from .agents import Subject, make_env, make_vec


def test_same_kind_of_environment(agent: Subject) -> None:
    model = agent.trained()
    env = agent.vec(seed=3)
    model.set_env(env)
    assert model.get_env() is env
    assert model._last_obs is None
    assert model.learn(agent.steps).num_timesteps == agent.steps


def test_a_single_environment_is_wrapped(agent: Subject) -> None:
    model = agent.make()
    model.set_env(make_env(agent.row.env_id))
    assert model.get_env().num_envs == 1
    assert evaluate_policy(model, model.get_env(), 1)[0] < 0


def test_without_force_reset_the_episode_goes_on(agent: Subject) -> None:
    model = agent.trained()
    last = model._last_obs
    model.set_env(agent.vec(), force_reset=False)
    assert model._last_obs is last


def test_another_number_of_environments(agent: Subject) -> None:
    model = agent.trained()
    if not agent.row.any_n_envs:
        with pytest.raises(AssertionError, match="number of environments"):
            model.set_env(agent.vec(3))
        return
    model.set_env(agent.vec(3))
    assert model.n_envs == 3
    assert model.learn(agent.steps, reset_num_timesteps=False).num_timesteps == 2 * agent.steps


@pytest.mark.parametrize("n_envs", [1, 3])
def test_other_spaces_are_refused_and_nothing_changes(agent: Subject, n_envs: int) -> None:
    model = agent.trained()
    env, last = model.get_env(), model._last_obs
    with pytest.raises((ValueError, AssertionError), match=r"spaces do not match|number of env"):
        model.set_env(make_vec(agent.row.wrong_env_id, n_envs))
    assert model.get_env() is env
    assert model.n_envs == 1
    assert model._last_obs is last


def test_vec_normalize_is_taken_or_refused(agent: Subject) -> None:
    if agent.row.vec_normalize:
        assert agent.make(VecNormalize(agent.vec())).get_vec_normalize_env() is not None
        return
    with pytest.raises(ValueError, match="VecNormalize"):
        agent.make(VecNormalize(agent.vec()))


def test_vec_normalize_is_found(agent: Subject, tmp_path: Path) -> None:
    if not agent.row.vec_normalize:
        pytest.skip("refuses normalised observations")
    env = VecNormalize(agent.vec())
    model = agent.make(env)
    assert model.get_vec_normalize_env() is env
    model.learn(agent.steps)
    action, _ = model.predict(env.reset())
    assert action.shape == (1, *model.action_space.shape)  # type: ignore[misc]

    model.save(tmp_path / "model")
    env.save(str(tmp_path / "normalize.pkl"))
    restored = VecNormalize.load(str(tmp_path / "normalize.pkl"), agent.vec())
    loaded = agent.load(tmp_path / "model", env=restored)
    assert loaded.get_vec_normalize_env() is restored
    loaded.set_env(agent.vec())
    assert loaded.get_vec_normalize_env() is None
    assert agent.make().get_vec_normalize_env() is None


def test_stored_data_are_not_normalised(agent: Subject) -> None:
    if not (agent.replays and agent.row.vec_normalize):
        pytest.skip("has no replay buffer, or refuses normalised observations")
    env = VecNormalize(agent.vec())
    env.obs_rms.mean, env.obs_rms.var = np.full(3, 5.0), np.full(3, 4.0)
    env.training = False
    model = agent.make(env).learn(agent.steps)
    batch = model.replay_buffer.sample(64)  # type: ignore[attr-defined]
    assert batch.observations[:, :2].abs().max() <= 1 + 1e-6  # cosine and sine


def test_training_sees_normalised_observations(agent: Subject) -> None:
    # Acting on an environment with VecNormalize sees them, so training has to.
    if not (agent.replays and agent.row.vec_normalize):
        pytest.skip("has no replay buffer, or refuses normalised observations")
    env = VecNormalize(agent.vec(), norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.full(3, 5.0), np.full(3, 4.0)
    env.training = False
    model = agent.make(env).learn(agent.steps)
    batch = model.replay_buffer.sample(64, env=env)  # type: ignore[attr-defined]
    assert batch.observations[:, :2].max() <= -1.9  # (1 - 5) / 2
    assert batch.observations[:, :2].min() >= -3.1  # (-1 - 5) / 2
    assert batch.next_observations[:, :2].max() <= -1.9


def test_agent_made_from_data_takes_the_environment_of_the_data(
    offline_agent: Subject, tmp_path: Path
) -> None:
    # Data hold float32, Hopper observes float64: not a difference that may stop anyone.
    data = offline_agent.data("Hopper-v4")
    model = offline_agent.cls("MlpPolicy", None, dataset=data, **offline_agent.settings()).learn(5)
    model.save(tmp_path / "model")
    env = make_vec("Hopper-v4", 2)
    model.set_env(env)
    assert model.observation_space == env.observation_space
    loaded = offline_agent.load(tmp_path / "model", env=env)
    for agent_with_env in (model, loaded):
        env.seed(1)
        rewards, _ = evaluate_policy(agent_with_env, env, 2)
        assert np.isfinite(rewards)
    np.testing.assert_array_equal(model.predict(env.reset(), deterministic=True)[0].shape, (2, 3))
    loaded.set_dataset(data)
    assert loaded.learn(5).num_timesteps == 5


def test_normalisation_is_that_of_sb3(offline_agent: Subject) -> None:
    env = VecNormalize(offline_agent.vec(), clip_obs=2.5, clip_reward=1.5)
    env.obs_rms.mean, env.obs_rms.var = np.array([0.5, 0.1, -1.0]), np.array([0.2, 0.3, 9.0])
    env.ret_rms.var = np.array(16.0)
    buffer = offline_agent.make().replay_buffer  # type: ignore[attr-defined]
    rows = np.arange(50)
    raw, got = buffer._get_samples(rows), buffer._get_samples(rows, env)
    for mine, plain in (
        (got.observations, raw.observations),
        (got.next_observations, raw.next_observations),
    ):
        np.testing.assert_allclose(mine, env.normalize_obs(plain.numpy()), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.rewards, env.normalize_reward(raw.rewards.numpy()), rtol=1e-5)
    assert got.rewards.min() == -1.5
    env.obs_rms.mean = np.zeros(3)
    assert not np.allclose(buffer._get_samples(rows, env).observations, got.observations)
