"""The offline base class, through BEAR: counting, callbacks, logs, data, refusals."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from bear_testing import SMALL, changed, equal, make_bear, make_data, parameters_of
from gymnasium import spaces
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnMaxEpisodes,
)
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor

from rlzoo.agents.bear import BEAR
from rlzoo.core.finite import NonFiniteError
from rlzoo.core.offline import SpacesOnlyVecEnv
from rlzoo.errors import RefusedError


class Recorder(BaseCallback):
    """Writes down what a callback sees."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at, self.events, self.steps = stop_at, [], []

    def _on_training_start(self):
        self.events.append("training start")
        self.start_locals = dict(self.locals)

    def _on_rollout_start(self):
        self.events.append("rollout start")

    def _on_rollout_end(self):
        self.events.append("rollout end")

    def _on_training_end(self):
        self.events.append("training end")

    def _on_step(self):
        self.steps.append((self.num_timesteps, self.model._n_updates))
        self.step_locals = dict(self.locals)
        return self.num_timesteps != self.stop_at


# --- counting -------------------------------------------------------------------------------------


def test_timesteps_are_gradient_steps():
    callback = Recorder()
    model = make_bear().learn(25, callback, log_interval=10)
    assert model.num_timesteps == model._n_updates == 25
    assert callback.steps == [(i, i) for i in range(1, 26)]
    rollouts = ["rollout start", "rollout end"] * 3
    assert callback.events == ["training start", *rollouts, "training end"]


def test_counters_continue_or_start_again():
    model = make_bear().learn(10)
    model.learn(5, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (15, 15)
    model.learn(5)
    assert (model.num_timesteps, model._n_updates) == (5, 20)


def test_callback_stops_the_training():
    callback = Recorder(stop_at=7)
    model = make_bear().learn(25, callback, log_interval=10)
    assert model._n_updates == 7
    assert callback.events[-2:] == ["rollout end", "training end"]


def test_no_steps_change_nothing():
    model = make_bear()
    before = parameters_of(model)
    model.learn(0)
    model.train(gradient_steps=0, batch_size=32)
    assert equal(before, parameters_of(model))
    assert (model.num_timesteps, model._n_updates) == (0, 0)


def test_negative_steps_are_refused():
    with pytest.raises(RefusedError, match="total_timesteps=-1 is out of range"):
        make_bear().learn(-1)


def test_schedules_see_the_remaining_progress():
    seen = []
    model = make_bear(learning_rate=lambda progress: seen.append(progress) or 1e-3)
    seen.clear()
    model.learn(4)
    assert seen == [1.0, 0.75, 0.5, 0.25]


# --- callbacks ------------------------------------------------------------------------------------


def test_locals_have_the_names_that_sb3s_callbacks_read():
    callback = Recorder()
    model = make_bear().learn(2, callback)
    assert {"total_timesteps", "callback", "self"} <= set(callback.start_locals)
    values = callback.step_locals
    assert values["dones"].shape == values["rewards"].shape == (model.n_envs,)
    assert values["infos"] == [{}]
    assert values["new_obs"].shape == (1, 3)


def test_stop_training_on_max_episodes_runs_and_never_stops():
    assert make_bear().learn(15, StopTrainingOnMaxEpisodes(max_episodes=1)).num_timesteps == 15


def test_checkpoint_callback(tmp_path):
    make_bear().learn(10, CheckpointCallback(5, str(tmp_path), "bear"))
    assert {p.name for p in tmp_path.iterdir()} == {"bear_5_steps.zip", "bear_10_steps.zip"}


def test_eval_callback_on_a_separate_environment(pendulum_data, tmp_path):
    model = make_bear(dataset=pendulum_data)
    env = Monitor(gym.make("Pendulum-v1", max_episode_steps=20))
    callback = EvalCallback(env, n_eval_episodes=2, eval_freq=5, log_path=str(tmp_path), verbose=0)
    with warnings.catch_warnings():
        # SB3 would warn if the stand-in for the training environment were of another kind.
        warnings.simplefilter("error")
        model.learn(10, callback)
    evaluations = np.load(tmp_path / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [5, 10]
    assert evaluations["results"].shape == (2, 2)


def test_evaluation_does_not_change_what_is_learned(pendulum_data):
    env = Monitor(gym.make("Pendulum-v1", max_episode_steps=20))
    alone = make_bear(dataset=pendulum_data).learn(10)
    watched = make_bear(dataset=pendulum_data)
    watched.learn(10, EvalCallback(env, n_eval_episodes=1, eval_freq=3, verbose=0))
    assert equal(parameters_of(alone), parameters_of(watched))


# --- logging --------------------------------------------------------------------------------------


def lines(tmp_path, **arguments):
    model = make_bear()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(**arguments)
    return [line.split(",") for line in (tmp_path / "progress.csv").read_text().splitlines()]


def test_one_log_line_per_interval(tmp_path):
    header, *rows = lines(tmp_path, total_timesteps=25, log_interval=10)
    column = header.index("time/total_timesteps")
    assert [row[column] for row in rows] == ["10", "20", "25"]
    assert float(rows[0][header.index("train/learning_rate")]) == 3e-4


def test_no_interval_no_lines(tmp_path):
    assert lines(tmp_path, total_timesteps=10, log_interval=None) == []


# --- data -----------------------------------------------------------------------------------------


def test_spaces_stand_in_for_an_environment():
    model = make_bear()
    assert isinstance(model.get_env(), SpacesOnlyVecEnv)
    assert (model.get_env().reset() == np.zeros((1, 3))).all()
    with pytest.raises(RefusedError, match="cannot be stepped"):
        model.get_env().step(np.zeros((1, 2)))


def test_data_set_is_named_in_the_agent():
    data = make_data()
    model = make_bear(dataset=data)
    assert model.dataset_id == "test/random-walk-v0"
    assert model.dataset_fingerprint == data.fingerprint


def test_environment_and_data_together(pendulum_data):
    env = gym.make("Pendulum-v1")
    model = make_bear(env=env, dataset=pendulum_data).learn(3)
    assert not isinstance(model.get_env(), SpacesOnlyVecEnv)
    alone = make_bear(dataset=pendulum_data).learn(3)
    assert equal(parameters_of(model), parameters_of(alone))


def test_environment_first_and_data_later(pendulum_data):
    model = make_bear(env="Pendulum-v1")
    model.set_dataset(pendulum_data)
    assert model.learn(3).num_timesteps == 3


def test_other_data_can_take_over():
    model = make_bear().learn(3)
    before = parameters_of(model)
    model.set_dataset(make_data(seed=5, metadata={"id": "other"}))
    model.learn(3, reset_num_timesteps=False)
    assert model.dataset_id == "other"
    assert {"actor", "critic"} <= changed(before, parameters_of(model))


def test_environments_of_any_number_can_be_set(pendulum_data):
    from stable_baselines3.common.env_util import make_vec_env

    model = make_bear(dataset=pendulum_data)
    model.set_env(make_vec_env("Pendulum-v1", n_envs=3))
    assert model.learn(2).n_envs == 3


def test_data_file_of_the_agent_round_trips(tmp_path):
    model, other = make_bear(), make_bear(dataset=make_data(seed=8))
    model.save_replay_buffer(tmp_path / "data.npz")
    other.load_replay_buffer(tmp_path / "data.npz")
    for name, tensor in model.replay_buffer.tensors.items():
        assert th.equal(other.replay_buffer.tensors[name], tensor)
    learned = []
    for each in (model, other):
        th.manual_seed(0)
        learned.append(parameters_of(each.learn(5)))
    assert equal(*learned)


def test_loaded_agent_predicts_without_data_and_asks_for_them_to_learn(tmp_path):
    model = make_bear().learn(5)
    model.save(tmp_path / "model.zip")
    loaded = BEAR.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True)
    assert (loaded.predict(observations, deterministic=True)[0] == expected).all()
    assert loaded.dataset_fingerprint == model.dataset_fingerprint
    with pytest.raises(RefusedError, match="BEAR has no data set to learn from"):
        loaded.learn(1)


# --- refusals -------------------------------------------------------------------------------------


def test_learning_without_data_is_refused():
    with pytest.raises(RefusedError, match=r"no data set.*\n.*\n.*dataset="):
        make_bear(env="Pendulum-v1").learn(1)


def test_neither_environment_nor_data_is_refused():
    with pytest.raises(RefusedError, match="neither an environment nor a data set"):
        BEAR(device="cpu")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_data(n_obs=4), "has observation space"),
        (make_data(n_actions=3), "has action space"),
        (make_data(low=-0.4, high=0.4), "has action space"),
    ],
)
def test_data_of_other_spaces_are_refused(data, message):
    model = make_bear()
    before = model.replay_buffer
    with pytest.raises(RefusedError, match=message):
        model.set_dataset(data)
    assert model.replay_buffer is before


