"""A decision of DAEMPC captured as a CUDA graph equals an eager one. Needs CUDA; `make test-gpu`.

The same code runs eagerly on a CPU in tests/unit/test_dae_mpc_planning.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo import DAEMPC

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not th.cuda.is_available(), reason="needs CUDA: there is no GPU here"),
]


def make(capture: bool, device: str = "cuda", **kwargs: Any) -> DAEMPC:
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1", max_episode_steps=50)] * 2)
    settings: dict[str, Any] = {
        "horizon": 10, "n_candidates": 64, "n_elites": 8, "n_iters": 3, "batch_size": 32,
        "model_epochs": 20, "seed": 0, "policy_kwargs": {"net_arch": [32, 32]}, **kwargs,
    }  # fmt: skip
    return DAEMPC("MlpPolicy", env, capture=capture, device=device, **settings)


def observations(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "kwargs", [{}, {"n_ensemble": 3}, {"window": 3, "dae_hinge": 0.9}], ids=str
)
def test_captured_decisions_equal_eager_ones(kwargs: dict[str, Any]) -> None:
    eager = make(False, **kwargs).learn(100)
    captured = make(True, **kwargs)
    captured.policy.load_state_dict(eager.policy.state_dict())
    for n in (1, 5):
        for shift in range(6):  # the first three are eager, to warm up
            rows = observations(n) + 0.1 * shift
            left, right = (m.predict(rows, deterministic=True)[0] for m in (eager, captured))
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-3)
    assert set(captured.policy.decider._captured) == {1, 5}
    assert not eager.policy.decider._captured


def test_a_graph_sees_new_weights_and_a_new_alpha() -> None:
    model = make(True).learn(100)
    rows = observations(4)
    for _ in range(5):
        before = model.predict(rows, deterministic=True)[0]
    with th.no_grad():
        for parameter in model.policy.dynamics.parameters():
            parameter.mul_(0.5)
    after = model.predict(rows, deterministic=True)[0]
    assert not np.array_equal(before, after)
    old = model.policy.decider
    model.set_alpha(5.0)
    assert model.policy.decider is not old


def test_random_numbers_are_new_in_every_replay() -> None:
    model = make(True).learn(100)
    rows = observations(2)
    found = [model.predict(rows)[0] for _ in range(6)]
    assert not np.array_equal(found[-1], found[-2])


def test_training_goes_on_and_agrees_with_the_cpu(tmp_path: Path) -> None:
    model = make(True).learn(300)
    model.save(tmp_path / "model")
    cpu = DAEMPC.load(tmp_path / "model", device="cpu")
    start = th.as_tensor(observations(8))
    plans = th.rand(10, 8, 1) * 2 - 1
    mine = model.policy.imagine(start.cuda(), plans.cuda())
    theirs = cpu.policy.imagine(start, plans)
    for a, b in zip(mine, theirs, strict=True):
        th.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-3)
    for planner in ("adam", "random"):
        other = make(True, planner=planner).learn(120)
        assert not other.policy.decider._captured
