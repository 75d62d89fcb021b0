"""Pictures of plans: what is drawn is what was imagined, and watching changes nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch as th
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo import DAEMPC
from rlzoo.agents.dae_mpc.pictures import Trajectory, Witness, filmstrip, frames, shown_steps
from rlzoo.envs import make_vec
from rlzoo.runs.evaluate import run_episodes
from rlzoo.runs.train import TrainRequest, train

SMALL = {
    "horizon": 5, "n_candidates": 12, "n_elites": 3, "n_iters": 2, "batch_size": 16,
    "model_epochs": 2, "policy_kwargs": {"net_arch": [8, 8]},
}  # fmt: skip


def fitted(**settings: object) -> DAEMPC:
    env = make_vec("Pendulum-v1", 1, max_episode_steps=20)
    return DAEMPC("MlpPolicy", env, seed=0, device="cpu", **{**SMALL, **settings}).learn(45)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{}, {"window": 3}, {"dae": False, "alpha": 0.0}, {"replan_every": 3}]
)
def test_a_witness_acts_as_the_agent_and_sees_its_plans(settings: dict[str, object]) -> None:
    model = fitted(**settings)
    witness = Witness(model)
    env = make_vec("Pendulum-v1", 1, max_episode_steps=20)
    own = run_episodes(model, env, 1, seed=4)
    watched = run_episodes(witness, env, 1, seed=4)
    assert watched[0] == own[0]
    found = witness.trajectory()
    assert len(found) == 20
    assert found.imagined.shape == (20, 6, 3)
    np.testing.assert_array_equal(found.imagined[:, 0], found.real)
    if not settings:  # every first plan is made from nothing
        first = th.from_numpy(found.real[:1])
        plans = model.policy.decide(first, None, None, True)[0].plans
        rollout = model.policy.dynamics.rollout(first, plans.unsqueeze(2))
        np.testing.assert_array_equal(rollout.states[:, 0].detach(), found.imagined[0])
    if settings.get("dae") is False:
        assert found.errors is None
        return
    assert found.errors is not None
    assert found.errors.shape == (20, 5 - int(str(settings.get("window", 1))) + 1)
    assert (found.errors >= 0).all()
    assert found.usual == float(model.policy.threshold) > 0


def drawn(size: int = 3, steps: int = 40, errors: bool = True) -> Trajectory:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(steps, size)).astype(np.float32)
    imagined = real[:, None] + np.arange(6, dtype=np.float32)[None, :, None]
    return Trajectory(real, imagined, rng.random((steps, 5), np.float32) if errors else None, 0.3)


@pytest.mark.parametrize(("size", "panels"), [(1, 1), (3, 3), (5, 5), (18, 8)])
def test_every_dimension_has_its_line_and_a_dozen_futures(size: int, panels: int) -> None:
    found = drawn(size)
    figure = filmstrip(found, "x")
    *dimensions, below = figure.axes
    assert len(dimensions) == panels
    for index, axes in enumerate(dimensions):
        real, *futures = [line for line in axes.lines if len(np.asarray(line.get_xdata()))]
        np.testing.assert_array_equal(real.get_ydata(), found.real[:, index])
        assert [line.get_xdata()[0] for line in futures] == list(range(0, 40, 3))
        for line in futures:
            step = line.get_xdata()[0]
            np.testing.assert_array_equal(line.get_ydata(), found.imagined[step, :, index])
    mean, usual = below.lines
    assert found.errors is not None
    np.testing.assert_array_equal(mean.get_ydata(), found.errors.mean(1))
    assert usual.get_ydata()[0] == 0.3
    assert figure.get_suptitle() == "x"
    assert len(filmstrip(drawn(size, errors=False)).axes) == panels


def test_frames_move_on_and_have_one_size() -> None:
    shown = list(frames(drawn(2, steps=6)))
    assert len(shown) == 6
    assert len({image.shape for image in shown}) == 1
    assert all(side % 2 == 0 for side in shown[0].shape[:2])
    assert all((a != b).any() for a, b in pairwise(shown))
    assert len(shown_steps(1000)) == 144
    assert shown_steps(1000)[-1] == 999


def test_a_training_leaves_pictures_and_shows_them_in_tensorboard(tmp_path: Path) -> None:
    settings = [f"{k}={v}" for k, v in SMALL.items() if k != "policy_kwargs"]
    train(TrainRequest(
        "dae-mpc", "Pendulum-v1", steps=45, run_dir=tmp_path / "run", device="cpu",
        overrides=(*settings, "policy_kwargs.net_arch=[8, 8]", "run.eval_freq=40",
                   "run.eval_episodes=1", "run.env_kwargs={max_episode_steps: 15}"),
    ))  # fmt: skip
    names = sorted(path.suffix for path in (tmp_path / "run" / "pictures").iterdir())
    assert names[-1] == ".png"
    assert len(names) == 2
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("pictures/episode_0")
    assert image.step == 45
    assert image.width > 300
    assert "train/model_loss" in events.Tags()["scalars"]  # what was there stays
