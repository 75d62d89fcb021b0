"""``medium-replay``: the training of a shipped behaviour, kept as a data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import SAC

from rlzoo.data import minari_io
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.recipes import REPLAY_SIZES, get_recipe
from rlzoo.data.sb3_buffers import from_replay_buffer
from rlzoo.errors import FailedError
from rlzoo.runs import callbacks, datasets, replay_recipe
from rlzoo.runs.datasets import ensure_dataset
from rlzoo.runs.replay_recipe import request_of
from rlzoo.runs.train import train

NAME = "rlzoo/hopper/medium-replay-v0"
COMMAND = (
    "rlzoo train sac --env Hopper-v4 --steps 300 --seed 3 --n-envs 4 --device cpu --threads 1 "
    "--set learning_starts=100 --set run.eval_freq=150 --set run.eval_episodes=1 "
    "--set run.checkpoint_freq=200 --set 'policy_kwargs.net_arch=[8, 8]'"
)


class Card:
    card: dict[str, Any] = {"command": COMMAND}  # noqa: RUF012


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the training be short, and everything of it be in one folder."""
    monkeypatch.setattr(replay_recipe, "load_behaviour", lambda *_: Card())
    monkeypatch.setattr(datasets, "home", lambda: tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.mark.parametrize("env_id", REPLAY_SIZES)
def test_the_commands_of_the_cards_are_understood(env_id: str) -> None:
    command = load_behaviour(env_id, "medium").card["command"]
    request = request_of(command)
    assert (request.env_id, request.steps) == (env_id, REPLAY_SIZES[env_id])
    assert request.n_envs in (4, 8)
    assert f"--set {request.overrides[0]}" in command
    with pytest.raises(FailedError, match="--preset of"):
        request_of(f"{command} --preset cpu")


def test_it_is_the_replay_buffer_of_that_training(short: Path) -> None:
    threads = th.get_num_threads()
    th.set_num_threads(2)
    try:
        data = ensure_dataset(NAME)
        assert th.get_num_threads() == 2
    finally:
        th.set_num_threads(threads)
    request = request_of(COMMAND)
    model = train(replace(request, run_dir=short / "own")).model
    assert isinstance(model, SAC)
    own = from_replay_buffer(model.replay_buffer, "Hopper-v4")
    assert data.fingerprint == own.fingerprint
    assert len(data) == 300
    assert data.metadata["command"] == COMMAND
    assert data.metadata["recipe"] == get_recipe(NAME).as_dict()
    running = np.flatnonzero(~data.complete)
    assert len(running) == 4  # one per environment
    assert not (short / "collecting").exists() or not any((short / "collecting").glob("*replay*"))
    assert minari_io.exists(NAME)
    assert ensure_dataset(NAME).fingerprint == data.fingerprint  # read, not trained again


class KilledError(BaseException):
    """Nobody catches it."""


def test_a_training_that_was_killed_goes_on(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def _on_step(self: Any) -> bool:
        if self.num_timesteps >= 252:
            raise KilledError
        return True

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.ProgressCallback, "_on_step", _on_step)
        with pytest.raises(KilledError):
            ensure_dataset(NAME)
    messages: list[str] = []
    monkeypatch.setattr(datasets.Silent, "message", lambda _, text: messages.append(text))
    cut = ensure_dataset(NAME)
    assert any("goes on from step 2" in text for text in messages)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(short / "other"))
    assert ensure_dataset(NAME).fingerprint == cut.fingerprint
