"""Aggregates and intervals against closed forms, counting by hand, and simulation."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from rlzoo.errors import RefusedError
from rlzoo.report import statistics
from rlzoo.report.statistics import (
    Estimate,
    common_steps,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    sample_efficiency,
    stratified_bootstrap,
)

NAN = math.nan
ALL = [mean, median, iqm, optimality_gap]


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def normal(runs: int, tasks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(runs, tasks))


# ------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (column(7), 7.0),
        (column(1, 5), 3.0),  # a quarter of 2 and of 3 is no run: nothing is cut
        (column(0, 2, 7), 3.0),
        (column(-100, 2, 4, 100), 3.0),
        (column(-100, 1, 2, 6, 100), 3.0),
        (column(0, 1, 2, 3, 4, 5, 6, 7), 3.5),
        (np.array([[0.0, 10.0], [20.0, 30.0]]), 15.0),  # one set: 10 and 20 are the middle
        (np.array([[0.0, NAN], [4.0, NAN], [NAN, 1.0], [3.0, NAN]]), 2.0),
    ],
)
def test_iqm_by_hand(scores: np.ndarray, expected: float) -> None:
    assert iqm(scores) == pytest.approx(expected)
    assert iqm(np.random.default_rng(0).permutation(scores)) == pytest.approx(expected)


def test_mean_and_median_weigh_tasks_alike() -> None:
    scores = np.array([[0.0, 6.0, 100.0], [2.0, NAN, 300.0], [4.0, NAN, NAN]])
    assert mean(scores) == pytest.approx((2 + 6 + 200) / 3)
    assert median(scores) == pytest.approx(6)
    assert median(scores[:, :2]) == pytest.approx(4)  # of 2 and 6
    assert median(column(1, 2, 6)) == pytest.approx(3)  # of one task: its mean


def test_median_leaves_out_tasks_without_runs() -> None:
    scores = np.array([[1.0, NAN, 2.0, NAN, 9.0]])
    assert median(scores) == 2.0
    assert mean(scores) == pytest.approx(4.0)


def test_optimality_gap_by_hand() -> None:
    scores = np.array([[0.25, 3.0], [0.75, NAN]])
    assert optimality_gap(scores) == pytest.approx((0.5 + 0.0) / 2)
    assert optimality_gap(scores, target=2.0) == pytest.approx((1.5 + 0.0) / 2)
    assert optimality_gap(column(1.0, 5.0)) == 0.0
    assert optimality_gap(column(-1.0)) == 2.0


@pytest.mark.parametrize("statistic", ALL)
def test_statistics_work_on_many_sets_at_once_and_without_runs(
    statistic: statistics.Statistic,
) -> None:
    many = np.random.default_rng(3).normal(size=(2, 3, 5, 4))
    many[0, 1, 2:, 3] = NAN
    many[1, 2, :, 0] = NAN
    found = statistic(many)
    assert found.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        assert found[i, j] == pytest.approx(float(statistic(many[i, j])), abs=1e-14)
    assert np.isnan(statistic(np.full((3, 2), NAN)))


# ------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("statistic", ALL)
def test_an_interval_of_equal_scores_has_no_width(statistic: statistics.Statistic) -> None:
    scores = np.full((5, 7), 0.1)
    found = stratified_bootstrap(scores, statistic)
    assert found == Estimate(found.value, found.value, found.value, 35, 5)
    assert found.value == pytest.approx(0.9 if statistic is optimality_gap else 0.1)
    # Runs of a task are equal, tasks differ: other runs would have changed nothing either.
    tasks = np.tile(np.array([0.1, 0.7, 1 / 3]), (4, 1))
    found = stratified_bootstrap(tasks, statistic)
    assert found.low == found.value == found.high


@pytest.mark.parametrize("statistic", ALL)
def test_one_run_has_no_interval(statistic: statistics.Statistic) -> None:
    found = stratified_bootstrap(column(3.0), statistic)
    assert (found.low, found.high, found.n) == (None, None, 1)
    assert found.note == "no interval: one run"
    found = stratified_bootstrap(np.array([[3.0, 5.0], [NAN, NAN]]), statistic)
    assert (found.low, found.high, found.n) == (None, None, 2)
    assert found.note == "no interval: one run of each task"


def test_notes_of_intervals() -> None:
    assert stratified_bootstrap(column(1.0, 2.0), mean).note == ""
    narrow = stratified_bootstrap(np.array([[1.0, 5.0], [2.0, NAN]]), mean)
    assert (narrow.n, narrow.fewest) == (3, 1)
    assert narrow.low is not None
    assert "too narrow" in narrow.note
    none = stratified_bootstrap(np.full((2, 2), NAN), mean)
    assert math.isnan(none.value)
    assert (none.low, none.high, none.n, none.note) == (None, None, 0, "no runs")


def test_an_interval_of_two_runs_is_that_of_the_binomial_distribution() -> None:
    # The mean of two draws of {0, 1} is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    scores = column(0.0, 1.0)
    assert stratified_bootstrap(scores, mean, level=0.6).low == 0.0
    assert stratified_bootstrap(scores, mean, level=0.4).low == 0.5
    assert stratified_bootstrap(scores, mean, level=0.4).high == 0.5


def test_a_task_with_fewer_runs_is_drawn_as_often_as_it_has_runs() -> None:
    # The second task never changes; both zeros of the first are drawn with probability 1/4.
    scores = np.zeros((10, 2))
    scores[:, 0] = [0.0, 1.0] + 8 * [NAN]
    assert stratified_bootstrap(scores, mean, level=0.6).low == 0.0
    assert stratified_bootstrap(scores, mean, level=0.4).low == 0.25
    x, y = scores, np.full((1, 2), 0.5)
    y = np.concatenate([y, y])
    assert probability_of_improvement(x, y, level=0.6).low == 0.0
    assert probability_of_improvement(x, y, level=0.4).low == 0.25


def test_the_width_for_many_runs_is_that_of_the_normal_distribution() -> None:
    scores = normal(400, 3)
    found = stratified_bootstrap(scores, mean, resamples=4000)
    error = math.sqrt(float(np.sum(scores.var(axis=0) / 400))) / 3
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.15 * error)


def test_only_runs_within_a_task_are_drawn() -> None:
    # Between tasks there is a gap of 1000: an interval that mixed them would be as wide.
    scores = normal(10, 2) + np.array([0.0, 1000.0])
    found = stratified_bootstrap(scores, mean)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 3


@pytest.mark.parametrize("missing", [False, True])
def test_coverage_is_near_its_level(missing: bool) -> None:
    rng = np.random.default_rng(11)
    true_mean, hits, trials = 0.5, 0, 200
    for trial in range(trials):
        scores = rng.normal(size=(10, 8)) + np.linspace(0, 1, 8)
        if missing:
            scores[6:, ::2] = NAN
        found = stratified_bootstrap(scores, mean, resamples=400, seed=trial)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= true_mean <= found.high
    # 95 % less what percentiles lose with 10 (or 6) runs, about 2 to 4 %; sd of the count is 1.7 %.
    assert 0.85 < hits / trials < 0.99


@pytest.mark.parametrize("statistic", ALL)
def test_no_order_changes_a_digit(statistic: statistics.Statistic) -> None:
    scores, rng = normal(6, 9), np.random.default_rng(1)
    scores[4:, 3] = scores[1:, 5] = NAN
    scores[:, 7] = NAN
    first = stratified_bootstrap(scores, statistic, resamples=300)
    assert first.low is not None
    for _ in range(5):
        mixed = rng.permuted(scores, axis=0)[:, rng.permutation(9)]
        assert stratified_bootstrap(mixed, statistic, resamples=300) == first
    padded = np.concatenate([scores, np.full((3, 9), NAN)])
    assert stratified_bootstrap(padded, statistic, resamples=300) == first


def test_equal_seeds_give_equal_intervals_and_others_do_not() -> None:
    scores = normal(5, 26)
    first = stratified_bootstrap(scores, iqm, seed=3)
    np.random.default_rng(0).normal()
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    assert stratified_bootstrap(scores, iqm, seed=3) == first
    other = stratified_bootstrap(scores, iqm, seed=4)
    assert other.value == first.value
    assert other.low != first.low
    assert other.low == pytest.approx(first.low, abs=0.05)


def test_parts_that_fit_into_memory_do_not_change_the_distribution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = normal(10, 4)
    whole = stratified_bootstrap(scores, mean, resamples=5001)
    monkeypatch.setattr(statistics, "CHUNK", 1000)
    sizes = list(statistics._chunks(5001, 40))
    assert sum(sizes) == 5001
    assert max(sizes) == 25
    parts = stratified_bootstrap(scores, mean, resamples=5001)
    assert parts.low == pytest.approx(whole.low, abs=0.03)
    assert parts.high == pytest.approx(whole.high, abs=0.03)


def test_a_target_can_be_bound() -> None:
    found = stratified_bootstrap(
        column(20.0, 80.0, 120.0), functools.partial(optimality_gap, target=100.0)
    )
    assert found.value == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("scores", "options"),
    [
        (np.zeros(3), {}),
        (np.zeros((2, 2, 2)), {}),
        (column(1.0, math.inf), {}),
        (column(1.0, 2.0), {"resamples": 0}),
        (column(1.0, 2.0), {"level": 1.0}),
        (column(1.0, 2.0), {"level": NAN}),
    ],
)
def test_what_makes_no_sense_is_refused(scores: np.ndarray, options: dict[str, float]) -> None:
    with pytest.raises(RefusedError):
        stratified_bootstrap(scores, mean, **options)


# ------------------------------------------------------------------------------- comparisons


def test_probability_of_improvement_counts_pairs_and_ties() -> None:
    # Task 1: 1 beats 0, ties 1; 3 beats both: 3.5 of 4. Task 2: one tie.
    x, y = np.array([[1.0, 5.0], [3.0, NAN]]), np.array([[0.0, 5.0], [1.0, NAN]])
    found = probability_of_improvement(x, y)
    assert found.value == pytest.approx((3.5 / 4 + 0.5) / 2)
    assert (found.n, found.fewest) == (6, 1)
    assert probability_of_improvement(y, x).value == pytest.approx(1 - found.value)


def test_probability_of_improvement_of_equal_and_separate_scores() -> None:
    same = probability_of_improvement(np.ones((4, 3)), np.ones((5, 3)))
    assert (same.value, same.low, same.high, same.n) == (0.5, 0.5, 0.5, 27)
    sure = probability_of_improvement(normal(5, 3) + 100, normal(7, 3))
    assert (sure.value, sure.low, sure.high) == (1.0, 1.0, 1.0)


def test_probability_of_improvement_needs_two_runs_of_both() -> None:
    found = probability_of_improvement(column(1.0), column(0.0, 2.0))
    assert found == Estimate(0.5, None, None, 3, 1)
    only_x = probability_of_improvement(np.array([[1.0, 2.0]]), np.array([[0.0, NAN]]))
    assert only_x == Estimate(1.0, None, None, 2, 1)
    nothing = probability_of_improvement(column(1.0), column(NAN))
    assert math.isnan(nothing.value)
    assert nothing.n == 0
    with pytest.raises(RefusedError, match="tasks"):
        probability_of_improvement(np.ones((2, 2)), np.ones((2, 3)))


def test_probability_of_improvement_of_shifted_normals_and_its_order() -> None:
    # P(X > Y) of two normals with unit variance and distance d is Phi(d / sqrt 2).
    x, y = normal(60, 4, 1) + 1.0, normal(50, 4, 2)
    x[40:, 1] = NAN
    found = probability_of_improvement(x, y, resamples=200)
    expected = 0.5 * (1 + math.erf(0.5))
    assert found.value == pytest.approx(expected, abs=0.05)
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected < found.high
    rng = np.random.default_rng(0)
    order = rng.permutation(4)
    mixed = [rng.permuted(scores, axis=0)[:, order] for scores in (x, y)]
    assert probability_of_improvement(*mixed, resamples=200) == found


def test_performance_profile_by_hand() -> None:
    scores = np.array([[0.0, 1.0], [1.0, NAN], [2.0, NAN], [3.0, NAN]])
    band = performance_profile(scores, [-1.0, 0.0, 1.0, 2.5, 3.0])
    np.testing.assert_allclose(band.values, [1.0, (0.75 + 1) / 2, 0.25, 0.125, 0.0])
    values, low, high = band
    assert low is not None
    assert high is not None
    assert ((low <= values) & (values <= high)).all()
    assert low[0] == high[0] == 1.0
    assert low[2] < high[2]


def test_performance_profile_without_enough_runs() -> None:
    band = performance_profile(np.array([[0.5, 0.7]]), [0.6])
    assert (band.values.tolist(), band.low, band.high) == ([0.5], None, None)
    band = performance_profile(np.full((2, 2), NAN), [0.0, 1.0])
    assert np.isnan(band.values).tolist() == [True, True]
    assert band.low is None


# ------------------------------------------------------------------------------- curves


def test_curves_of_other_steps_are_interpolated_and_never_continued() -> None:
    curves = [[[(0, 0.0), (100, 10.0)], [(10, 2.0), (50, 10.0), (90, 2.0)]]]
    values, low, high = sample_efficiency(curves, [0, 10, 30, 90, 100, 200], mean)
    np.testing.assert_allclose(values, [NAN, 1.5, 4.5, 5.5, NAN, NAN])
    assert low is not None
    assert high is not None
    np.testing.assert_array_equal(np.isnan(low), np.isnan(values))
    np.testing.assert_allclose([low[1], high[1]], [1.0, 2.0])
    assert common_steps(curves).tolist() == [10, 50, 90]


def test_curves_pass_over_what_is_not_finite_and_out_of_order() -> None:
    curves = [[[(100, 10.0), (50, NAN), (0, 0.0)], [], [(20, math.inf)]]]
    band = sample_efficiency(curves, [0, 50, 100], mean)
    np.testing.assert_allclose(band.values, [0.0, 5.0, 10.0])
    assert band.low is None  # one run


def test_curves_that_never_overlap_and_no_curves() -> None:
    apart = [[[(0, 1.0), (10, 1.0)], [(20, 2.0), (30, 2.0)]]]
    assert np.isnan(sample_efficiency(apart, [5, 15, 25]).values).all()
    assert common_steps(apart).tolist() == []
    assert np.isnan(sample_efficiency([[], []], [1]).values).all()
    assert common_steps([]).tolist() == []


def test_a_curve_agrees_with_the_scores_at_each_of_its_steps() -> None:
    scores = normal(5, 4)
    curves = [
        [[(0, 0.0), (10, value), (20, -value)] for value in scores[:, task]] for task in range(4)
    ]
    band = sample_efficiency(curves, [0, 10, 20], iqm, seed=5, resamples=3000)
    point = stratified_bootstrap(scores, iqm, seed=6, resamples=3000)
    assert band.low is not None
    assert band.high is not None
    assert band.values[1] == pytest.approx(point.value)
    assert band.low[1] == pytest.approx(point.low, abs=0.06)
    assert band.high[1] == pytest.approx(point.high, abs=0.06)
    assert band.low[0] == band.values[0] == band.high[0] == 0.0
    mixed = [task[::-1] for task in curves[::-1]]
    again = sample_efficiency(mixed, [0, 10, 20], iqm, seed=5, resamples=3000)
    for left, right in zip(band, again, strict=True):
        np.testing.assert_array_equal(left, right)
