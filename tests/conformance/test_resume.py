"""A run that was killed goes on as if nothing had happened: same tensors, same curve, same logs.

One row per agent. Kills come in the middle of a rollout, right before and right after a checkpoint.
"""

from __future__ import annotations

import csv
import math
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo.agents.registry import AGENTS
from rlzoo.core import checkpoint
from rlzoo.core.offline import OfflineAlgorithm
from rlzoo.core.replay_files import row_arrays
from rlzoo.data import d4rl
from rlzoo.data.transitions import Transitions
from rlzoo.runs import callbacks
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, train

from .agents import agents_of_the_zoo
from .discrete_envs import FRAMES

SMALL = ("policy_kwargs.net_arch=[8, 8]",)
OFF_POLICY = (*SMALL, "learning_starts=30", "batch_size=16", "buffer_size=150")
DYNA = (
    *(*OFF_POLICY, "planning_steps=32", "target_update_interval=50", "model_interval=60"),
    *("model_arch=[8]", "n_models=2", "model_epochs=2"),
)
EVOLUTION = (*SMALL, "policy_kwargs.model_arch=[8]", "pop_size=2", "n_eval_episodes=1")
CHAINS = (*EVOLUTION[:-2], "n_steps=16", "chunk_length=8", "batch_size=16", "n_epochs=2")
SHORT = "run.env_kwargs={max_episode_steps: 20}"
ROLLOUTS = ("n_steps=16", "batch_size=16", "run.n_envs=2", "latent_dim=6")
PLANS = (
    *(*SMALL, "horizon=5", "n_candidates=12", "n_elites=3", "n_iters=2", "model_epochs=2"),
    *("batch_size=16", "buffer_size=150"),
)
GOALS = (
    *(*SMALL, "disc_hidden=[8, 8]", "batch_size=16", "demo_batch_size=8", "disc_batch_size=8"),
    *("gradient_steps=3", "n_disc_updates=2", "buffer_size=150"),
)
RUN = ("run.eval_freq=100", "run.eval_episodes=1", "run.checkpoint_freq=80")

