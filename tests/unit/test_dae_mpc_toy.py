"""The exploitation toy of the paper page, section 8: a planner finds where its model is wrong.

State (x, y) from 0, actions within +-0.2, reward x of the next state, eight steps. In truth nothing
moves once |y| > 0.3; in the model x is thrown forward there. The denoiser is the exact one of data
with |y| < 0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from dae_mpc_testing import KnownDynamics, generator, task_of

from rlzoo.agents.dae_mpc import objective as objective_module
from rlzoo.agents.dae_mpc.denoiser import ParzenDenoiser, plan_windows
from rlzoo.agents.dae_mpc.normalizer import Normalizer
from rlzoo.agents.dae_mpc.objective import Objective
from rlzoo.agents.dae_mpc.planners import PlannerSettings, draw_noise, plan

HORIZON, SIGMA, REACH, SEEDS = 8, 0.2, 0.2, range(5)
LOW, HIGH = th.full((2,), -REACH), th.full((2,), REACH)
PLANNERS = {
    # Variance 0.01 and step 0.02 are in units of the environment: a fifth of the range is 1 here.
    "cem": PlannerSettings("cem", n_candidates=200, n_elites=20, n_iters=5, variance=0.25),
    "adam": PlannerSettings("adam", n_restarts=32, lr=0.02 / REACH, n_iters=50),
}


def believed(state: th.Tensor, scaled: th.Tensor) -> th.Tensor:
    moved = state + REACH * scaled
    boost = 3 * (moved[..., 1].abs() - 0.3).relu()
    return th.stack((moved[..., 0] + boost, moved[..., 1]), -1)


def true_return(actions: th.Tensor) -> float:
    state, total = th.zeros(2), 0.0
    for action in REACH * actions:
        if state[1].abs() <= 0.3:
            state = state + action
        total += state[0].item()
    return total


def data(seed: int) -> th.Tensor:
    draws = generator(seed)
    uniform = th.rand(400, 4, generator=draws)
    x, y = uniform[:, :1], 0.2 * uniform[:, 1:2] - 0.1
    return th.cat((x, y, 2 * uniform[:, 2:] - 1), -1)


def objective_of(alpha: float, seed: int) -> Objective:
    rows, normalizer = data(seed), Normalizer(4)
    normalizer.measure(rows)
    task = task_of(lambda o, a, following: following[..., 0])
    return Objective(
        KnownDynamics(believed, normalizer), task, LOW, HIGH, alpha,
        ParzenDenoiser(normalizer.normalize(rows), SIGMA),
    )  # fmt: skip


def play(name: str, alpha: float, make: Callable[[float, int], Objective] = objective_of) -> Any:
    """Return the imagined and the true return, means of all seeds."""
    settings, pairs = PLANNERS[name], []
    for seed in SEEDS:
        objective, start = make(alpha, seed), th.zeros(1, 2)
        previous = th.zeros(HORIZON, 1, 2)
        noise = draw_noise(settings, HORIZON, generator(100 + seed), previous)
        found = plan(
            lambda u, o=objective: o(th.zeros(1, 2), u).objective, previous, noise, settings
        )
        imagined = objective(start, found.unsqueeze(2)).returns.item()
        pairs.append((imagined, true_return(found[:, 0])))
    return tuple(sum(values) / len(pairs) for values in zip(*pairs, strict=True))


def solved(name: str, result: tuple[float, float]) -> bool:
    imagined, real = result
    return abs(imagined - real) < 0.05 and real >= {"cem": 5.0, "adam": 7.0}[name]


@pytest.mark.parametrize("name", PLANNERS)
def test_without_the_penalty_the_model_is_exploited(name: str) -> None:
    imagined, real = play(name, 0.0)
    assert imagined - real > 8


@pytest.mark.parametrize("name", PLANNERS)
def test_with_the_penalty_the_plan_does_what_it_promises(name: str) -> None:
    assert solved(name, play(name, 0.1))


# Measured for the paper page; CEM and Adam, the same imagined as real.
TABLE = {1.0: {"cem": 4.49, "adam": 5.94}, 10.0: {"cem": 2.75, "adam": 4.37}}


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("alpha", TABLE)
def test_more_penalty_stays_nearer_to_the_data(name: str, alpha: float) -> None:
    imagined, real = play(name, alpha)
    assert imagined == pytest.approx(real, abs=0.05)
    assert imagined == pytest.approx(TABLE[alpha][name], rel=0.1)


# ------------------------------------------------------------------ broken variants


class Added(Objective):
    """The penalty is added instead of subtracted."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        score = super().__call__(*args, **kwargs)
        return score._replace(objective=score.returns + self.alpha * score.penalties)


def in_raw_units(alpha: float, seed: int) -> Objective:
    objective = objective_of(alpha, seed)
    objective.dynamics.normalizer = None  # type: ignore[attr-defined]
    objective.denoiser = ParzenDenoiser(data(seed), SIGMA)
    return objective


def added(alpha: float, seed: int) -> Objective:
    objective = objective_of(alpha, seed)
    return Added(**vars(objective))


@pytest.fixture
def only_the_first_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        objective_module, "plan_windows", lambda pairs, window: plan_windows(pairs, window)[:1]
    )


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("make", [in_raw_units, added], ids=["raw units", "sign flipped"])
def test_broken_penalties_are_noticed(name: str, make: Callable[[float, int], Objective]) -> None:
    assert not solved(name, play(name, 0.1, make))


@pytest.mark.parametrize("name", PLANNERS)
def test_missing_windows_are_noticed(name: str, only_the_first_window: None) -> None:
    assert not solved(name, play(name, 0.1))
