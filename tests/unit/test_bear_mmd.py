"""The MMD against closed forms (paper page, section 8, items 1 to 3)."""

import math

import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st

from rlzoo.agents.bear.mmd import (
    FLOOR,
    kernel_minus_one,
    median_sigma,
    mmd,
    mmd_floor,
    mmd_squared,
    pairwise_distances,
)

TOLERANCE = 1e-7


def points(*rows):
    return th.tensor([rows], dtype=th.float64)


@pytest.mark.parametrize("n", [2, 4, 7])
@pytest.mark.parametrize(
    ("kernel", "sigma", "squared", "loss"),
    [
        ("laplacian", 20.0, 0.0493801759, 0.2222187570),
        ("laplacian", 10.0, 0.0975411510, 0.3123173882),
        ("gaussian", 20.0, 0.0493801759, 0.2222187570),
    ],
)
def test_two_piles_one_apart(kernel, sigma, squared, loss, n):
    x, u = points(*[[0.0]] * n), points(*[[1.0]] * n)
    assert mmd_squared(kernel_minus_one(x, u, sigma, kernel)).item() == pytest.approx(
        squared, abs=TOLERANCE
    )
    assert squared == pytest.approx(2 * (1 - math.exp(-1 / (2 * sigma))), abs=TOLERANCE)
    assert mmd(x, u, sigma, kernel).item() == pytest.approx(loss, abs=TOLERANCE)


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_identical_sets_give_the_floor_of_the_square_root(kernel):
    x = th.randn(5, 4, 3, dtype=th.float64, generator=th.Generator().manual_seed(0))
    assert mmd(x, x.clone(), 20.0, kernel) == pytest.approx(1e-3, abs=1e-10)


HAND_X = points([0.0, 0.0], [1.0, 0.0], [0.0, 2.0])
HAND_U = points([1.0, 1.0], [-1.0, 0.0], [0.5, -0.5])


@pytest.mark.parametrize(
    ("kernel", "sigma", "loss"),
    [
        ("laplacian", 10.0, 0.1803183768),
        ("laplacian", 20.0, 0.1283006573),
        ("gaussian", 20.0, 0.1139074439),
        ("gaussian", 10.0, 0.1561677517),
    ],
)
def test_three_points_by_hand(kernel, sigma, loss):
    assert mmd(HAND_X, HAND_U, sigma, kernel).item() == pytest.approx(loss, abs=TOLERANCE)


def double_sum(x, u, sigma, kernel, estimator):
    """The definition, written as loops over pairs."""

    def k(a, b):
        d = a - b
        distance = d.abs().sum() if kernel == "laplacian" else (d * d).sum()
        return math.exp(-float(distance) / (2 * sigma))

    def mean(a, b, skip):
        values = [
            k(p, q) for i, p in enumerate(a) for j, q in enumerate(b) if not (skip and i == j)
        ]
        return sum(values) / len(values)

    skip = estimator == "u"
    return mean(x, x, skip) + mean(u, u, skip) - 2 * mean(x, u, False)


@pytest.mark.parametrize("estimator", ["v", "u"])
@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_estimators_equal_their_definition(kernel, estimator):
    generator = th.Generator().manual_seed(3)
    x = th.randn(6, 4, 3, dtype=th.float64, generator=generator)
    u = th.randn(6, 4, 3, dtype=th.float64, generator=generator) + 0.5
    got = mmd_squared(kernel_minus_one(x, u, 0.7, kernel), estimator)
    expected = [double_sum(x[b], u[b], 0.7, kernel, estimator) for b in range(6)]
    assert got.tolist() == pytest.approx(expected, abs=1e-12)


def test_u_estimator_is_unbiased_and_may_be_negative():
    generator = th.Generator().manual_seed(0)
    x, u = (0.3 * th.randn(50_000, 4, 3, generator=generator) for _ in range(2))
    squared = mmd(x, u, 20.0, "laplacian", "u")
    standard_error = squared.std().item() / math.sqrt(len(squared))
    assert abs(squared.mean().item()) < 4 * standard_error
    assert (squared < 0).float().mean() > 0.2


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(2, 6),
    d=st.integers(1, 4),
    kernel=st.sampled_from(["laplacian", "gaussian"]),
    estimator=st.sampled_from(["v", "u"]),
)
def test_symmetric_and_invariant_to_order_and_place(seed, n, d, kernel, estimator):
    generator = th.Generator().manual_seed(seed)
    x = th.randn(3, n, d, dtype=th.float64, generator=generator)
    u = 2 * th.randn(3, n, d, dtype=th.float64, generator=generator)
    value = mmd(x, u, 10.0, kernel, estimator)
    order = th.randperm(n, generator=generator)
    shift = th.randn(d, dtype=th.float64, generator=generator)
    for other in (
        mmd(u, x, 10.0, kernel, estimator),
        mmd(x[:, order], u, 10.0, kernel, estimator),
        mmd(x + shift, u + shift, 10.0, kernel, estimator),
    ):
        assert th.allclose(other, value, atol=1e-9)
    if estimator == "v":
        assert (value >= math.sqrt(FLOOR) - 1e-12).all()