# Name of the row -> agent, environment, settings. Every agent of the zoo must have one.
ROWS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "bear": (
        "bear",
        "Pendulum-v1",
        (
            *("batch_size=16", "n_mmd_samples=2", "n_target_samples=2", "warmup_steps=100"),
            "policy_kwargs={net_arch: [8, 8], vae_arch: [8, 8], n_eval_samples: 4}",
        ),
    ),
    "bcq": (
        "bcq",
        "Pendulum-v1",
        (
            *("batch_size=16", "n_target_samples=2"),
            "policy_kwargs={net_arch: [8, 8], vae_arch: [8, 8], n_eval_samples: 4}",
        ),
    ),
    "bc": ("bc", "Pendulum-v1", (*SMALL, "batch_size=16")),
    "bc-vae": ("bc", "Pendulum-v1", (*SMALL, "batch_size=16", "model=cvae")),
    "td3-batch": ("td3-batch", "Pendulum-v1", (*SMALL, "batch_size=16")),
    "sac-batch": ("sac-batch", "Pendulum-v1", (*SMALL, "batch_size=16")),
    "dae-mpc": ("dae-mpc", "Pendulum-v1", (*PLANS, "run.env_kwargs={max_episode_steps: 50}")),
    "dae-mpc-learned": (
        "dae-mpc",
        "Pendulum-v1",
        (
            *(*PLANS, "reward=learned", "n_ensemble=2", "propagation=tsinf", "n_particles=4"),
            *("window=2", "dae_hinge=0.9", "model_interval=35", "replan_every=2", "run.n_envs=2"),
            "action_noise={noise: normal, std: 0.1}",
        ),
    ),
    "dae-mpc-adam": (
        "dae-mpc",
        "Pendulum-v1",
        (*PLANS, "planner=adam", "n_restarts=4", "model_interval=45", "reset_nets=true"),
    ),
    "sac": ("sac", "Pendulum-v1", OFF_POLICY),
    "sac-gsde": ("sac", "Pendulum-v1", (*OFF_POLICY, "use_sde=true", "train_freq=8")),
    "td3": ("td3", "Pendulum-v1", (*OFF_POLICY, "action_noise={noise: normal, std: 0.1}")),
    "td3-correlated-noise": (
        "td3",
        "Pendulum-v1",
        (
            *OFF_POLICY,
            "action_noise={noise: ornstein-uhlenbeck, std: 0.2}",
            *("run.n_envs=2", "gradient_steps=2"),
        ),
    ),
    "dqn": ("dqn", "CartPole-v1", (*OFF_POLICY, "target_update_interval=50", "train_freq=4")),
    "der": ("der", "CartPole-v1", (*OFF_POLICY, "n_steps=5", "target_update_interval=50")),
    "der-frames": (
        "der",
        FRAMES,
        (
            *("policy_kwargs.net_arch=[8]", "learning_starts=30", "batch_size=8"),
            *("buffer_size=150", "n_steps=5", "gradient_steps=2", "run.n_envs=2"),
            *("exploration_initial_eps=0.5", "exploration_steps=200"),
        ),
    ),
    "dyna-dqn": ("dyna-dqn", "CartPole-v1", (*OFF_POLICY, "planning_steps=16")),
    "dyna-dqn-forward": ("dyna-dqn", "CartPole-v1", (*DYNA, "source=forward", "actions=policy")),
    "dyna-dqn-backward": ("dyna-dqn", "CartPole-v1", (*DYNA, "source=backward", "train_freq=4")),
    "dyna-dqn-rollout": (
        "dyna-dqn",
        "CartPole-v1",
        (*DYNA, "source=rollout", "rollout_length=3", "max_disagreement=1", "run.n_envs=2"),
    ),
    "dyna-dqn-act": ("dyna-dqn", "CartPole-v1", (*DYNA, "source=act")),
    "dyna-dqn-tabular": (
        "dyna-dqn",
        "FrozenLake-v1",
        (
            *("source=forward", "policy_kwargs={net_arch: [], optimizer: sgd}", "batch_size=1"),
            *("planning_steps=3", "learning_rate=0.1", "learn_from_real=true", "buffer_size=150"),
            *("learning_starts=30", "target_update_interval=1"),
        ),
    ),
    "dyna-dqn-tabular-act": (
        "dyna-dqn",
        "FrozenLake-v1",
        (
            *("source=act", "policy_kwargs.net_arch=[8]", "learning_starts=30", "batch_size=8"),
            *("planning_steps=16", "buffer_size=150", "run.n_envs=2"),
        ),
    ),
    "goal-gail": ("goal-gail", "rlzoo/MiniFourRooms-v0", GOALS),
    "goal-gail-steps": (
        "goal-gail",
        "rlzoo/MiniFourRooms-v0",
        (
            *GOALS,
            "run.env_kwargs={max_episode_steps: 30}",
            "train_freq=7",
            "base=sac",
            "run.n_envs=2",
            "learning_starts=20",
            "bc_coef=0.1",
        ),
    ),
    "ibac-sni": (
        "ibac-sni",
        "CartPole-v1",
        (*SMALL, *ROLLOUTS, "normalize_reward=true", "anneal=true", "n_noise_samples=2"),
    ),
    "ibac-sni-frames": (
        "ibac-sni",
        FRAMES,
        (
            *(*ROLLOUTS, "policy_kwargs.encoder=impala-half", "regulariser=dropout"),
            *("suspend=frozen", "bootstrap_timeouts=true", "cutout=true"),
        ),
    ),
    "obs-dropout": (
        "obs-dropout",
        "Pendulum-v1",
        (*EVOLUTION, "n_steps=5", "peek_prob=0.5", "run.n_envs=2"),
    ),
    "obs-dropout-discrete": (
        "obs-dropout",
        "CartPole-v1",
        (*EVOLUTION, "n_steps=5", "peek_prob=0.5", "run.n_envs=2", "run.eval_deterministic=false"),
    ),
    "obs-dropout-episodes": (
        "obs-dropout",
        "rlzoo/CartPoleSwingUpHard-v0",
        (*EVOLUTION, SHORT, "backend=env", "optimizer=openes", "run.n_envs=4"),
    ),
    "obs-dropout-simulator": (
        "obs-dropout",
        "rlzoo/CartPoleSwingUpHard-v0",
        (*EVOLUTION, SHORT, "peek_prob=0.2"),
    ),
    "obs-dropout-ppo": (
        "obs-dropout-ppo",
        "rlzoo/CartPoleSwingUpHard-v0",
        (*CHAINS, "peek_prob=0.2", "run.n_envs=2"),
    ),
    "obs-dropout-ppo-discrete": ("obs-dropout-ppo", "CartPole-v1", (*CHAINS, "peek_prob=0.5")),
    "ppo": ("ppo", "CartPole-v1", (*SMALL, "n_steps=16", "batch_size=16", "run.n_envs=2")),
    "ppo-gsde": (
        "ppo",
        "Pendulum-v1",
        (*SMALL, "n_steps=32", "batch_size=16", "use_sde=true", "sde_sample_freq=4"),
    ),
}
STEPS = 400


