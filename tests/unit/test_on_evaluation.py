"""Whoever trains from Python hears of every evaluation and may end the training there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, train


def request(path: Path) -> TrainRequest:
    return TrainRequest(
        "ppo", "CartPole-v1", steps=96, eval_freq=32, eval_episodes=1, n_envs=1, run_dir=path,
        overrides=("n_steps=32", "batch_size=32", "n_epochs=1", "policy_kwargs.net_arch=[8]"),
    )  # fmt: skip


def test_every_point_of_the_curve_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, float]] = []

    def hear(step: int, mean: float) -> bool:
        told.append((step, mean))
        return True

    result = train(request(tmp_path / "run"), on_evaluation=hear)
    assert told == [(step, mean) for step, mean, _ in result.curve]
    assert [step for step, _ in told] == [32, 64, 96]


def test_false_stops_it_and_it_can_be_continued(tmp_path: Path) -> None:
    whole = train(request(tmp_path / "whole"))
    with pytest.raises(StoppedError) as error:
        train(request(tmp_path / "run"), on_evaluation=lambda step, _: step < 64)
    assert error.value.number == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "stopped"
    assert not (tmp_path / "run" / "result.json").exists()
    result = resume(ResumeRequest(tmp_path / "run"))
    assert result is not None
    assert result.curve == whole.curve


def test_false_at_the_last_step_is_a_stop_as_well(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(request(tmp_path / "run"), on_evaluation=lambda step, _: step < 96)
