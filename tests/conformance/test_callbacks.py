"""SB3's callbacks run on every agent, and see what they look for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)

from .agents import EPISODE, Subject


class Recorder(BaseCallback):
    """Counts every hook, and keeps what the training loop shows."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.steps: list[int] = []
        self.stop_at = stop_at

    def _on_training_start(self) -> None:
        self.events.append("training_start")

    def _on_rollout_start(self) -> None:
        self.events.append("rollout_start")

    def _on_step(self) -> bool:
        n_envs = self.training_env.num_envs
        new_obs = self.locals["new_obs"]
        parts = list(new_obs.values()) if isinstance(new_obs, dict) else [new_obs]
        for part in (*(self.locals[name] for name in ("dones", "rewards", "infos")), *parts):
            assert len(part) == n_envs
        assert self.locals["self"] is self.model
        self.steps.append(self.num_timesteps)
        return len(self.steps) != self.stop_at

    def _on_rollout_end(self) -> None:
        self.events.append("rollout_end")

    def _on_training_end(self) -> None:
        self.events.append("training_end")


@pytest.mark.parametrize("n_envs", [1, 2])
def test_hooks_come_in_order_and_locals_are_complete(agent: Subject, n_envs: int) -> None:
    recorder = Recorder()
    model = agent.learn(agent.make(agent.vec(n_envs)), callback=recorder)
    assert recorder.events[0] == "training_start"
    assert recorder.events[-1] == "training_end"
    inner = recorder.events[1:-1]
    assert inner == ["rollout_start", "rollout_end"] * (len(inner) // 2)
    assert inner
    assert recorder.steps == sorted(recorder.steps)
    assert recorder.steps[-1] == model.num_timesteps == agent.steps


def test_function(agent: Subject) -> None:
    seen: list[int] = []

    def callback(scope: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append(scope["self"].num_timesteps)
        return True

    agent.make().learn(agent.steps, callback=callback)
    assert seen == list(range(1, agent.steps + 1))


@pytest.mark.parametrize("wrap", [lambda f: f, ConvertCallback])
def test_false_stops_at_once(agent: Subject, wrap: Any) -> None:
    model = agent.make().learn(agent.steps, callback=wrap(lambda scope, _: False))
    assert model.num_timesteps == 1


def test_a_callback_stops_at_its_step_and_the_training_ends_properly(agent: Subject) -> None:
    recorder = Recorder(stop_at=13)
    model = agent.make().learn(agent.steps, callback=recorder)
    assert model.num_timesteps == 13
    assert recorder.events[-1] == "training_end"
    model.learn(10, reset_num_timesteps=False)  # two rollouts of an agent that collects them
    assert model.num_timesteps == 23


@pytest.mark.parametrize("as_list", [list, CallbackList])
def test_lists(agent: Subject, as_list: Any) -> None:
    first, second = Recorder(), Recorder(stop_at=5)
    agent.make().learn(agent.steps, callback=as_list([first, second]))
    assert first.steps == second.steps == [1, 2, 3, 4, 5]


def test_checkpoints_can_be_loaded(agent: Subject, tmp_path: Path) -> None:
    callback = CheckpointCallback(20, str(tmp_path / "deep" / "er"), save_replay_buffer=True)
    model = agent.make().learn(agent.steps, callback=callback)
    files = sorted(p.name for p in (tmp_path / "deep" / "er").iterdir())
    assert [f"rl_model_{n}_steps.zip" for n in (20, 40, 60)] == [f for f in files if "zip" in f]
    assert sum("replay_buffer" in f for f in files) == (3 if agent.replays else 0)
    loaded = agent.load(tmp_path / "deep" / "er" / "rl_model_40_steps")
    assert loaded.num_timesteps == 40
    assert model.num_timesteps == 60


def test_evaluation_and_the_best_model(agent: Subject, tmp_path: Path) -> None:
    evaluation = EvalCallback(
        agent.vec(2), eval_freq=20, n_eval_episodes=2, verbose=0,
        log_path=str(tmp_path / "logs"), best_model_save_path=str(tmp_path / "best"),
    )  # fmt: skip
    agent.make().learn(agent.steps, callback=evaluation)
    with np.load(tmp_path / "logs" / "evaluations.npz") as file:
        assert file["timesteps"].tolist() == [20, 40, 60]
        assert file["results"].shape == (3, 2)
        assert (file["ep_lengths"] == EPISODE).all()
        best = file["results"].mean(1)
    assert evaluation.best_mean_reward == best.max()
    loaded = agent.load(tmp_path / "best" / "best_model.zip")
    assert loaded.num_timesteps == (20, 40, 60)[int(best.argmax())]


def test_reward_threshold_stops(agent: Subject) -> None:
    reached = StopTrainingOnRewardThreshold(-1e9, verbose=0)
    callback = EvalCallback(
        agent.vec(), callback_on_new_best=reached, eval_freq=20, n_eval_episodes=1, verbose=0
    )
    assert agent.make().learn(agent.steps, callback=callback).num_timesteps == 20


def test_no_improvement_stops(agent: Subject) -> None:
    patience = StopTrainingOnNoModelImprovement(max_no_improvement_evals=0, min_evals=0, verbose=0)
    callback = EvalCallback(
        agent.vec(), callback_after_eval=patience, eval_freq=20, n_eval_episodes=1, verbose=0
    )
    callback.best_mean_reward = 1e9
    # The first evaluation has nothing to compare with.
    assert agent.make().learn(agent.steps, callback=callback).num_timesteps == 40


def test_max_episodes(agent: Subject) -> None:
    callback = StopTrainingOnMaxEpisodes(1, verbose=0)
    model = agent.make().learn(agent.steps, callback=callback)
    # An agent that learns from data ends no episode, so nothing stops it.
    expected = agent.steps if agent.spec.needs_data else EPISODE
    assert model.num_timesteps == expected


def test_every_n_timesteps(agent: Subject) -> None:
    recorder = Recorder()
    agent.make().learn(agent.steps, callback=EveryNTimesteps(25, recorder))
    assert recorder.steps == [25, 50]


def test_log_every_n_timesteps(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(tensorboard_log=str(tmp_path))
    model.learn(agent.steps, callback=LogEveryNTimesteps(30), log_interval=None)
    assert list(tmp_path.glob("*/events*"))


def test_progress_bar(agent: Subject, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*rich is experimental")
        model = agent.make().learn(agent.steps, progress_bar=True)
    assert model.num_timesteps == agent.steps
    assert f"{agent.steps}/{agent.steps}" in capfd.readouterr().out.replace(" ", "")
