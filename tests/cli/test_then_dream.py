"""``rlzoo train obs-dropout --then-dream``: a policy from the dream, and its return in reality."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch as th
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo import ObservationalDropout
from rlzoo.agents.observational_dropout.deployment import returns_of
from rlzoo.core.safe_zip import load_model
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.envs import make_vec
from rlzoo.runs.callbacks import ProgressCallback
from rlzoo.runs.progress import Silent
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, train

HARD = "rlzoo/CartPoleSwingUpHard-v0"
TINY = (
    "run.pictures=false",
    "pop_size=4",
    "n_eval_episodes=1",
    "run.checkpoint_freq=8000",
    "zero_policy=false",
)


def request(folder: Path, **more: Any) -> TrainRequest:
    return TrainRequest(
        "obs-dropout", HARD, steps=4_000, run_dir=folder, device="cpu", eval_freq=2_000,
        eval_episodes=2, overrides=(*TINY, "run.then_dream=3"), **more,
    )  # fmt: skip


def weights(file: Path) -> th.Tensor:
    model: Any = load_model(None, file)
    vector: th.Tensor = model.policy.vector
    return vector


def test_the_return_of_the_policy_from_the_dream_is_everywhere(
    rlzoo: Callable, tmp_path: Path
) -> None:
    sets = [f"--set={text}" for text in TINY]
    found = rlzoo(
        "train", "obs-dropout", "--env", HARD, "--steps", 4_000, "--eval-freq", 2_000,
        "--eval-episodes", 2, "--then-dream", "--set=run.then_dream=3", "--run-dir", "run",
        *sets,
    )  # fmt: skip
    assert found.code == 0, found.err
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    dream = record["dream"]
    assert (dream["generations"], dream["episodes"]) == (3, 100)
    assert record["metrics"]["deployed_return"] == dream["return_mean"]
    (row,) = (line for line in found.out.splitlines() if line.startswith("policy from the dream"))
    assert f"{dream['return_mean']:.1f} +-" in row
    assert "3/3, return in the dream" in found.err

    # What the run did is what the library does with its model, and the starts are the easy ones.
    model = ObservationalDropout.load(tmp_path / "run" / "model.zip", env=make_vec(HARD))
    again = model.train_in_dream(generations=3, seed=0)
    assert dream["return_mean"] == pytest.approx(float(again.real_returns.mean()))
    assert dream["dream_return_mean"] == pytest.approx(float(again.dream_returns.mean()))
    kept: Any = load_model(None, tmp_path / "run" / "dream_model.zip")
    assert th.equal(kept.policy.vector, again.agent.policy.vector)
    easy = returns_of(kept.policy, CartPoleSwingUp(hard=False), 100, seed=0)
    assert dream["return_mean"] == pytest.approx(float(easy.mean()))

    with open(tmp_path / "run" / "dream" / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dream/generation"]) for row in rows] == [1, 2, 3]
    board = EventAccumulator(str(tmp_path / "run" / "dream")).Reload()
    curve = [event.value for event in board.Scalars("dream/pop_mean")]
    assert curve == pytest.approx([float(row["dream/pop_mean"]) for row in rows])
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    (last,) = board.Scalars("dream/return_mean")
    assert last.value == pytest.approx(dream["return_mean"])
    assert last.step == record["total_timesteps"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sac", "--env", "Pendulum-v1"], ["sac learns no world model", "obs-dropout"]),
        (["obs-dropout", "--env", "Pendulum-v1"], ["known rewards"]),
        (["obs-dropout", "--preset", "model-free"], ["no world model"]),
        (["obs-dropout", "--resume", "run"], ["--then-dream", "--resume"]),
    ],
)
def test_who_cannot_dream_is_refused(
    rlzoo: Callable, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    place = [] if "--resume" in arguments else ["--run-dir", "run"]
    found = rlzoo("train", *arguments, "--then-dream", *place)
    last = found.err.splitlines()[-3:]
    assert found.code == 2
    assert all(word in "\n".join(last) for word in words), found.err
    assert not (tmp_path / "run").exists()


def test_a_dream_that_was_broken_off_is_dreamt_again(tmp_path: Path) -> None:
    class Impatient(Silent):
        def start(self, label: str, total: int, unit: str) -> None:
            if "dream" in label:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="Stopped at step"):
        train(request(tmp_path / "stopped"), Impatient())
    assert not (tmp_path / "stopped" / "result.json").exists()
    later = resume(ResumeRequest(tmp_path / "stopped"))
    never = train(request(tmp_path / "never"))
    assert later is not None
    assert later.record["dream"] == never.record["dream"]
    left, right = (weights(tmp_path / name / "dream_model.zip") for name in ("stopped", "never"))
    assert th.equal(left, right)


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("done", "lines"), [(600, 1), (1_000, 0), (1_500, 0)])
def test_no_negative_time_is_left(monkeypatch: pytest.MonkeyPatch, done: int, lines: int) -> None:
    """The last generation takes more steps than were wanted."""
    progress = Told()
    bar = ProgressCallback(progress, 1_000, "steps")
    model: Any = SimpleNamespace(_n_updates=1)
    bar.model = model
    for now, bar.num_timesteps in ((0.0, 100), (6.0, done), (12.0, done)):
        monkeypatch.setattr("rlzoo.runs.callbacks.time.monotonic", lambda now=now: now)
        assert bar._on_step()
    assert len(progress.lines) == lines
    assert not any("-" in line for line in progress.lines)
