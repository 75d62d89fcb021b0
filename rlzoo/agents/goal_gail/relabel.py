"""Drawing transitions of episodes and giving them goals that the episode reached later.

Everything is batched and stays on the device: no environment is called, nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch as th

Success = Callable[[th.Tensor, th.Tensor], th.Tensor]
"""``(achieved [..., dg], desired [..., dg]) -> bool [...]``."""


class EpisodeStore(NamedTuple):
    """Transitions of many episodes, and where each episode lies.

    Step ``t`` of episode ``e`` is row ``((starts[e] + t) % rows) * width + columns[e]``: rows are
    in order of time, ``width`` environments side by side, and wrap around.
    """

    observations: th.Tensor  # [rows * width, do]
    next_observations: th.Tensor  # [rows * width, do]
    achieved_goals: th.Tensor  # [rows * width, dg]
    next_achieved_goals: th.Tensor  # [rows * width, dg]
    goals: th.Tensor  # [rows * width, dg]
    actions: th.Tensor  # [rows * width, da], in [-1, 1]
    starts: th.Tensor  # [C] int64
    columns: th.Tensor  # [C] int64
    lengths: th.Tensor  # [C] int64, steps up to the first success, or all
    n_episodes: th.Tensor  # [] int64; entries behind are not used
    width: int

    @property
    def rows(self) -> int:
        """Steps of one environment that there is room for."""
        return len(self.observations) // self.width


class GoalBatch(NamedTuple):
    """Transitions with the goals that they are judged by."""

    observations: th.Tensor  # [B, do]
    actions: th.Tensor  # [B, da]
    next_observations: th.Tensor  # [B, do]
    achieved_goals: th.Tensor  # [B, dg]
    next_achieved_goals: th.Tensor  # [B, dg]
    goals: th.Tensor  # [B, dg], relabelled or original
    success: th.Tensor  # [B] bool, recomputed for these goals


class Drawn(NamedTuple):
    """Which transitions were drawn, and the transition whose outcome could be their goal."""

    row: th.Tensor  # [B] int64, of the transition
    step: th.Tensor  # [B] int64, t
    future: th.Tensor  # [B] int64, f in [t, L)
    future_row: th.Tensor  # [B] int64, of step f
    length: th.Tensor  # [B] int64, L
    relabelled: th.Tensor  # [B] bool


def draw(store: EpisodeStore, n: int, p: float) -> Drawn:
    """Draw ``n`` transitions: an episode uniformly, a step ``t`` in it, a later step ``f >= t``.

    Args:
        store: At least one episode.
        n: Number of transitions.
        p: Probability that a transition is to be relabelled.
    """
    uniform = th.rand(4, n, device=store.n_episodes.device)
    # float32 numbers below 1 times an integer below 2**24 stay below the integer.
    episode = (uniform[0] * store.n_episodes).long()
    length = store.lengths[episode]
    step = (uniform[1] * length).long()
    future = step + (uniform[2] * (length - step)).long()
    start, column = store.starts[episode], store.columns[episode]
    row = (start + step) % store.rows * store.width + column
    future_row = (start + future) % store.rows * store.width + column
    return Drawn(row, step, future, future_row, length, uniform[3] < p)


def gather(store: EpisodeStore, drawn: Drawn, success: Success) -> GoalBatch:
    """Collect drawn transitions; success, the terminal flag, is judged for their final goals.

    Args:
        store: What was drawn from.
        drawn: From :func:`draw`.
        success: Judges achieved goals.
    """
    row = drawn.row
    achieved = store.next_achieved_goals[row]
    hindsight = store.next_achieved_goals[drawn.future_row]
    goals = th.where(drawn.relabelled[:, None], hindsight, store.goals[row])
    return GoalBatch(
        observations=store.observations[row],
        actions=store.actions[row],
        next_observations=store.next_observations[row],
        achieved_goals=store.achieved_goals[row],
        next_achieved_goals=achieved,
        goals=goals,
        success=success(achieved, goals),
    )


def sample(store: EpisodeStore, n: int, p: float, success: Success) -> GoalBatch:
    """Return ``n`` transitions, each relabelled with probability ``p``."""
    return gather(store, draw(store, n, p), success)


def join(first: GoalBatch, second: GoalBatch) -> GoalBatch:
    """Return both batches one behind the other."""
    return GoalBatch(*(th.cat(pair) for pair in zip(first, second, strict=True)))
