"""PEPG, OpenES and CMA-ES on what can be computed by hand (paper page, 2.4; tests 7, 8, 9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo.agents.observational_dropout.pepg import PEPG
from rlzoo.agents.observational_dropout.shaping import centred_ranks, weight_penalty
from rlzoo.agents.observational_dropout.strategies import Settings, Strategy, make_strategy
from rlzoo.errors import RefusedError

CPU = th.device("cpu")
Fitness = Callable[[th.Tensor], th.Tensor]


def make(name: Any, n: int, pop: int, sigma: float = 0.1, decay: float = 0.005) -> Strategy:
    return make_strategy(name, Settings(n, pop, sigma, 0.999, 0.02, 0.2, 0.2, decay), CPU)


def evolve(
    search: Strategy,
    fitness: Fitness,
    mean: th.Tensor,
    generations: int,
    lr: float = 0.01,
    rng: np.random.Generator | None = None,
) -> th.Tensor:
    """Run the outer loop without episodes; return the last mean."""
    rng = rng or np.random.default_rng(0)
    mean = mean.clone()
    adam = th.optim.Adam([mean], lr, (0.99, 0.999), maximize=True)
    for _ in range(generations):
        candidates = search.sample(mean, rng)
        found = search.update(mean, candidates, fitness(candidates))
        if search.gives_gradient:
            mean.grad = found
            adam.step()
        else:
            mean.copy_(found)
    return mean


def bowl(candidates: th.Tensor) -> th.Tensor:
    return -(candidates - 0.5).square().sum(-1)


def flat(candidates: th.Tensor) -> th.Tensor:
    return th.zeros(len(candidates))


# ----------------------------------------------------------------------- ranks


def test_ranks() -> None:
    assert centred_ranks(th.tensor([3.0, 1, 2])).tolist() == [0.5, -0.5, 0]


def test_ties_share_the_mean_of_their_ranks() -> None:
    assert centred_ranks(th.tensor([1.0, 5, 1, 7, 5])).tolist() == [
        -0.375,
        0.125,
        -0.375,
        0.5,
        0.125,
    ]
    assert centred_ranks(th.zeros(8)).tolist() == [0] * 8


def test_nan_is_the_worst() -> None:
    assert centred_ranks(th.tensor([2.0, th.nan, -1e30])).tolist() == [0.5, -0.5, 0]


def test_penalty() -> None:
    assert weight_penalty(th.tensor([[1.0, 3], [0, 2]]), 0.1).tolist() == pytest.approx([0.5, 0.2])


# ------------------------------------------------------------------------ PEPG


@pytest.mark.parametrize("name", ["pepg", "openes"])
def test_candidates_are_mirrored(name: str) -> None:
    mean = th.arange(5.0)
    first, second = make(name, 5, 4000).sample(mean, np.random.default_rng(0)).chunk(2)
    th.testing.assert_close((first + second) / 2, mean.expand(2000, 5), atol=1e-5, rtol=0)
    th.testing.assert_close(first.std(0), th.full((5,), 0.1), atol=0.01, rtol=0)


def test_one_update_by_hand() -> None:
    search = PEPG(Settings(2, 4, 0.1, 0.999, 0.02, 0.2, 0.2, 0.0), CPU)
    eps = th.tensor([[0.1, 0.2], [0.3, -0.1]])
    candidates = th.cat([eps, -eps])  # the mean is 0
    # Ranks 3, 1, 0, 2 of 3: R = (0.5, -1/6, -0.5, 1/6).
    gradient = search.update(th.zeros(2), candidates, th.tensor([9.0, 2, 1, 5]))
    th.testing.assert_close(gradient, 1.0 * eps[0] - 1 / 3 * eps[1])
    # Merits are zero here, so that only the decay is left.
    th.testing.assert_close(search.state, th.full((2,), 0.0999))

    search.state.fill_(0.1)
    search.update(th.zeros(2), candidates, th.tensor([9.0, 2, 5, 1]))  # R = (.5, -1/6, 1/6, -.5)
    merit = th.tensor([1 / 3, -1 / 3])
    slope = (eps.square() - 0.01) / 0.1
    change = 0.2 * (merit[0] * slope[0] + merit[1] * slope[1]) / 4
    assert change.abs().max() < 0.02
    th.testing.assert_close(search.state, (0.1 + change) * 0.999)


def test_a_deviation_changes_by_a_fifth_at_most() -> None:
    search = PEPG(Settings(1, 2, 0.1, 1.0, 0.02, 1e6, 0.2, 0.005), CPU)
    search.update(th.zeros(1), th.tensor([[5.0], [-5.0]]), th.tensor([1.0, 0.0]))
    assert float(search.state) == pytest.approx(0.1)  # one pair has no merit over itself
    other = PEPG(Settings(1, 4, 0.1, 1.0, 0.02, 1e6, 0.2, 0.0), CPU)
    wide = th.tensor([[0.5], [0.05], [-0.5], [-0.05]])
    other.update(th.zeros(1), wide, th.tensor([4.0, 1, 3, 2]))
    assert float(other.state) == pytest.approx(0.12)


def test_decay_stops_at_the_limit() -> None:
    search = make("pepg", 3, 4, decay=0.0)
    search.state.copy_(th.tensor([0.1, 0.02, 0.015]))
    search.update(
        th.zeros(3), search.sample(th.zeros(3), np.random.default_rng(0)), flat(th.zeros(4))
    )
    assert search.state.tolist() == pytest.approx([0.0999, 0.02, 0.015])


def test_a_flat_landscape_moves_nothing() -> None:
    for name in ("pepg", "openes"):
        search = make(name, 6, 8, decay=0.0)
        before = float(search.state[0])
        mean = evolve(search, flat, th.ones(6), 1)
        assert mean.tolist() == [1] * 6, name
        assert search.state.tolist() == pytest.approx([before * 0.999] * len(search.state)), name


@pytest.mark.parametrize(
    ("n", "pop", "first", "last", "spread"), [(10, 32, -2.5, -0.05, 0.06), (50, 64, -12.5, -0.5, 1)]
)
def test_pepg_climbs_a_bowl(n: int, pop: int, first: float, last: float, spread: float) -> None:
    """A wrong sign of the gradient gives -42; one of the slope of sigma a spread of 0.44."""
    search = make("pepg", n, pop)
    assert float(bowl(th.zeros(1, n))) == pytest.approx(first)
    mean = evolve(search, bowl, th.zeros(n), 200)
    assert float(bowl(mean[None])) > last
    assert search.spread < spread


def test_openes_climbs_a_bowl() -> None:
    search = make("openes", 10, 32)
    assert float(bowl(evolve(search, bowl, th.zeros(10), 200)[None])) > -0.1
    assert search.spread == pytest.approx(0.1 * 0.999**200, rel=1e-4)


# ------------------------------------------------------------------------- CMA


def test_cma_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "cma", None)
    with pytest.raises(RefusedError, match="pip install"):
        make("cma", 3, 4)


def test_cma_climbs_a_bowl() -> None:
    pytest.importorskip("cma")
    search = make("cma", 10, 16, sigma=0.5, decay=0.0)
    assert float(bowl(evolve(search, bowl, th.zeros(10), 120)[None])) > -1e-4
    assert search.spread < 0.05


@pytest.mark.parametrize(("n", "sigma"), [(7, 0.5), (7, 0.001), (80, 0.5)])
def test_cma_goes_on_from_its_state_to_the_bit(n: int, sigma: float) -> None:
    """Of a small sigma the number of the iteration counts, of many parameters the last update."""
    pytest.importorskip("cma")
    fitness, whole = bowl, make("cma", n, 8, sigma=sigma)
    generators = [np.random.default_rng(g) for g in range(40)]
    means, states = [th.zeros(n)], [whole.state.clone()]
    for rng in generators:
        means.append(evolve(whole, fitness, means[-1], 1, rng=rng))
        states.append(whole.state.clone())
    for cut in (0, 1, 2, 4, 7, 13, 25):
        other, mean = make("cma", n, 8, sigma=sigma), means[cut]
        other.state.copy_(states[cut])
        for g in range(cut, 40):
            mean = evolve(other, fitness, mean, 1, rng=np.random.default_rng(g))
        assert th.equal(mean, means[-1]), cut
        assert th.equal(other.state, states[-1]), cut


def test_cma_adopts_a_mean_that_was_set() -> None:
    pytest.importorskip("cma")
    search, rng = make("cma", 4, 200, sigma=0.1), np.random.default_rng(0)
    evolve(search, bowl, th.zeros(4), 2, rng=rng)
    found = search.sample(th.full((4,), 9.0), rng)
    th.testing.assert_close(found.mean(0), th.full((4,), 9.0), atol=0.1, rtol=0)


# ---------------------------------------------------------------- weight decay


@pytest.mark.parametrize("name", ["pepg", "openes", "cma"])
def test_weight_decay_shrinks_the_mean(name: str) -> None:
    """The published CMA-ES had the sign wrong and rewarded large weights."""
    if name == "cma":
        pytest.importorskip("cma")
    mean = evolve(make(name, 8, 32), flat, th.full((8,), 0.5), 60)
    assert float(mean.norm()) < 0.8 * float(th.full((8,), 0.5).norm())
