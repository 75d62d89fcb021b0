"""Numbers that sum up several runs of several tasks, with intervals that show how sure they are.

Scores of one agent are an array ``[runs, tasks]``; NaN is a missing run, so tasks may have
different numbers of them. The statistics are those of Agarwal et al. (2021), "Deep Reinforcement
Learning at the Edge of the Statistical Precipice". Intervals are percentiles of a stratified
bootstrap: runs are drawn again within each task, tasks are kept. They tell how the number would
change with other seeds, not with other tasks, and are too narrow for very few runs.

Every result depends on the scores only, not on the order of runs or tasks; equal seeds give equal
intervals. Scores are sorted for that, so a statistic may not tell runs or tasks apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rlzoo.errors import RefusedError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]  # [..., runs, tasks] -> [...]
Curve = Sequence[tuple[int, float]]  # pairs of step and value

CHUNK = 4_000_000  # numbers that are resampled at a time: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A number and its interval.

    Attributes:
        value: The number; NaN if there are no runs.
        low: Lower end of the interval; None if no task has two runs.
        high: Upper end of the interval, or None.
        n: Number of runs that it is computed from, of all tasks together.
        fewest: Number of runs of the task that has the fewest; 0 if nobody counted.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    fewest: int = 0

    @property
    def note(self) -> str:
        """What a reader must know about the interval; empty if nothing."""
        if self.n == 0:
            return "no runs"
        if self.low is None:
            return "no interval: one run" + ("" if self.n == 1 else " of each task")
        return "interval too narrow: a task has only one run" if self.fewest == 1 else ""


class Band(NamedTuple):
    """A curve with its interval at each point; ``low`` and ``high`` are None if there is none."""

    values: FloatArray
    low: FloatArray | None
    high: FloatArray | None


# ------------------------------------------------------------------------------- statistics


def mean(scores: FloatArray) -> FloatArray:
    """Return the mean over tasks of the mean over runs.

    Args:
        scores: ``[..., runs, tasks]``, NaN where a run is missing.

    Returns:
        ``[...]``, a number for two axes. Tasks without runs are left out; NaN if there are no runs.
    """
    return _mean_there(_mean_there(scores, -2), -1)


def median(scores: FloatArray) -> FloatArray:
    """Return the median over tasks of the mean over runs; see :func:`mean`."""
    means = np.sort(_mean_there(scores, -2), axis=-1)  # NaN comes last
    count = np.sum(~np.isnan(means), axis=-1, keepdims=True)
    lower = np.take_along_axis(means, np.maximum(count - 1, 0) // 2, axis=-1)
    upper = np.take_along_axis(means, count // 2 % means.shape[-1], axis=-1)
    middle: FloatArray = ((lower + upper) / 2)[..., 0]
    return middle


def iqm(scores: FloatArray) -> FloatArray:
    """Return the interquartile mean: that of all scores without the lowest and highest quarter.

    A quarter of ``n`` scores is ``floor(n / 4)``, as in rliable. Scores of all tasks are one set:
    a task with more runs weighs more. See :func:`mean` for shapes.
    """
    every = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)  # NaN comes last
    count = np.sum(~np.isnan(every), axis=-1, keepdims=True)
    rank = np.arange(every.shape[-1])
    inner = (rank >= count // 4) & (rank < count - count // 4)
    return _mean_there(np.where(inner, every, np.nan), -1)


def optimality_gap(scores: FloatArray, target: float = 1.0) -> FloatArray:
    """Return how much is missing to ``target`` on average; what is above it counts as zero.

    Args:
        scores: See :func:`mean`.
        target: Score that is good enough, in the unit of the scores: 1 for human-normalised ones,
            100 for those of D4RL.
    """
    return mean(np.maximum(target - scores, 0.0))


def _mean_there(values: FloatArray, axis: int) -> FloatArray:
    """Mean without NaN and without a warning; NaN if there is nothing."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        result: FloatArray = np.sum(np.where(there, values, 0.0), axis=axis) / there.sum(axis=axis)
    return result


# ------------------------------------------------------------------------------- intervals


