"""Small valid data sets for the tests of rlzoo.data."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from rlzoo.data import Transitions


def make_transitions(
    lengths=(5, 7, 3),
    ends=None,
    shape=(4,),
    dtype=np.float32,
    discrete=False,
    seed=0,
    **metadata,
):
    """Random walks; ``ends`` has "t" (termination) or "c" (truncation) per episode."""
    rng = np.random.default_rng(seed)
    ends = ends or ["t" if i % 2 == 0 else "c" for i in range(len(lengths))]
    n = sum(lengths)
    observations, following = [], []
    for length in lengths:
        if dtype == np.uint8:
            walk = rng.integers(0, 256, (length + 1, *shape), dtype=np.uint8)
        else:
            walk = rng.normal(size=(length + 1, *shape)).astype(dtype)
        observations.append(walk[:-1])
        following.append(walk[1:])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    terminations, truncations = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    for last, end in zip(starts[1:] - 1, ends, strict=True):
        (terminations if end == "t" else truncations)[last] = True
    if dtype == np.uint8:
        observation_space = spaces.Box(0, 255, shape, np.uint8)
    else:
        observation_space = spaces.Box(-np.inf, np.inf, shape, np.float32)
    return Transitions(
        observations=np.concatenate(observations),
        actions=rng.integers(0, 4, n)
        if discrete
        else rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        terminations=terminations,
        truncations=truncations,
        next_observations=np.concatenate(following),
        episode_starts=starts,
        observation_space=observation_space,
        action_space=spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (2,)),
        metadata=metadata,
    )
