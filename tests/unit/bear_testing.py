"""Small data sets and small agents for the tests of BEAR and of the offline base class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from rlzoo.agents.bear import BEAR
from rlzoo.data.transitions import Transitions

SMALL = {"net_arch": [16, 16], "vae_arch": [16, 16], "n_eval_samples": 10}


def make_data(
    rows: int = 300,
    n_obs: int = 3,
    n_actions: int = 2,
    low: float = -1.0,
    high: float = 1.0,
    seed: int = 0,
    episode: int = 10,
    **changes: Any,
) -> Transitions:
    """Random walks of ``episode`` steps; every second one terminates, the others are cut."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows + 1, n_obs)).astype(np.float32)
    last = np.arange(rows) % episode == episode - 1
    even = (np.arange(rows) // episode) % 2 == 0
    following = states[1:].copy()
    following[last] += 1.0  # what the environment returned, not the start of the next episode
    arrays = {
        "observations": states[:-1],
        "actions": rng.uniform(low, high, (rows, n_actions)).astype(np.float32),
        "rewards": rng.normal(size=rows).astype(np.float32),
        "terminations": last & even,
        "truncations": last & ~even,
        "next_observations": following,
        "episode_starts": np.arange(0, rows + 1, episode),
        "observation_space": spaces.Box(-np.inf, np.inf, (n_obs,)),
        "action_space": spaces.Box(low, high, (n_actions,)),
        "metadata": {"id": "test/random-walk-v0"},
    }
    return Transitions(**(arrays | changes))


def make_bear(**changes: Any) -> BEAR:
    """A BEAR with 16-wide networks on the CPU; keyword arguments as in the constructor."""
    arguments = {
        "seed": 1,
        "device": "cpu",
        "batch_size": 32,
        "warmup_steps": 0,
        "policy_kwargs": dict(SMALL),
    }
    if not {"dataset", "env"} & set(changes):
        arguments["dataset"] = make_data()
    return BEAR(**(arguments | changes))


def parameters_of(model: BEAR) -> dict[str, th.Tensor]:
    """Copies of everything that training changes."""
    tensors = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    return tensors | {"log_alpha": model.log_alpha.detach().clone()}


def equal(a: dict[str, th.Tensor], b: dict[str, th.Tensor]) -> bool:
    """Whether two sets of tensors agree in every bit."""
    return a.keys() == b.keys() and all(th.equal(a[name], b[name]) for name in a)


def changed(before: dict[str, th.Tensor], after: dict[str, th.Tensor]) -> set[str]:
    """The first parts of the names (``actor``, ``critic`` ...) of tensors that differ."""
    return {n.partition(".")[0] for n in before if not th.equal(before[n], after[n])}
