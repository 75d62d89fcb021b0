"""Loggers and TensorBoard: folders, names of the values, and who wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .agents import Subject


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return ``{tag: [(step, value), ...]}`` of everything written into a folder, in time order.

    TensorBoard reads files by name, and the names of two writers within one second end in a
    counter that is compared as text: the tenth comes before the ninth.
    """
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(e.step, e.value) for e in sorted(events.Scalars(tag), key=lambda e: e.wall_time)]
        for tag in events.Tags()["scalars"]
    }


def test_folder_name_and_continuation(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(tensorboard_log=str(tmp_path))
    agent.learn(model, tb_log_name="mine")
    agent.learn(model, tb_log_name="mine", reset_num_timesteps=False)
    assert [p.name for p in tmp_path.iterdir()] == ["mine_1"]
    agent.learn(model, tb_log_name="mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine_1", "mine_2"]
    steps = [step for step, _ in scalars(tmp_path / "mine_1")["time/fps"]]
    assert steps == sorted(steps)
    assert agent.steps < steps[-1] <= 2 * agent.steps


def test_folder_is_named_after_the_class(agent: Subject, tmp_path: Path) -> None:
    agent.learn(agent.make(tensorboard_log=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == [f"{agent.cls.__name__}_1"]


def test_names_that_dashboards_look_for(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(tensorboard_log=str(tmp_path), learning_rate=2e-3)
    evaluation = EvalCallback(agent.vec(), eval_freq=30, n_eval_episodes=1, verbose=0)
    agent.learn(model, callback=evaluation, tb_log_name="run")
    found = scalars(tmp_path / "run_1")
    assert "time/fps" in found
    assert "eval/mean_reward" in found
    assert "eval/mean_ep_length" in found
    assert [tag for tag in found if tag.startswith("train/") and tag.endswith("_loss")]
    assert found["train/learning_rate"][0][1] == pytest.approx(2e-3)
    assert [step for step, _ in found["eval/mean_reward"]] == [30, 60]


def test_counters_in_the_log(agent: Subject, tmp_path: Path) -> None:
    # SB3 keeps these two out of TensorBoard; they are in every other format.
    model = agent.make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    agent.learn(model)
    header, *rows = (tmp_path / "progress.csv").read_text().splitlines()
    assert {"train/n_updates", "time/total_timesteps", "time/time_elapsed"} <= set(
        header.split(",")
    )
    assert rows


def test_a_logger_of_the_user_wins(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(tensorboard_log=str(tmp_path / "tensorboard"), verbose=0)
    logger = configure(str(tmp_path / "mine"), ["csv"])
    model.set_logger(logger)
    agent.learn(model)
    agent.learn(model)
    assert model.logger is logger
    assert not (tmp_path / "tensorboard").exists()
    assert (tmp_path / "mine" / "progress.csv").stat().st_size > 0


def test_no_interval_means_no_automatic_lines(agent: Subject, tmp_path: Path) -> None:
    model = agent.make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(agent.steps, log_interval=None)
    assert (tmp_path / "progress.csv").read_text() == ""


def test_losses_are_finite_numbers(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(tensorboard_log=str(tmp_path))
    agent.learn(model, tb_log_name="run")
    values = [v for points in scalars(tmp_path / "run_1").values() for _, v in points]
    assert values
    assert all(abs(value) < 1e9 for value in values)
