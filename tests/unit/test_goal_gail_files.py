"""GoalGAIL and what comes from outside: environments, demonstrations, files, checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch as th
from goal_gail_testing import (
    EPSILON,
    POINT,
    GoalPoint,
    demonstrate,
    make_agent,
    point_env,
    tensors_of,
)
from minari.data_collector.episode_buffer import EpisodeBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from rlzoo.agents.goal_gail import GoalGAIL
from rlzoo.agents.goal_gail.success import EXACT, Within
from rlzoo.core import checkpoint, training_state
from rlzoo.core.replay_files import ReplayFiles
from rlzoo.errors import RefusedError


def refused(message: str, *args: Any, **kwargs: Any) -> None:
    """Expect a refusal of at most three lines."""
    with pytest.raises(RefusedError, match=message) as caught:
        make_agent(*args, **kwargs)
    assert len(str(caught.value).splitlines()) <= 3


# ---------------------------------------------------------------- environments


def test_environments_that_do_not_fit() -> None:
    refused("only supports", gym.make("CartPole-v1"))
    refused("has no goals", gym.make("Pendulum-v1"))

    class OneGoal(GoalPoint):
        def __init__(self) -> None:
            super().__init__()
            del self.observation_space.spaces["achieved_goal"]  # type: ignore[attr-defined]

    refused("has no goals", gym.wrappers.TimeLimit(OneGoal(), 20))

    class Wide(GoalPoint):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space["achieved_goal"] = gym.spaces.Box(-1, 1, (3,))  # type: ignore[index]

    refused("same size", gym.wrappers.TimeLimit(Wide(), 20))


def test_an_endless_environment_needs_a_horizon() -> None:
    refused("how long an episode is", GoalPoint())
    assert make_agent(GoalPoint(), horizon=30).gamma == pytest.approx(1 - 1 / 30)
    assert make_agent(GoalPoint(), gamma=0.9).gamma == 0.9


def test_normalised_observations_are_refused() -> None:
    refused("VecNormalize", VecNormalize(point_env()))
    model = make_agent(VecNormalize(point_env(), norm_obs=False))
    model.learn(20)
    with pytest.raises(RefusedError, match="VecNormalize"):
        model.set_env(VecNormalize(point_env()))


class Silent(GoalPoint):
    """Does not say when a goal is reached."""

    distance_threshold = None


class Judging(GoalPoint):
    """Has a compute_reward, by the L2 distance or by the farthest block."""

    def __init__(self, blocks: bool) -> None:
        super().__init__(size=6)
        self.blocks = blocks

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        distance = np.linalg.norm(achieved - desired, axis=-1)
        if self.blocks:
            parts = (achieved - desired).reshape(*distance.shape, 2, 3)
            distance = np.linalg.norm(parts, axis=-1).max(-1)
        return -(distance > EPSILON).astype(np.float32)


def wrapped(env: Any) -> Any:
    return gym.wrappers.TimeLimit(env, 20)


def test_when_a_goal_is_reached() -> None:
    assert make_agent()._replay.success == Within(EPSILON)
    assert make_agent(mode="her")._replay.success == Within(EXACT)
    assert make_agent(mode="her", distance_threshold="env")._replay.success == Within(EPSILON)
    assert make_agent(distance_threshold=0.3)._replay.success == Within(0.3)
    refused("does not say when a goal is reached", wrapped(Silent()))
    assert make_agent(wrapped(Silent()), distance_threshold=0.3)._replay.success == Within(0.3)

    def near(achieved: th.Tensor, desired: th.Tensor) -> th.Tensor:
        return (achieved - desired).abs().amax(-1) < 0.2

    own = make_agent(wrapped(Silent()), success_fn=near)
    assert own._replay.success is near
    own.learn(40)
    assert "rollout/success_any" in own.logger.name_to_value


@pytest.mark.parametrize("blocks", [True, False])
def test_compute_reward_is_asked_which_distance_it_is(blocks: bool) -> None:
    env = wrapped(Judging(blocks))
    model = make_agent(env, demonstrations=None)
    assert model._replay.success == Within(EPSILON, "blocks" if blocks else "l2")
    refused("compute_reward", env, demonstrations=None, distance_threshold=0.5)


def test_demonstrations_that_do_not_fit() -> None:
    episodes = demonstrate()
    assert episodes.actions is not None
    wide = np.concatenate([episodes.observations] * 2, axis=-1)
    states, goals = episodes.achieved_goals, episodes.desired_goals
    make = type(episodes)
    refused("observations of 6 numbers", demonstrations=make(wide, states, goals))
    many = np.concatenate([episodes.actions] * 2, axis=-1)
    refused("actions of 4 numbers", demonstrations=make(episodes.observations, states, goals, many))
    longer = np.concatenate([goals] * 2, axis=-1)
    both = np.concatenate([states] * 2, axis=-1)
    refused("goals of 4 numbers", demonstrations=make(episodes.observations, both, longer))
    other = make(episodes.observations, states, goals, env_id="FetchPush-v4")
    refused("are of FetchPush-v4", demonstrations=other)
    refused("given as str", demonstrations="fetch/scripted-v0")


def test_demonstrations_in_other_forms() -> None:
    episodes = demonstrate(3)
    assert episodes.actions is not None
    raw = [
        {
            "observations": episodes.observations[i],
            "achieved_goals": episodes.achieved_goals[i],
            "desired_goals": episodes.desired_goals[i],
            "actions": episodes.actions[i],
        }
        for i in range(3)
    ]
    data = SimpleNamespace(iterate_episodes=lambda: (SimpleNamespace(**e) for e in raw))
    for form in (raw, data):
        model = make_agent(demonstrations=form)
        assert model.demonstrations is not None
        np.testing.assert_array_equal(model.demonstrations.actions, episodes.actions)


def test_a_minari_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trip through Minari gives the same numbers."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    episodes = demonstrate(3, horizon=8)
    assert episodes.actions is not None
    buffers = [
        EpisodeBuffer(
            id=i,
            observations={
                "observation": episodes.observations[i],
                "achieved_goal": episodes.achieved_goals[i],
                "desired_goal": np.repeat(episodes.desired_goals[i][None], 9, axis=0),
            },
            actions=episodes.actions[i],
            rewards=list(np.zeros(8)),
            terminations=[False] * 8,
            truncations=[False] * 7 + [True],
        )
        for i in range(3)
    ]
    minari.create_dataset_from_buffers(
        "rlzoo-tests/goal-point-v0", buffers, env=gym.make(POINT).spec
    )
    model = make_agent(demonstrations=minari.load_dataset("rlzoo-tests/goal-point-v0"))
    found = model.demonstrations
    assert found is not None
    assert found.env_id == POINT
    np.testing.assert_array_equal(found.observations, episodes.observations)
    np.testing.assert_array_equal(found.achieved_goals, episodes.achieved_goals)
    np.testing.assert_array_equal(found.desired_goals, episodes.desired_goals)
    np.testing.assert_array_equal(found.actions, episodes.actions)
    model.learn(20)


# ----------------------------------------------------------------------- files


def test_a_loaded_agent_acts_and_trains_the_same(tmp_path: Path) -> None:
    model = make_agent().learn(60)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    alone = GoalGAIL.load(tmp_path / "model", device="cpu")
    obs = point_env(9).reset()
    np.testing.assert_array_equal(alone.predict(obs)[0], model.predict(obs)[0])
    loaded = GoalGAIL.load(tmp_path / "model", env=point_env(), device="cpu")
    with pytest.raises(RefusedError, match="no demonstrations"):
        loaded.learn(20)
    loaded.set_demonstrations(demonstrate())
    loaded.load_replay_buffer(tmp_path / "replay")
    for copy in (model, loaded):
        copy._replay.prepare()
        copy._gail_now.fill_(copy.gail_weight)
        th.manual_seed(3)
        copy._update_policy(32)
        copy._update_disc(16)
    mine, theirs = tensors_of(model), tensors_of(loaded)
    assert mine.keys() == theirs.keys()
    assert not [name for name in mine if not th.equal(mine[name], theirs[name])]


def test_a_damaged_replay_file_is_refused(tmp_path: Path) -> None:
    make_agent().learn(20).save_replay_buffer(tmp_path / "replay")
    (tmp_path / "bad").write_bytes(b"\x80\x04K\x01.")
    for name, kwargs in (("bad", {}), ("replay", {"buffer_size": 10}), ("none", {})):
        with pytest.raises(RefusedError, match="no replay buffer of this agent"):
            make_agent(**kwargs).load_replay_buffer(tmp_path / name)


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("base", ["ddpg", "sac"])
def test_training_goes_on_exactly_from_a_checkpoint(n_envs: int, base: str, tmp_path: Path) -> None:
    """With a replay buffer that has wrapped around, in the middle of an episode."""
    settings = {"buffer_size": 50 * n_envs, "train_freq": 7, "base": base, "bc_coef": 0.1}
    model = make_agent(point_env(n_envs), **settings).learn(70 * n_envs)
    parts, files = training_state.capture(model, in_rollout=False), ReplayFiles()
    replay, links = files.parts(model._replay, 70)
    folder = checkpoint.publish(tmp_path, 70, {**parts, **replay}, links=links)
    found = checkpoint.load(folder)

    other = make_agent(point_env(n_envs), **settings)
    other.learn(7 * n_envs)  # its logger and lazily made states
    training_state.restore(other, found.parts)
    other.replay_buffer = make_agent(point_env(n_envs), **settings).replay_buffer
    ReplayFiles().restore(other._replay, found)
    for copy in (model, other):
        training_state.restore_volatile(copy, found.parts)
        copy.env.seed(5)  # type: ignore[union-attr]
        copy._last_obs = None
        copy.learn(70 * n_envs, reset_num_timesteps=False)
    mine, theirs = tensors_of(model), tensors_of(other)
    assert not [name for name in mine if not th.equal(mine[name], theirs[name])]
    assert model._n_updates == other._n_updates


@pytest.mark.parametrize("n_envs", [1, 8])
def test_evaluate_policy(n_envs: int) -> None:
    model = make_agent(point_env(n_envs)).learn(20)
    mean, _ = evaluate_policy(model, point_env(n_envs, seed=4), n_eval_episodes=8)
    assert mean < 0


def test_a_vector_that_answers_nothing_is_fine_if_the_agent_is_told() -> None:
    class Mute(DummyVecEnv):
        def get_attr(self, attr_name: str, indices: Any = None) -> Any:
            raise AttributeError(attr_name)

    env = Mute([lambda: gym.make(POINT, max_episode_steps=20)])
    model = make_agent(env, horizon=20, distance_threshold=0.1).learn(40)
    assert model._n_updates == 10