class KilledError(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def test_every_agent_of_the_zoo_has_a_row() -> None:
    rows = {agent for agent, _, _ in ROWS.values()}
    assert {*agents_of_the_zoo(), "sac", "td3", "dqn", "ppo"} <= rows


@pytest.fixture
def request_of(
    tmp_path: Path, tiny_data: Callable[..., Transitions]
) -> Callable[[str, str], TrainRequest]:
    """Return a function from row and name of the run folder to what to train."""

    def make(row: str, folder: str) -> TrainRequest:
        agent, env_id, settings = ROWS[row]
        dataset = None
        if AGENTS[agent].needs_data:
            dataset = str(tmp_path / "data.hdf5")
            d4rl.save(tiny_data(env_id, max_episode_steps=50), Path(dataset), overwrite=True)
        return TrainRequest(
            agent, env_id, dataset=dataset, steps=STEPS, run_dir=tmp_path / folder, device="cpu",
            overrides=(*RUN, *settings), threads=1,
        )  # fmt: skip

    return make


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something once in the training, in the middle of SB3's own loops."""
    pending = [act]

    def _on_step(self: Any) -> bool:
        if self.num_timesteps >= step and pending:
            pending.pop()()
        return True

    monkeypatch.setattr(callbacks.ProgressCallback, "_on_step", _on_step)


def kill() -> None:
    raise KilledError


@pytest.mark.parametrize("row", ROWS)
def test_interrupted_three_times_ends_the_same(
    row: str,
    request_of: Callable[[str, str], TrainRequest],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Killed, stopped by SIGTERM (which adds a checkpoint where no other run has one), killed."""
    undisturbed = train(request_of(row, "whole"))
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        at_step(patch, 131, kill)
        with pytest.raises(KilledError):
            train(request_of(row, "cut"))
        at_step(patch, 201, partial(os.kill, os.getpid(), signal.SIGTERM))
        with pytest.raises(StoppedError) as stopped:
            resume(ResumeRequest(cut))
        assert stopped.value.exit_code == 143
        at_step(patch, 322, kill)
        with pytest.raises(KilledError):
            resume(ResumeRequest(cut))
    result = resume(ResumeRequest(cut))
    assert result is not None
    assert_same_run(tmp_path / "whole", cut)
    assert_same_buffer(undisturbed.model, result.model)


def assert_same_run(whole: Path, other: Path) -> None:
    a, b = (checkpoint.latest(path / "checkpoints")[0] for path in (whole, other))
    assert a is not None
    assert b is not None
    assert a.step == b.step
    left, right = flat(a.parts), flat(b.parts)
    different = [name for name in left | right if not same(left.get(name), right.get(name))]
    assert not different, different
    assert rows_of(whole) == rows_of(other)
    assert scalars_of(whole) == scalars_of(other)


def assert_same_buffer(a: BaseAlgorithm, b: BaseAlgorithm) -> None:
    """Compare every array of the replay buffers, rows that were never filled left out."""
    left, right = getattr(a, "replay_buffer", None), getattr(b, "replay_buffer", None)
    if isinstance(a, OfflineAlgorithm) or left is None:
        return
    assert right is not None
    assert (left.pos, left.full) == (right.pos, right.full)
    rows, others = slice(0, left.size()), row_arrays(right)
    for name, array in row_arrays(left).items():
        assert np.array_equal(array[rows], others[name][rows]), name


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of the parts by path, without what measures time."""
    if isinstance(value, dict):
        found = {}
        for key, inner in value.items():
            if not is_time(path, str(key)):
                found.update(flat(inner, f"{path}/{key}"))
        return found
    if isinstance(value, list | tuple) or type(value).__name__ == "deque":
        found = {}
        for index, inner in enumerate(value):
            found.update(flat(inner, f"{path}/{index}"))
        return found
    return {path: value}


def is_time(path: str, key: str) -> bool:
    return (
        key in ("seconds", "evaluation_seconds", "start_time")
        or key.startswith("time/")
        or ("ep_info_buffer" in path and key == "t")
        or (path == "/replay" and key in ("serial", "chunks", "mark"))
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, th.Tensor) and isinstance(b, th.Tensor):
        return a.dtype == b.dtype and th.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return type(a) is type(b) and (a == b or (isinstance(a, float) and math.isnan(a)))


def rows_of(run: Path) -> list[dict[str, str]]:
    with open(run / "progress.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    measured = ("time/fps", "time/time_elapsed")
    return [{k: v for k, v in row.items() if k not in measured} for row in rows]


def scalars_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}
