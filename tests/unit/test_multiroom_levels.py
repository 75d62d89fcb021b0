"""Success on fixed levels of MultiRoom, and a training that ends there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo import IBACSNI
from rlzoo.envs import make_env, make_vec
from rlzoo.envs.multiroom import env_id
from rlzoo.errors import RefusedError
from rlzoo.report.records import read
from rlzoo.runs.levels import multiroom_success, solved_levels
from rlzoo.runs.train import TrainRequest, train

pytest.importorskip("minigrid", reason='needs pip install "rlzoo[minigrid]"')

ROOT = Path(__file__).parents[2]


class Straight:
    """Always goes forward; with ``deterministic`` it always turns."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: Any = 0
    ) -> Any:
        self.seen.append((observation, episode_start))
        return np.full(len(observation), 0 if deterministic else 2), state


def in_sight(seed: int) -> bool:
    """Whether the goal of a level of N1 is straight ahead of the agent."""
    env = make_env(env_id("N1"))
    env.reset(seed=seed)
    for _ in range(20):
        _, reward, terminated, _, _ = env.step(2)
        if terminated:
            return bool(reward > 0)
    return False


def test_levels_are_those_of_the_seeds() -> None:
    policy: Any = Straight()
    solved = solved_levels(policy, env_id("N1"), levels=40, seed=5)
    assert solved.tolist() == [in_sight(5 + index) for index in range(40)]
    assert 0 < solved.sum() < 40
    assert policy.seen[0][1].all()
    assert not solved_levels(policy, env_id("N1"), levels=40, deterministic=True).any()
    np.testing.assert_array_equal(
        solved_levels(policy, env_id("N1"), levels=40, seed=5, backend="gymnasium"), solved
    )


def test_the_first_episode_counts_only() -> None:
    """Who solves a level at once has time for others, which do not count."""
    alone = [solved_levels(Straight(), env_id("N1"), 1, seed)[0] for seed in range(30)]  # type: ignore[arg-type]
    assert solved_levels(Straight(), env_id("N1"), 30).tolist() == alone  # type: ignore[arg-type]


def small(task: str = "N3r", **kwargs: Any) -> IBACSNI:
    arguments = {**IBACSNI.PRESETS["multiroom"], "n_steps": 16, "batch_size": 32}
    return IBACSNI("CnnPolicy", make_vec(env_id(task), 4), seed=0, device="cpu", **arguments)


def test_an_agent_is_evaluated_on_the_three_tasks() -> None:
    model = small().learn(64)
    state = th.get_rng_state()
    found = multiroom_success(model, levels=20)
    assert list(found) == [f"rlzoo/MultiRoom-{task}-v0" for task in ("N1", "N2", "N3")]
    assert all(0 <= rate <= 1 for rate in found.values())
    assert th.equal(th.get_rng_state(), state)
    th.manual_seed(99)
    assert multiroom_success(model, levels=20) == found


def test_a_policy_of_another_size_is_refused() -> None:
    model = small("N2r")
    with pytest.raises(RefusedError, match="grid_size"):
        multiroom_success(model, levels=2)
    assert len(multiroom_success(model, levels=2, grid_size=9)) == 3


def test_a_run_and_its_records(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(
        TrainRequest(
            "ibac-sni", env_id("N3r"), "multiroom", steps=2_048, seed=3, run_dir=run, device="cpu",
            eval_freq=2_048, eval_episodes=5,
        )
    )  # fmt: skip
    progress = (run / "progress.csv").read_text()
    assert "rollout/success_rate" in progress.splitlines()[0]
    script = ROOT / "benchmarks" / "ibac_sni" / "multiroom.py"
    command = [str(script), str(run), "--levels", "10", "--records", str(tmp_path / "all.jsonl")]
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert "| ibac-sni multiroom | rlzoo/MultiRoom-N3r-v0 | 3 | 2,048 |" in done.stdout
    records = read(tmp_path / "all.jsonl").records
    assert [record.env for record in records] == [env_id(task) for task in ("N1", "N2", "N3")]
    assert all(0 <= record.metrics["success_rate"] <= 1 for record in records)
    assert json.loads((run / "result.json").read_text())["env"] == env_id("N3r")
