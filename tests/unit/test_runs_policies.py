"""From what a user types to a policy, and the evaluation of it."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlzoo.core.seeding import get_states, stream
from rlzoo.data.policies import BatchPolicy
from rlzoo.errors import RefusedError
from rlzoo.runs import get_agent
from rlzoo.runs.evaluate import MAX_EVAL_ENVS, evaluate, make_eval_env
from rlzoo.runs.policies import RandomActions, load_policy, locate
from rlzoo.runs.train import TrainRequest, _env_of, settings_of


class Recorder:
    """Draws from every global generator and remembers the first observations that it sees."""

    def __init__(self) -> None:
        self.first: list[np.ndarray] = []

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.first.append(observation.copy())
        shape = (len(observation), 1)
        return np.random.uniform(-2, 2, shape) + torch.rand(shape).numpy(), state  # noqa: NPY002


def test_locate_knows_names_levels_and_families() -> None:
    assert locate("random", "Hopper-v4").kind == "random"
    assert locate("hopper/random").env_id == "Hopper-v4"
    found = locate("halfcheetah/medium")
    assert (found.kind, found.env_id, found.level) == ("behaviour", "HalfCheetah-v4", "medium")
    assert locate("expert").env_id is None
    assert locate("hopper/expert", "Hopper-v5").env_id == "Hopper-v5"


def test_locate_finds_models_with_the_environment_of_their_run(tmp_path: Path) -> None:
    model = tmp_path / "model.zip"
    model.write_bytes(b"")
    assert locate(str(model)).env_id is None
    (tmp_path / "manifest.json").write_text(json.dumps({"env": "Hopper-v4"}))
    (tmp_path / "config.yaml").write_text('all:\n  run:\n    env_kwargs: {"a": 1}\n')
    for spec in (model, tmp_path / "model", tmp_path):
        found = locate(str(spec))
        assert (found.kind, found.env_id, found.path) == ("model", "Hopper-v4", model)
        assert found.run.env_kwargs == {"a": 1}
    other = locate(str(model), "Hopper-v5")
    assert (other.env_id, other.run.env_kwargs) == ("Hopper-v5", {})


@pytest.mark.parametrize("spec", ["", "nothing", "hopper/none", "walker/expert", "a/b/random"])
def test_locate_refuses_what_is_nothing(spec: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefusedError):
        locate(spec)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1"])
def test_random_actions_are_inside_of_the_space_and_repeatable(env_id: str) -> None:
    policy = load_policy("random", env_id)
    assert isinstance(policy, RandomActions)
    assert isinstance(policy, BatchPolicy)
    space = gym.make(env_id).action_space
    policy.set_random_seed(3)
    actions, _ = policy.predict(np.zeros((500, 4)))
    assert all(space.contains(a) for a in actions)
    assert len(np.unique(actions)) > 1
    policy.set_random_seed(3)
    np.testing.assert_array_equal(policy.predict(np.zeros((500, 4)))[0], actions)


def test_evaluation_depends_on_seed_and_name_only_and_leaves_the_generators_alone() -> None:
    env = make_eval_env("Pendulum-v1", 2)
    try:
        torch.manual_seed(1)
        before = get_states()
        first = evaluate(Recorder(), env, "Pendulum-v1", 2, seed=0, name=5)
        assert get_states() == before
        torch.manual_seed(2)
        assert evaluate(Recorder(), env, "Pendulum-v1", 2, seed=0, name=5) == first
        assert evaluate(Recorder(), env, "Pendulum-v1", 2, seed=1, name=5) != first
        assert evaluate(Recorder(), env, "Pendulum-v1", 2, seed=0, name=6) != first
    finally:
        env.close()


def test_evaluation_starts_in_the_states_of_its_own_stream() -> None:
    env, recorder = make_eval_env("Pendulum-v1", 2), Recorder()
    evaluate(recorder, env, "Pendulum-v1", 2, seed=9, name="final")
    env.close()
    for index in range(2):
        expected, _ = gym.make("Pendulum-v1").reset(seed=stream(9, "eval", "final", index))
        np.testing.assert_array_equal(recorder.first[0][index], expected)


def test_evaluation_takes_undiscounted_returns_of_whole_episodes() -> None:
    class Still:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), dtype=np.int64), state

    env = make_eval_env("CartPole-v1", 3)
    found = evaluate(Still(), env, "CartPole-v1", 3, seed=0)
    env.close()
    assert found.episodes == 3
    assert found.return_mean == found.length_mean  # a reward of 1 per step
    assert found.normalized is None
    assert set(found.summary()) == {"return_mean", "return_std", "episodes", "normalized"}


def test_an_evaluation_uses_ten_environments_unless_asked_for_more() -> None:
    env = make_eval_env("CartPole-v1", 25)
    assert env.num_envs == MAX_EVAL_ENVS == 10
    env.close()


def test_the_environment_of_a_recipe_is_taken() -> None:
    assert _env_of("rlzoo/halfcheetah/medium-v0") == "HalfCheetah-v4"
    assert _env_of("rlzoo/hopper/random-5k-v0") == "Hopper-v4"
    assert _env_of("mine/hopper-v0") is None
    assert _env_of(None) is None


def test_options_that_look_like_other_yaml_stay_text() -> None:
    request = TrainRequest("bear", dataset="1e6 # [odd].hdf5", steps=7)
    settings = settings_of(request, get_agent("bear"), "cpu").run_settings()
    assert settings.dataset == "1e6 # [odd].hdf5"
    assert settings.steps == 7