def test_environment_and_data_that_disagree_are_refused():
    with pytest.raises(RefusedError, match="has observation space"):
        make_bear(env="MountainCarContinuous-v0", dataset=make_data())


def test_discrete_actions_are_refused():
    with pytest.raises(RefusedError, match="Discrete"):
        BEAR(env="CartPole-v1", device="cpu")
    data = make_data(actions=np.zeros(300, np.int64), action_space=spaces.Discrete(2))
    with pytest.raises(RefusedError, match="Discrete"):
        BEAR(dataset=data, device="cpu")


def test_unbounded_actions_are_refused():
    data = make_data(action_space=spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(RefusedError, match="finite"):
        BEAR(dataset=data, device="cpu")


@pytest.mark.parametrize("where", ["rewards", "observations"])
def test_case_34_nan_in_the_data_is_refused_before_training(where):
    data = make_data()
    getattr(data, where)[17] = np.nan
    with pytest.raises(RefusedError, match="NaN"):
        make_bear(dataset=data)


@pytest.mark.parametrize("where", ["rewards", "next_observations", "observations"])
@pytest.mark.parametrize("log_interval", [1000, 7])
def test_case_37_a_nan_stops_the_training_within_a_hundred_updates(where, log_interval):
    model = make_bear().learn(3)
    model.replay_buffer.tensors[where][::5] = np.nan
    with pytest.raises(NonFiniteError, match="not finite") as caught:
        model.learn(1000, log_interval=log_interval)
    assert model.num_timesteps <= 100
    assert caught.value.step == model.num_timesteps
    assert "critic_loss" in caught.value.names


def test_case_37_an_infinite_weight_stops_the_training():
    model = make_bear().learn(3)
    with th.no_grad():
        model.critic.stacked[0].weight[0, 0, 0] = np.inf
    with pytest.raises(NonFiniteError):
        model.learn(1000)
    assert model.num_timesteps <= 100


def test_policy_arguments_that_do_not_exist_are_named():
    with pytest.raises(TypeError, match="net_arhc"):
        make_bear(policy_kwargs={**SMALL, "net_arhc": [3]})
