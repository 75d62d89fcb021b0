"""Tabular Q-learning with replay, a table model, or a wrong model planned forward or backward.

The loop is the paper's Algorithm 1 with K = steps, M = 1 real step per iteration and P planned
transitions: act, update on the real transition, then update P times on transitions that the planner
gives. Planners differ in one place only, where they get a transition from: :func:`_imagine`.

Many seeds run side by side, one row of every array each. A seed has a random stream of its own, of
which each decision uses a fixed part: its result does not depend on the other seeds, and two modes
with the same seed draw the same numbers, the indices into their memory among them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlzoo.core.arguments import (
    AT_LEAST_ONE,
    NON_NEGATIVE,
    POSITIVE,
    UNIT,
    Range,
    check_arguments,
)  # fmt: skip
from rlzoo.errors import RefusedError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mode = Literal["none", "replay", "dyna", "forward", "backward"]

_BLOCK = 500  # steps whose random numbers are drawn at once
_EXPLORE, _ACTION, _SLIP, _SLIPPED, _START, _TIES = range(6)  # one of _TIES per action
_INDEX, _WRONG, _STATE, _PAIR, _PLANNING = range(5)


@dataclass(frozen=True)
class Planning:
    """A study: a deterministic world with one rewarding, terminal goal, and how to plan in it.

    ``none`` plans nothing. ``replay`` takes stored transitions, drawn uniformly from all so far.
    ``dyna`` takes (s, a) from there and looks up what a table model, the last outcome of every
    pair, says. ``forward`` does the same with a model that may err about s', ``backward`` takes s'
    and a model that may err about (s, a). Rewards and ends are those stored.

    Args:
        successors: State after every action, ``[S, A]``.
        goal: The state that pays 1 and ends the episode; starts are uniform over the others.
        mode: Where planned transitions come from.
        error: Probability that the model names a *fictional* state, which never occurs.
        pseudo_count: Instead of ``error``: a uniform Dirichlet prior over *real* outcomes with this
            count each: S states forward, S A pairs backward. The model errs with probability
            ``m / (n + m)`` about what was seen n times, where m is the sum of these counts.
        slip: Probability that the world carries out a uniformly random action instead.
        planning_steps: P, planned transitions per real step.
        alpha: Step size.
        epsilon: Probability of a random action.
        tie: Greedy actions are those of the values plus noise from U(0, this), so that values which
            differ by less hardly matter. Exact ties only would follow the first traces of a
            value, 1e-20 say, and finish some 3 % fewer episodes with replay.
        gamma: Discount.
        fictional_states: Number of fictional states.
        fictional_value: Their values start in U(0, this): 1 is what an untrained network would say
            off its data, 0 what a table says.

    Raises:
        RefusedError: If an argument is out of range, or both kinds of error are asked for.
    """

    successors: Ints
    goal: int
    mode: Mode = "replay"
    error: Annotated[float, UNIT] = 0.0
    pseudo_count: Annotated[float, NON_NEGATIVE] = 0.0
    slip: Annotated[float, UNIT] = 0.0
    planning_steps: Annotated[int, AT_LEAST_ONE] = 5
    alpha: Annotated[float, Range(0, 1, low_open=True)] = 0.1
    epsilon: Annotated[float, UNIT] = 0.1
    tie: Annotated[float, POSITIVE] = 1e-8
    gamma: Annotated[float, UNIT] = 0.99
    fictional_states: Annotated[int, AT_LEAST_ONE] = 100
    fictional_value: Annotated[float, NON_NEGATIVE] = 1.0

    def __post_init__(self) -> None:
        check_arguments(type(self), vars(self))
        if self.error and self.pseudo_count:
            raise RefusedError(
                f"error={self.error} and pseudo_count={self.pseudo_count} are both set.",
                "Allowed: one kind of model error.",
            )

    def run(self, steps: int = 10_000, seeds: Sequence[int] = range(24)) -> Result:
        """Run the study, about a quarter of a millisecond per step for 24 seeds.

        Args:
            steps: T, real steps per seed.
            seeds: One run each.
        """
        lanes = _Lanes(self, steps, seeds)
        for step, draws in enumerate(_draws(seeds, steps, lanes.n_draws)):
            lanes.act(step, draws[:, : lanes.n_acting])
            lanes.plan(step, draws[:, lanes.n_acting :].reshape(len(seeds), -1, _PLANNING))
        return Result(lanes.memory.done.astype(bool), lanes.q, lanes.real, lanes.planned)


@dataclass(frozen=True)
class Result:
    """What happened, by seed.

    Args:
        finished: Whether an episode ended with a step, ``[n_seeds, steps]``.
        q: Final values, ``[n_seeds, S + fictional states, A]``.
        real_steps: Real steps of each seed, K M.
        planned: Planned transitions of each seed, K P.
    """

    finished: NDArray[np.bool_]
    q: Floats
    real_steps: int
    planned: int

    @property
    def episodes(self) -> Ints:
        """Episodes finished, ``[n_seeds]``."""
        return np.asarray(self.finished.sum(1))

    @property
    def mean(self) -> float:
        """Mean of the episodes finished, over seeds."""
        return float(self.episodes.mean())

    @property
    def standard_error(self) -> float:
        """Its standard error; NaN for one seed."""
        n = len(self.episodes)
        return float(self.episodes.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan")


class _Batch(NamedTuple):
    """Transitions, each part ``[n_seeds, ...]``."""

    state: Ints
    action: Ints
    reward: Floats
    after: Ints
    done: Floats

    def at(self, *index: int | Ints | slice) -> _Batch:
        """Return what every part has at an index."""
        return _Batch(
            self.state[index], self.action[index], self.reward[index], self.after[index],
            self.done[index],
        )  # fmt: skip

    @classmethod
    def zeros(cls, *shape: int) -> _Batch:
        """Return one with nothing in it."""
        whole, real = np.zeros(shape, np.int64), np.zeros(shape)
        return cls(whole, whole.copy(), real, whole.copy(), real.copy())


class _Lanes:
    """The state of all runs."""

    def __init__(self, study: Planning, steps: int, seeds: Sequence[int]) -> None:
        self.study = study
        self.n_states, self.n_actions = study.successors.shape
        n = len(seeds)
        self.n_planned = 0 if study.mode == "none" else study.planning_steps
        self.n_acting = _TIES + self.n_actions
        self.n_draws = self.n_acting + _PLANNING * study.planning_steps
        self.q = np.zeros((n, self.n_states + study.fictional_states, self.n_actions))
        for lane, seed in enumerate(seeds):  # A stream of their own: the runs are else the same.
            values = np.random.default_rng([seed, 1]).random(self.q.shape[1:])
            self.q[lane, self.n_states :] = study.fictional_value * values[self.n_states :]
        # Flat indices: several times as fast as three index arrays on so few numbers.
        self.flat = self.q.reshape(-1)
        self.rows = np.arange(n) * self.q.shape[1]
        self.columns = np.arange(self.n_actions)[:, None]
        self.lane = np.arange(n)
        self.state = np.full(n, -1)  # -1: an episode is to start
        self.memory = _Batch.zeros(n, steps)
        table = (n, self.n_states, self.n_actions)
        self.tried = np.zeros(table)
        self.entered = np.zeros(table[:2])
        self.model = _Batch.zeros(*table)
        self.real = self.planned = 0

    def act(self, step: int, draws: Floats) -> None:
        """Take one step in the world, remember it and learn from it."""
        study, lane = self.study, self.lane
        start = _pick(draws[:, _START], self.n_states - 1)
        start += start >= study.goal
        state = np.where(self.state < 0, start, self.state)
        greedy = (self.q[lane, state] + study.tie * draws[:, _TIES:]).argmax(1)
        action = np.where(
            draws[:, _EXPLORE] < study.epsilon, _pick(draws[:, _ACTION], self.n_actions), greedy
        )
        slips = draws[:, _SLIP] < study.slip
        moved = np.where(slips, _pick(draws[:, _SLIPPED], self.n_actions), action)
        after = study.successors[state, moved]
        done = (after == study.goal).astype(float)
        seen = _Batch(state, action, done, after, done)  # the reward is 1 where the episode ends
        for column, part in zip(self.memory, seen, strict=True):
            column[:, step] = part
        for table, part in zip(self.model, seen, strict=True):
            table[lane, state, action] = part
        self.tried[lane, state, action] += 1
        self.entered[lane, after] += 1
        self.update(seen)
        self.real += 1
        self.state = np.where(done > 0, -1, after)

    def plan(self, step: int, draws: Floats) -> None:
        """Learn from P planned transitions, which are drawn first and used one after another.

        Args:
            step: The last one in memory.
            draws: ``[n_seeds, P, 4]``.
        """
        if not self.n_planned:
            return
        lane = self.lane[:, None]
        index = _pick(draws[..., _INDEX], step + 1)
        batch = _imagine(self, self.memory.at(lane, index), draws)
        for planned in range(self.n_planned):
            self.update(batch.at(slice(None), planned))
        self.planned += self.n_planned

    def update(self, batch: _Batch) -> None:
        """Q-learning on one transition per seed: the same for real and planned ones."""
        study, rows, flat = self.study, self.rows, self.flat
        at = (rows + batch.state) * self.n_actions + batch.action
        best = flat.take((rows + batch.after) * self.n_actions + self.columns).max(0)
        old = flat.take(at)
        target = batch.reward + study.gamma * (1 - batch.done) * best
        flat[at] = old + study.alpha * (target - old)


def _imagine(lanes: _Lanes, stored: _Batch, draws: Floats) -> _Batch:
    """Return what the planner makes of stored transitions, ``[n_seeds, P]``."""
    study, lane = lanes.study, lanes.lane[:, None]
    if study.mode == "replay":
        return stored
    state, action, _, after, _ = stored
    if study.mode == "dyna":
        return lanes.model.at(lane, state, action)
    forward = study.mode == "forward"
    first, number, chance = lanes.n_states, study.fictional_states, np.asarray(study.error)
    if study.pseudo_count:
        first, number = 0, lanes.n_states
        mass = study.pseudo_count * number * (1 if forward else lanes.n_actions)
        seen = lanes.tried[lane, state, action] if forward else lanes.entered[lane, after]
        chance = mass / (seen + mass)
    wrong = draws[..., _WRONG] < chance
    named = first + _pick(draws[..., _STATE], number)
    if forward:
        return stored._replace(after=np.where(wrong, named, after))
    other = _pick(draws[..., _PAIR], lanes.n_actions)
    return stored._replace(
        state=np.where(wrong, named, state), action=np.where(wrong, other, action)
    )


def _pick(draws: Floats, number: int | Ints) -> Ints:
    """Return a uniform choice among ``number`` for every draw from [0, 1)."""
    return (draws * number).astype(np.int64)


def _draws(seeds: Sequence[int], steps: int, number: int) -> Iterator[Floats]:
    """Yield ``[n_seeds, number]`` uniform draws for every step."""
    rngs = [np.random.default_rng([seed, 0]) for seed in seeds]
    for begin in range(0, steps, _BLOCK):
        size = (min(_BLOCK, steps - begin), number)
        yield from np.stack([rng.random(size) for rng in rngs], 1)
