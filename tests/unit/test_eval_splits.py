"""Splits of an evaluation: settings, seeds, logs, results, checkpoints, ``rlzoo eval --split``."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo.cli.main import main
from rlzoo.config.schema import RunSettings
from rlzoo.config.splits import parse_splits
from rlzoo.errors import RefusedError
from rlzoo.report.records import from_result
from rlzoo.runs.evaluate import Evaluation, evaluate, make_eval_env, play_episodes
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.splits import Splits, Where, gap_of, metrics_of
from rlzoo.runs.train import TrainRequest, train

SEEN = "SeenLevels-v0"


class Levels(gym.Env[Any, Any]):
    """Its level is its first random number; action 1 wins it, action 0 loses it."""

    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.level = self.np_random.random()
        return np.array([self.level, 0.0], np.float32), {}

    def step(self, action: Any) -> Any:
        won = bool(action)
        reward = self.level + self.bonus if won else 0.0
        return np.zeros(2, np.float32), reward, True, False, {"is_success": won}


gym.register(SEEN, Levels, max_episode_steps=3)
SPLITS = {
    "train": {"env_kwargs": {"bonus": 10.0}},
    "fixed": {"first_seed": 4, "episodes": 3, "final_only": True},
    "drawn": {"deterministic": False, "final_only": True},
}


class Policy:
    """Wins if asked for the likeliest action, else half of the time."""

    def __init__(self) -> None:
        self.levels: list[float] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None,
        deterministic: bool = False,
    ) -> Any:  # fmt: skip
        self.levels += observation[:, 0].tolist()
        n = len(observation)
        return (np.ones(n, int) if deterministic else th.randint(0, 2, (n,)).numpy()), state


def splits(**changes: Any) -> Splits:
    return Splits(SEEN, RunSettings(**{"eval_splits": SPLITS, "eval_envs": 4, **changes}))


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Train": {}}, "Train is no name"),
        ({"a/b": {}}, "a/b is no name"),
        ({"train": {"epsiodes": 3}}, "eval_splits.train: unknown setting 'epsiodes'. .*episodes"),
        ({"train": {"episodes": 0}}, r"eval_splits.train: episodes=0 .*\n.*1"),
        ({"train": {"first_seed": -1}}, "first_seed"),
        ({"train": {"deterministic": "yes"}}, "deterministic='yes' has the wrong type"),
    ],
    ids=["capital", "slash", "unknown", "zero", "negative", "type"],
)
def test_wrong_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        parse_splits(given)


def test_a_split_has_the_settings_of_the_run_unless_it_says_otherwise() -> None:
    run = RunSettings(env_kwargs={"a": 1, "b": 2}, eval_deterministic=False)
    one, other = (
        Where.of("X-v0", run, parse_splits({"s": settings})["s"])
        for settings in ({"env_kwargs": {"b": 3}}, {"env": "Y-v0", "deterministic": True})
    )
    assert (one.env_id, one.env_kwargs, one.deterministic) == ("X-v0", {"a": 1, "b": 3}, False)
    assert (other.env_id, other.env_kwargs, other.deterministic) == ("Y-v0", {}, True)
    assert Where.of("X-v0", run) == Where("X-v0", {"a": 1, "b": 2}, False)


def test_other_spaces_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"eval_splits\.other: Pendulum-v1 has the"):
        train(request(tmp_path / "run", 'eval_splits={"other": {"env": "Pendulum-v1"}}'))
    assert not (tmp_path / "run").exists()


# --- what is played ------------------------------------------------------------------------------


def test_every_split_plays_what_it_says() -> None:
    many, policy = splits(), Policy()
    found = many.evaluate(policy, seed=1, name="final", episodes=6, final=True)  # type: ignore[arg-type]
    assert {name: one.episodes for name, one in found.items()} == {
        "train": 6, "fixed": 3, "drawn": 6,
    }  # fmt: skip
    assert (found["train"].success_rate, found["fixed"].success_rate) == (1.0, 1.0)
    assert found["drawn"].success_rate not in (0.0, 1.0)
    assert 10 < found["train"].return_mean < 11
    levels = [np.random.Generator(np.random.PCG64(seed)).random() for seed in (4, 5, 6)]
    assert found["fixed"].return_mean == pytest.approx(np.mean(levels), abs=1e-5)
    many.close()


def test_during_the_training_only_some_are_played() -> None:
    many = splits()
    assert list(many.evaluate(Policy(), 1, 500, 2, final=False)) == ["train"]  # type: ignore[arg-type]
    many.close()


def test_splits_play_from_the_streams_of_the_main_evaluation() -> None:
    """Levels are the same where the environment is, so that only the actions differ."""
    main_policy, policy = Policy(), Policy()
    env = make_eval_env(SEEN, 4)
    evaluate(main_policy, env, SEEN, 4, seed=1, name="final")  # type: ignore[arg-type]
    only = splits(eval_splits={"drawn": {"deterministic": False}})
    only.evaluate(policy, 1, "final", 4, final=True)  # type: ignore[arg-type]
    assert main_policy.levels[:4] == policy.levels[:4]
    only.close()


def test_fixed_episodes_do_not_depend_on_the_seed_of_the_run() -> None:
    def levels(seed: int, first_seed: int | None) -> list[float]:
        policy = Policy()
        play_episodes(policy, make_eval_env(SEEN, 5), 5, seed, first_seed=first_seed)  # type: ignore[arg-type]
        return policy.levels

    assert levels(0, 7) == levels(1, 7) != levels(0, 8)
    assert levels(0, None) != levels(1, None)


def test_successes_are_told_only_where_the_environment_tells() -> None:
    policy = Policy()
    found = play_episodes(policy, make_eval_env(SEEN, 3), 9, 0, deterministic=False)  # type: ignore[arg-type]
    assert found.successes is not None
    np.testing.assert_array_equal(found.successes, found.returns > 0)
    assert play_episodes(policy, make_eval_env("CartPole-v1", 2), 2, 0).successes is None  # type: ignore[arg-type]


def test_the_gap_is_training_minus_test() -> None:
    train_, test = (Evaluation(value, 1.0, 5, 9.0, value / 10) for value in (9.0, 7.5))
    found = Evaluation(**{**test.as_dict(), "splits": {"train": train_}})
    assert gap_of(found) == 1.5
    assert metrics_of(found) == {"gap": 1.5, "train_return": 9.0, "train_normalized": 0.9}
    assert gap_of(test) is None
    assert Evaluation.from_dict(json.loads(json.dumps(found.as_dict()))) == found


# --- runs ----------------------------------------------------------------------------------------


def request(folder: Path, *overrides: str, **changes: Any) -> TrainRequest:
    small = ("n_steps=30", "batch_size=30", "n_epochs=1", "policy_kwargs.net_arch=[8]")
    values = {"steps": 60, "eval_freq": 30, "eval_episodes": 2, "device": "cpu", **changes}
    return TrainRequest(
        "ppo", SEEN, run_dir=folder, overrides=(*small, "eval_envs=4", *overrides), **values
    )


WITH_SPLITS = (f"eval_splits={json.dumps(SPLITS)}", "eval_deterministic=false")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(request(folder, *WITH_SPLITS, "final_eval_episodes=7"))
    return folder


def test_the_result_has_every_split(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    final, metrics, found = result["final"], result["metrics"], result["splits"]
    assert {name: one["episodes"] for name, one in found.items()} == {
        "train": 7, "fixed": 3, "drawn": 7,
    }  # fmt: skip
    assert metrics["gap"] == pytest.approx(found["train"]["return_mean"] - final["return_mean"])
    assert metrics["success_rate"] == final["success_rate"]
    assert [step for step, _ in found["train"]["curve"]] == [30, 60]
    assert found["fixed"]["curve"] == []
    protocol = result["evaluation"]
    assert protocol["deterministic"] is False
    assert protocol["splits"]["train"]["env_kwargs"] == {"bonus": 10.0}
    assert protocol["splits"]["drawn"]["deterministic"] is False
    record = from_result(result, "s", "tiny")
    assert record.metrics["train_return"] == found["train"]["return_mean"]


def test_the_logs_have_every_split(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "progress.csv").read_text().splitlines()))
    points = [row for row in rows if row.get("eval/mean_reward")]
    assert len(points) == 2
    for row in points:
        gap = float(row["eval/train/mean_reward"]) - float(row["eval/mean_reward"])
        assert float(row["eval/gap"]) == pytest.approx(gap, rel=1e-4)
        assert row["eval/train/success_rate"]
    assert not any(name.startswith("eval/fixed") for name in rows[0])
    events = EventAccumulator(str(finished)).Reload()
    for tag in ("eval/gap", "eval/train/mean_reward", "eval/success_rate"):
        assert [point.step for point in events.Scalars(tag)] == [30, 60]


def test_a_resumed_run_keeps_the_curve_of_its_splits(tmp_path: Path) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    train(request(whole, *WITH_SPLITS))
    train(request(half, *WITH_SPLITS, steps=30))
    found = resume(ResumeRequest(half, steps=60))
    assert found is not None
    expected = json.loads((whole / "result.json").read_text())
    assert found.record["splits"] == expected["splits"]
    assert found.record["metrics"] == expected["metrics"]


def test_eval_does_as_the_run_and_takes_a_split(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(*options: str) -> dict[str, Any]:
        assert main(["eval", str(finished), "--episodes", "8", "--json", *options]) == 0
        values: dict[str, Any] = json.loads(capsys.readouterr().out)
        return values

    assert found() == found("--stochastic")
    assert found("--greedy") == found("--greedy") != found()
    main_, split = found(), found("--split", "train")
    assert split["success_rate"] == main_["success_rate"] > 0
    higher = split["return_mean"] - main_["return_mean"]
    assert higher == pytest.approx(10 * main_["success_rate"])
    assert found("--split", "fixed", "--seed", "1") is not None
    assert main(["eval", str(finished), "--split", "trian"]) == 2
    assert "train" in capsys.readouterr().err
