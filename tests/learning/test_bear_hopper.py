"""BEAR on collected Hopper-v4 medium data, against the data mean and naive TD3 on the same batch.

Thresholds: mean of the evaluations from 10,000 updates on, as a share of the data mean return.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import TD3
from stable_baselines3.common.logger import Logger

from rlzoo.data.sb3_buffers import to_replay_buffer
from rlzoo.data.transitions import Transitions
from rlzoo.runs.datasets import ensure_dataset
from rlzoo.runs.evaluate import evaluate, make_eval_env
from rlzoo.runs.train import TrainRequest, train

ENV = "Hopper-v4"
D4RL_RATES = ("learning_rate=3e-4", "actor_learning_rate=1e-4", "behavior_learning_rate=3e-4")

pytestmark = [pytest.mark.learning, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def data() -> Transitions:
    return ensure_dataset("rlzoo/hopper/medium-v0")


def share_of_data(
    data: Transitions, run_dir: Path, seed: int, *overrides: str, steps: int = 20_000
) -> float:
    result = train(
        TrainRequest(
            "bear", ENV, preset="cpu", steps=steps, seed=seed, run_dir=run_dir, device="cpu",
            overrides=overrides,
        )
    )  # fmt: skip
    late = [value for step, value in result.record["curve"] if step >= 10_000]
    share = float(np.mean(late)) / data.return_statistics()["mean"]
    print(
        f"\nseed {seed} {overrides}: {share:.2f} of the data mean, curve {result.record['curve']}"
    )
    return share


@pytest.mark.parametrize("seed", [0, 1])
def test_cpu_preset_reaches_the_data(data: Transitions, tmp_path: Path, seed: int) -> None:
    assert share_of_data(data, tmp_path / "run", seed) >= 0.6


@pytest.mark.parametrize("seed", [0, 1])
def test_d4rl_rates_learn_slower(data: Transitions, tmp_path: Path, seed: int) -> None:
    assert share_of_data(data, tmp_path / "run", seed, *D4RL_RATES) >= 0.3


def test_without_its_constraint_it_fails(data: Transitions, tmp_path: Path) -> None:
    """The check above can fail: alpha = 0 leaves an ordinary off-policy agent.

    The behaviour model then plays no part and may be small.
    """
    share = share_of_data(
        data,
        tmp_path / "run",
        0,
        "alpha=0.0",
        "warmup_steps=0",
        "policy_kwargs.vae_arch=[8, 8]",
        steps=12_500,
    )
    assert share < 0.3


@pytest.mark.parametrize("seed", [0, 1])
def test_naive_td3_fails(data: Transitions, seed: int) -> None:
    env = make_eval_env(ENV, 10)
    model = TD3("MlpPolicy", env, seed=seed, device="cpu", buffer_size=1)
    model.set_logger(Logger(None, []))
    model.replay_buffer = to_replay_buffer(data, "cpu")
    returns = []
    for step in range(2_500, 20_001, 2_500):
        model.train(gradient_steps=2_500, batch_size=256)
        if step >= 10_000:
            returns.append(evaluate(model, env, ENV, 10, seed, step).return_mean)
    share = float(np.mean(returns)) / data.return_statistics()["mean"]
    print(f"\nTD3 seed {seed}: {share:.2f} of the data mean, returns {np.round(returns)}")
    assert share <= 0.15