def stratified_bootstrap(
    scores: npt.ArrayLike,
    statistic: Statistic,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Compute a statistic and its interval.

    Args:
        scores: ``[runs, tasks]``, NaN where a run is missing.
        statistic: Such as :func:`iqm`; gets many sets of scores at once, ``[..., runs, tasks]``.
        resamples: Number of times that the runs are drawn again.
        seed: Seed of the draws.
        level: Share of resamples inside of the interval.

    Raises:
        RefusedError: If the scores are no such array, or ``resamples`` or ``level`` make no sense.
    """
    _check_options(resamples, level)
    columns = _columns(_checked(scores)[..., None])
    if not columns:
        return Estimate(float("nan"), None, None, 0, 0)
    data, counts = _arranged(columns)
    band = _bootstrap(data, counts, statistic, resamples, seed, level)
    return Estimate(
        float(band.values[0]),
        None if band.low is None else float(band.low[0]),
        None if band.high is None else float(band.high[0]),
        int(counts.sum()),
        int(counts.min()),
    )


def probability_of_improvement(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Estimate how probable it is that a run of X is better than one of Y on the same task.

    It is the mean over tasks of the share of pairs that X wins; a tie counts half. Tasks that only
    one of them has runs of are left out.

    Args:
        x: Scores of X, ``[runs, tasks]``, NaN where a run is missing.
        y: Scores of Y; the columns are the same tasks.
        resamples: See :func:`stratified_bootstrap`.
        seed: See :func:`stratified_bootstrap`.
        level: See :func:`stratified_bootstrap`.

    Returns:
        ``n`` counts the runs of both. There is no interval if one of them has one run of each task.

    Raises:
        RefusedError: If the numbers of tasks differ, or see :func:`stratified_bootstrap`.
    """
    _check_options(resamples, level)
    first, second = _checked(x), _checked(y)
    if first.shape[1] != second.shape[1]:
        raise RefusedError(
            f"X has {first.shape[1]} tasks and Y has {second.shape[1]}.",
            "Both need the same tasks in the same order.",
        )
    pairs = [
        (_sorted_runs(first[:, task, None]), _sorted_runs(second[:, task, None]))
        for task in range(first.shape[1])
    ]
    pairs = [(left, right) for left, right in pairs if len(left) and len(right)]
    if not pairs:
        return Estimate(float("nan"), None, None, 0, 0)
    pairs.sort(key=lambda pair: (pair[0].tolist(), pair[1].tolist()))
    (left, n_left), (right, n_right) = (_arranged(list(side)) for side in zip(*pairs, strict=True))
    value = float(_win_share(left, right)[0])
    n, fewest = int(n_left.sum() + n_right.sum()), int(min(n_left.min(), n_right.min()))
    if min(n_left.max(), n_right.max()) < 2:
        return Estimate(value, None, None, n, fewest)
    rng = np.random.default_rng(seed)
    size = left.shape[1] * right.size
    shares = [
        _win_share(_redrawn(left, n_left, rng, count), _redrawn(right, n_right, rng, count))
        for count in _chunks(resamples, size)
    ]
    low, high = _percentiles(np.concatenate(shares), level)
    return Estimate(value, float(low[0]), float(high[0]), n, fewest)


def performance_profile(
    scores: npt.ArrayLike,
    taus: npt.ArrayLike,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Band:
    """Return the share of runs whose score is above each of some limits, every task weighing alike.

    Args:
        scores: ``[runs, tasks]``, NaN where a run is missing.
        taus: ``[limits]``.
        resamples: See :func:`stratified_bootstrap`.
        seed: See :func:`stratified_bootstrap`.
        level: See :func:`stratified_bootstrap`; it holds at each limit, not for the whole curve.

    Returns:
        Arrays ``[limits]``; NaN if there are no runs.

    Raises:
        RefusedError: See :func:`stratified_bootstrap`.
    """
    _check_options(resamples, level)
    limits = np.asarray(taus, dtype=np.float64).reshape(-1, 1, 1)
    columns = _columns(_checked(scores)[..., None])
    if not columns:
        return Band(np.full(limits.size, np.nan), None, None)
    data, counts = _arranged(columns)
    above = np.where(np.isnan(data), np.nan, (data > limits).astype(np.float64))
    return _bootstrap(above, counts, mean, resamples, seed, level)


# ------------------------------------------------------------------------------- learning curves


def sample_efficiency(
    curves: Sequence[Sequence[Curve]],
    steps: npt.ArrayLike,
    statistic: Statistic = iqm,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Band:
    """Return a statistic over steps, of runs that were evaluated at different steps.

    A run has the value between two evaluations that a straight line has, and none before its first
    or after its last one. Where a run has none the result is NaN for all: otherwise the curve would
    jump because another set of runs is averaged. Evaluations that are not finite are passed over.

    Args:
        curves: For each task the curves of its runs, normalised so that tasks can be averaged. Runs
            without evaluations are left out.
        steps: ``[steps]`` at which the result is wanted; see :func:`common_steps`.
        statistic: See :func:`stratified_bootstrap`.
        resamples: See :func:`stratified_bootstrap`; whole runs are drawn.
        seed: See :func:`stratified_bootstrap`.
        level: See :func:`stratified_bootstrap`; it holds at each step, not for the whole curve.

    Returns:
        Arrays ``[steps]``.

    Raises:
        RefusedError: If ``resamples`` or ``level`` make no sense.
    """
    _check_options(resamples, level)
    grid = np.asarray(steps, dtype=np.float64)
    tasks = [[_line(points) for points in map(_points, task) if points] for task in curves]
    tasks = [task for task in tasks if task]
    nothing = np.full(grid.size, np.nan)
    if not tasks:
        return Band(nothing, None, None)
    start = max(x[0] for task in tasks for x, _ in task)
    end = min(x[-1] for task in tasks for x, _ in task)
    covered = (grid >= start) & (grid <= end)
    if not covered.any():
        return Band(nothing, None, None)
    inside = grid[covered]
    columns = [
        _sorted_runs(np.stack([np.interp(inside, x, values) for x, values in task]))
        for task in tasks
    ]
    columns.sort(key=lambda column: column.tolist())
    band = _bootstrap(*_arranged(columns), statistic, resamples, seed, level)

    def spread(part: FloatArray) -> FloatArray:
        whole = nothing.copy()
        whole[covered] = part
        return whole

    if band.low is None or band.high is None:
        return Band(spread(band.values), None, None)
    return Band(spread(band.values), spread(band.low), spread(band.high))


def common_steps(curves: Sequence[Sequence[Curve]]) -> IntArray:
    """Return the steps of all evaluations that lie between the first and last one of every run."""
    runs = [points for task in curves for points in map(_points, task) if points]
    start = max((min(points) for points in runs), default=0)
    end = min((max(points) for points in runs), default=0)
    steps = {step for points in runs for step in points if start <= step <= end}
    return np.array(sorted(steps), dtype=np.int64)


def _points(curve: Curve) -> dict[int, float]:
    return {step: value for step, value in curve if np.isfinite(value)}


def _line(points: dict[int, float]) -> tuple[FloatArray, FloatArray]:
    x, values = np.array(sorted(points.items()), dtype=np.float64).T
    return x, values


# ------------------------------------------------------------------------------- machinery


def _checked(scores: npt.ArrayLike) -> FloatArray:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 2:
        raise RefusedError(
            f"Scores have the shape {array.shape}.", "The shape must be [runs, tasks]."
        )
    if np.isinf(array).any():
        raise RefusedError(
            "A score is infinite.", "Scores are finite, or NaN where a run is missing."
        )
    return array


def _check_options(resamples: int, level: float) -> None:
    if resamples < 1 or not 0.0 < level < 1.0:
        raise RefusedError(
            f"Interval with resamples={resamples} and level={level}.",
            "At least one resample, and a level between 0 and 1.",
        )


def _sorted_runs(runs: FloatArray) -> FloatArray:
    """Runs ``[runs, steps]`` in an order that only depends on them, without missing ones."""
    there = runs[~np.isnan(runs).any(axis=1)]
    return there[np.lexsort(there.T[::-1])]


def _columns(data: FloatArray) -> list[FloatArray]:
    """Split ``[runs, tasks, steps]`` into tasks that have runs, in an order of their own."""
    columns = [_sorted_runs(data[:, task]) for task in range(data.shape[1])]
    return sorted((c for c in columns if len(c)), key=lambda column: column.tolist())


def _arranged(columns: Sequence[FloatArray]) -> tuple[FloatArray, IntArray]:
    """Stack tasks ``[runs, steps]`` to ``[steps, runs, tasks]``, NaN at the end of shorter ones."""
    counts = np.array([len(column) for column in columns], dtype=np.int64)
    data = np.full((columns[0].shape[1], counts.max(), len(columns)), np.nan)
    for task, column in enumerate(columns):
        data[:, : len(column), task] = column.T
    return data, counts


def _bootstrap(
    data: FloatArray,
    counts: IntArray,
    statistic: Statistic,
    resamples: int,
    seed: int,
    level: float,
) -> Band:
    """Statistic and percentiles at each step of ``[steps, runs, tasks]``."""
    values = np.asarray(statistic(data))
    if counts.max() < 2:
        return Band(values, None, None)
    rng = np.random.default_rng(seed)
    found = [statistic(_redrawn(data, counts, rng, n)) for n in _chunks(resamples, data.size)]
    return Band(values, *_percentiles(np.concatenate(found), level))


def _redrawn(data: FloatArray, counts: IntArray, rng: np.random.Generator, n: int) -> FloatArray:
    """Draw the runs of every task ``n`` times with replacement: ``[n, steps, runs, tasks]``."""
    _, runs, tasks = data.shape
    chosen = rng.integers(0, counts, size=(n, 1, runs, tasks))
    drawn = np.take_along_axis(data[None], chosen, axis=2)
    return np.where(np.arange(runs)[:, None] < counts, drawn, np.nan)


def _chunks(resamples: int, size: int) -> Iterator[int]:
    """Numbers of resamples that fit into memory at a time."""
    most = max(CHUNK // size, 1)
    while resamples > 0:
        yield min(most, resamples)
        resamples -= most


def _win_share(x: FloatArray, y: FloatArray) -> FloatArray:
    """Share of pairs that X wins, ``[..., runs, tasks]`` each, ties half; the mean over tasks."""
    left, right = x[..., :, None, :], y[..., None, :, :]
    points = np.where(left > right, 1.0, np.where(left == right, 0.5, 0.0))
    points[np.isnan(left) | np.isnan(right)] = np.nan
    return _mean_there(
        _mean_there(points.reshape(*points.shape[:-3], -1, points.shape[-1]), -2), -1
    )


def _percentiles(values: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail], axis=0)
    return low, high