@pytest.mark.parametrize(("kernel", "expected"), [("gaussian", 6.675e-3), ("laplacian", 1.250e-2)])
def test_expected_value_for_equal_distributions(kernel, expected):
    generator = th.Generator().manual_seed(0)
    x, u = (0.3 * th.randn(50_000, 4, 3, generator=generator) for _ in range(2))
    mean = mmd_squared(kernel_minus_one(x, u, 20.0, kernel)).mean().item()
    assert mean == pytest.approx(expected, rel=0.02)
    floor = mmd_floor(x, 20.0, kernel).item()
    assert floor == pytest.approx(math.sqrt(expected + FLOOR), rel=0.01)


def test_gaussian_floor_formula():
    n, d, sd, sigma = 4, 3, 0.3, 20.0
    closed = (2 / n) * (1 - (1 + 2 * sd**2 / sigma) ** (-d / 2))
    assert closed == pytest.approx(6.675e-3, rel=1e-3)


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_wide_kernels_compare_means_or_energy_distances(kernel):
    generator = th.Generator().manual_seed(1)
    x, u = (0.3 * th.randn(2000, 4, 3, generator=generator, dtype=th.float64) for _ in range(2))
    u = u + 0.5 * th.randn(2000, 1, 3, generator=generator, dtype=th.float64)
    got = mmd_squared(kernel_minus_one(x, u, 20.0, kernel))
    if kernel == "gaussian":
        limit = (x.mean(1) - u.mean(1)).square().sum(-1) / 20.0
    else:
        between = th.cdist(x, u, p=1).mean((1, 2))
        within = th.cdist(x, x, p=1).mean((1, 2)) + th.cdist(u, u, p=1).mean((1, 2))
        limit = (2 * between - within) / 40.0
    assert th.corrcoef(th.stack([got, limit]))[0, 1] > 0.999
    ratio = (got.sum() / limit.sum()).item()
    assert 0.95 <= ratio <= 1.0


def test_expm1_keeps_digits_that_exp_loses_in_single_precision():
    # Two states whose sets are 1e-3 apart: k differs from 1 by 2.5e-5, MMD^2 is about 5e-8 large.
    x, u = th.zeros(1, 4, 1), th.full((1, 4, 1), 1e-3)
    single = mmd_squared(kernel_minus_one(x, u, 20.0, "laplacian")).item()
    assert single == pytest.approx(2 * -math.expm1(-1e-3 / 40), rel=1e-5)


@pytest.mark.parametrize("estimator", ["v", "u"])
def test_gradient_is_finite_where_all_samples_coincide(estimator):
    x = th.zeros(2, 4, 3)
    u = th.zeros(2, 4, 3, requires_grad=True)
    mmd(x, u, 20.0, "laplacian", estimator).mean().backward()
    assert u.grad.isfinite().all()


def test_median_sigma_gives_the_median_pair_a_similarity_of_one_over_e():
    generator = th.Generator().manual_seed(0)
    x, u = (th.randn(30, 4, 2, generator=generator, dtype=th.float64) for _ in range(2))
    distances = pairwise_distances(th.cat([x, u], 1), "laplacian")
    rows, columns = th.triu_indices(8, 8, offset=1)
    median = distances[:, rows, columns].median()
    assert th.exp(-median / (2 * median_sigma(distances))).item() == pytest.approx(math.exp(-1))
    # The width follows the scale of the data, so the MMD does not.
    assert th.allclose(mmd(x, u, "median"), mmd(7 * x, 7 * u, "median"))


def test_median_sigma_gets_no_gradient():
    x, u = th.randn(4, 4, 2), th.randn(4, 4, 2, requires_grad=True)
    distances = pairwise_distances(th.cat([x, u.detach()], 1), "gaussian")
    fixed = mmd(x, u, float(median_sigma(distances)), "gaussian").sum()
    expected = th.autograd.grad(fixed, u)[0]
    got = th.autograd.grad(mmd(x, u, "median", "gaussian").sum(), u)[0]
    assert th.allclose(got, expected, rtol=1e-4, atol=1e-7)
