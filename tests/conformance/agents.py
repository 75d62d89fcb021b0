"""The one table that a new agent is added to: how to make it small and fast.

Everything else in this folder runs unchanged over every row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from goal_gail_testing import POINT, POINT64, demonstrate
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlzoo.agents.registry import AGENTS, AgentSpec
from rlzoo.data.transitions import Transitions

from .discrete_envs import PENDULUM, PENDULUM64

EPISODE = 50
"""Time limit of the environments in steps; Pendulum ends in no other way."""


@dataclass(frozen=True)
class Row:
    """What the suite must know about one agent.

    Args:
        settings: Constructor arguments that make it small.
        steps: Length of a short training, in the units of ``learn``; several updates happen in it.
        any_n_envs: ``set_env`` takes another number of environments than before.
        log_interval: ``log_interval`` that gives at least one log line in ``steps``.
        env_id: An environment that it can learn in.
        wrong_env_id: One whose spaces of observation and action are different.
        float64_env_id: One that observes float64.
        unstored: Constructor arguments without an attribute of the same name.
        steps_of_four: As ``steps``, in four environments; None: the same.
        policy: Alias of the policy for the observations of ``env_id``.
        vec_normalize: It takes environments whose observations VecNormalize normalises.
    """

    settings: dict[str, Any]
    steps: int = 60
    any_n_envs: bool = False
    log_interval: int = 1
    env_id: str = "Pendulum-v1"
    wrong_env_id: str = "MountainCarContinuous-v0"
    float64_env_id: str = "Hopper-v4"
    unstored: frozenset[str] = field(default_factory=frozenset)
    steps_of_four: int | None = None
    policy: str = "MlpPolicy"
    vec_normalize: bool = True


ROWS = {
    "bear": Row(
        {
            "batch_size": 16,
            "n_mmd_samples": 2,
            "n_target_samples": 2,
            "warmup_steps": 10,
            "policy_kwargs": {"net_arch": [8, 8], "vae_arch": [8, 8], "n_eval_samples": 4},
        },
        any_n_envs=True,
        log_interval=20,
        unstored=frozenset({"dataset"}),
    ),
    "bcq": Row(
        {
            "batch_size": 16,
            "n_target_samples": 2,
            "policy_kwargs": {"net_arch": [8, 8], "vae_arch": [8, 8], "n_eval_samples": 4},
        },
        any_n_envs=True,
        log_interval=20,
        unstored=frozenset({"dataset"}),
    ),
    "bc": Row(
        {"batch_size": 16, "policy_kwargs": {"net_arch": [8, 8]}},
        any_n_envs=True,
        log_interval=20,
        unstored=frozenset({"dataset"}),
    ),
    "td3-batch": Row(
        {"batch_size": 16, "policy_kwargs": {"net_arch": [8, 8]}},
        any_n_envs=True,
        log_interval=20,
        unstored=frozenset({"dataset"}),
    ),
    "sac-batch": Row(
        {"batch_size": 16, "policy_kwargs": {"net_arch": [8, 8]}},
        any_n_envs=True,
        log_interval=20,
        unstored=frozenset({"dataset"}),
    ),
    # A fit every ten steps: its episodes are longer than most of these trainings.
    "dae-mpc": Row(
        {
            "batch_size": 16,
            "buffer_size": 500,
            "horizon": 4,
            "n_candidates": 12,
            "n_elites": 3,
            "n_iters": 2,
            "model_interval": 10,
            "model_epochs": 1,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
        vec_normalize=False,
    ),
    "der": Row(
        {
            "batch_size": 16,
            "buffer_size": 500,
            "learning_starts": 5,
            "n_steps": 3,
            "target_update_interval": 10,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
        env_id=PENDULUM,
        wrong_env_id="CartPole-v1",
        float64_env_id=PENDULUM64,
    ),
    "dyna-dqn": Row(
        {
            "batch_size": 16,
            "buffer_size": 500,
            "learning_starts": 5,
            "planning_steps": 16,
            "source": "forward",
            "actions": "policy",
            "exploration_final_eps": 0.0,
            "target_update_interval": 10,
            "model_interval": 20,
            "model_arch": [8],
            "n_models": 2,
            "model_epochs": 2,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
        env_id=PENDULUM,
        wrong_env_id="CartPole-v1",
        float64_env_id=PENDULUM64,
    ),
    "goal-gail": Row(
        {
            "demonstrations": demonstrate(),
            "batch_size": 16,
            "demo_batch_size": 8,
            "train_freq": 1,
            "gradient_steps": 1,
            "n_disc_updates": 1,
            "disc_batch_size": 8,
            "disc_hidden": [8, 8],
            "buffer_size": 500,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
        env_id=POINT,
        wrong_env_id="Pendulum-v1",
        float64_env_id=POINT64,
        steps_of_four=4 * EPISODE + 20,
        policy="MultiInputPolicy",
        vec_normalize=False,
    ),
    "ibac-sni": Row(
        {
            "n_steps": 5,
            "batch_size": 10,
            "n_epochs": 2,
            "latent_dim": 6,
            "n_noise_samples": 2,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
        env_id=PENDULUM,
        wrong_env_id="CartPole-v1",
        float64_env_id=PENDULUM64,
    ),
    # Turns of five steps, ten per generation; episodes go on through them. Everything is seen, as
    # four environments together and alone would be looked at at different times.
    "obs-dropout": Row(
        {
            "peek_prob": 1.0,
            "pop_size": 2,
            "n_eval_episodes": 1,
            "n_steps": 5,
            "zero_policy": False,
            "policy_kwargs": {"net_arch": [8, 8], "model_arch": [8]},
        },
    ),
    "obs-dropout-ppo": Row(
        {
            "peek_prob": 1.0,
            "n_steps": 5,
            "chunk_length": 5,
            "batch_size": 5,
            "n_epochs": 2,
            "policy_kwargs": {"net_arch": [8, 8], "model_arch": [8], "critic_arch": [8]},
        },
    ),
    # Not of this zoo: the suite has to pass on an agent that is right by definition.
    "td3": Row(
        {
            "batch_size": 16,
            "buffer_size": 500,
            "learning_starts": 5,
            "policy_kwargs": {"net_arch": [8, 8]},
        },
    ),
}


def agents_of_the_zoo() -> list[str]:
    """Return the names of the agents that this package implements itself."""
    return [name for name, spec in AGENTS.items() if spec.class_path.startswith("rlzoo.agents.")]


def make_env(env_id: str) -> gym.Env[Any, Any]:
    """Return one environment with a short time limit."""
    return gym.make(env_id, max_episode_steps=EPISODE)


def make_vec(env_id: str, n_envs: int = 1, seed: int = 0) -> VecEnv:
    """Return monitored copies of an environment with a short time limit."""
    vec = DummyVecEnv([lambda: Monitor(make_env(env_id)) for _ in range(n_envs)])
    vec.seed(seed)
    return vec


@dataclass(frozen=True)
class Subject:
    """One agent under test: its row, its class, and its data when it needs some."""

    name: str
    spec: AgentSpec
    row: Row
    cls: type[BaseAlgorithm]
    data: Callable[[str], Transitions]

    @property
    def steps(self) -> int:
        """Length of a short training."""
        return self.row.steps

    def data_arguments(self, env_id: str | None = None) -> dict[str, Any]:
        """Return ``dataset=`` for an agent that learns from data, nothing for another."""
        if not self.spec.needs_data:
            return {}
        return {"dataset": self.data(env_id or self.row.env_id)}

    def settings(self, **overrides: Any) -> dict[str, Any]:
        """Return the small settings; ``policy_kwargs`` are copied, since agents add to them."""
        merged = {"seed": 0, "device": "cpu", **self.row.settings, **overrides}
        return {**merged, "policy_kwargs": dict(merged["policy_kwargs"])}

    def make(self, env: Any = None, **overrides: Any) -> BaseAlgorithm:
        """Return an untrained agent, on one environment unless another is given."""
        env = make_vec(self.row.env_id) if env is None else env
        arguments = {**self.settings(**overrides), **self.data_arguments()}
        return self.cls(self.row.policy, env, **arguments)

    def trained(self, **overrides: Any) -> BaseAlgorithm:
        """Return an agent after a short training."""
        return self.make(**overrides).learn(self.steps)

    def learn(self, model: BaseAlgorithm, steps: int | None = None, **kwargs: Any) -> BaseAlgorithm:
        """Train with a log interval at which there is something to log."""
        kwargs.setdefault("log_interval", self.row.log_interval)
        return model.learn(steps or self.steps, **kwargs)

    def vec(self, n_envs: int = 1, seed: int = 0) -> VecEnv:
        """Return copies of the environment of the row."""
        return make_vec(self.row.env_id, n_envs, seed)

    @property
    def replays(self) -> bool:
        """Whether it learns from a replay buffer."""
        return hasattr(self.cls, "save_replay_buffer")

    def supply(self, model: BaseAlgorithm) -> None:
        """Give a loaded agent the data or the demonstrations that it needs."""
        if self.spec.needs_data:
            model.set_dataset(self.data(self.row.env_id))  # type: ignore[attr-defined]
        if "demonstrations" in self.row.settings:
            model.set_demonstrations(self.row.settings["demonstrations"])  # type: ignore[attr-defined]

    def equip(self, model: BaseAlgorithm, original: BaseAlgorithm) -> None:
        """Give a loaded agent the data that ``original`` learned from."""
        if self.replays:
            model.replay_buffer = original.replay_buffer  # type: ignore[attr-defined]
        if "demonstrations" in self.row.settings:
            self.supply(model)

    def load(self, path: Any, **kwargs: Any) -> BaseAlgorithm:
        """Load on the CPU."""
        return self.cls.load(path, device="cpu", **kwargs)


def observations_of(model: BaseAlgorithm, make: Callable[[Any], Any]) -> Any:
    """Return what ``make`` gives for the space, or for each space of a dict."""
    space = model.observation_space
    if isinstance(space, spaces.Dict):
        return {key: make(part) for key, part in space.spaces.items()}
    return make(space)


def filled(model: BaseAlgorithm, value: float, n: int | None = None) -> Any:
    """Return one observation, or ``n`` of them, of equal numbers."""
    lead = () if n is None else (n,)
    return observations_of(model, lambda space: np.full((*lead, *space.shape), value, space.dtype))


def drawn(model: BaseAlgorithm, n: int, scale: float = 1.0) -> Any:
    """Return ``n`` observations of normal numbers, the same in every call."""
    rng = np.random.default_rng(0)
    return observations_of(
        model, lambda space: (rng.normal(size=(n, *space.shape)) * scale).astype(np.float32)
    )


def row_of(observations: Any, index: int) -> Any:
    """Return one observation of a batch."""
    if isinstance(observations, dict):
        return {key: part[index] for key, part in observations.items()}
    return observations[index]


def flat_state(model: BaseAlgorithm) -> dict[str, th.Tensor]:
    """Return every tensor of ``get_parameters()``, optimiser states included, by path."""
    found: dict[str, th.Tensor] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, th.Tensor):
            found[path] = value.detach().clone()
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}/{key}", inner)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                walk(f"{path}/{index}", inner)
        elif isinstance(value, bool | int | float):
            found[path] = th.tensor(float(value), dtype=th.float64)

    walk("", model.get_parameters())
    for name in model._get_torch_save_params()[1]:
        walk(name, getattr(model, name))
    return found


def assert_same_state(a: BaseAlgorithm, b: BaseAlgorithm) -> None:
    """Compare parameters, optimiser states and other saved tensors bit by bit."""
    left, right = flat_state(a), flat_state(b)
    assert left.keys() == right.keys(), left.keys() ^ right.keys()
    different = [name for name in left if not th.equal(left[name], right[name])]
    assert not different, different


def state_differs(a: BaseAlgorithm, b: BaseAlgorithm) -> bool:
    """Whether any saved tensor is different."""
    left, right = flat_state(a), flat_state(b)
    return left.keys() != right.keys() or any(not th.equal(left[k], right[k]) for k in left)
