"""CMA-ES by the ``cma`` package (extra ``cma``), with its state as one tensor.

Covariance matrices grow with the square of the number of parameters: about 2 s per generation and
17 MB of state for the 1,033 of the cart-pole. For policies of some hundred parameters it is the
fastest of the three.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray

from rlzoo.agents.observational_dropout.shaping import weight_penalty
from rlzoo.agents.observational_dropout.strategies import Settings, Strategy
from rlzoo.errors import RefusedError

_COUNTERS = ("countiter", "sm.count_tell", "sm.last_update", "sm.count_eigen")


class _Normal:
    """Normal numbers for ``cma`` from the generator of the day."""

    rng: np.random.Generator

    def __call__(self, *shape: int) -> NDArray[np.float64]:
        return self.rng.standard_normal(shape)


class CMA(Strategy):
    """``state`` holds what ``cma`` goes on from: begun, counters, sigma, mean, paths, matrices.

    A run that goes on from it is the same to the bit as one that was never interrupted. Unlike the
    published code, large weights are penalised, not rewarded.

    Raises:
        RefusedError: If the package is missing.
    """

    gives_gradient = False

    def __init__(self, settings: Settings, device: th.device) -> None:
        try:
            cma: Any = import_module("cma")
        except ImportError as error:
            raise RefusedError(
                "optimizer='cma' needs the package 'cma', which is not installed.",
                "Without it: pepg, openes.",
                'Install it with: pip install "rlzoo[cma]"',
            ) from error
        self._make, self._timer = cma.CMAEvolutionStrategy, cma.utilities.utils.ElapsedWCTime
        self.settings, n = settings, settings.n_parameters
        # In double precision on the CPU, where cma works; 0 in front: nothing has happened yet.
        self.state = th.zeros(2 + len(_COUNTERS) + 4 * n + 2 * n * n, dtype=th.float64)
        self.state[1] = settings.sigma_init
        self._normal = _Normal()
        self._search: Any = None
        self._written: th.Tensor | None = None

    def sample(self, mean: th.Tensor, rng: np.random.Generator) -> th.Tensor:
        """Draw candidates; the first ones around the mean that is given, later ones around its own.

        A mean that was changed from outside is adopted.
        """
        # Someone may have put a saved state in place; cma's own objects follow.
        if self._written is None or not th.equal(self._written, self.state):
            self._revive(mean)
        if not np.array_equal(self._search.mean.astype(np.float32), mean.cpu().numpy()):
            self._search.mean = mean.cpu().double().numpy()
        self._normal.rng = rng
        self._asked = np.stack(self._search.ask())
        return th.from_numpy(self._asked.astype(np.float32)).to(mean.device)

    def update(self, mean: th.Tensor, candidates: th.Tensor, fitness: th.Tensor) -> th.Tensor:
        """Return the new mean, cma's favourite."""
        merit = fitness - weight_penalty(candidates, self.settings.weight_decay)
        merit = merit.double().nan_to_num(nan=-1e300, posinf=1e300, neginf=-1e300)
        self._search.tell(list(self._asked), (-merit).tolist())
        self._write()
        favourite = self._search.mean.astype(np.float32)
        return th.from_numpy(favourite).to(mean.device)

    @property
    def spread(self) -> float:
        """Sigma times the root of the mean variance."""
        n = self.settings.n_parameters
        if not self.state[0]:
            return self.settings.sigma_init
        matrix = self.state[-2 * n * n : -n * n].view(n, n)
        return float(self.state[1] * matrix.diagonal().mean().sqrt())

    def _parts(self) -> list[th.Tensor]:
        """Return views of mean, two paths, axis lengths, covariance and axes."""
        n = self.settings.n_parameters
        vectors = self.state[2 + len(_COUNTERS) :]
        sizes = [n, n, n, n, n * n, n * n]
        return list(th.split(vectors, sizes))

    def _write(self) -> None:
        search = self._search
        # BLAS rounds differently for other layouts: they are to be the same after a restart.
        search.sm.C, search.sm.B = map(np.ascontiguousarray, (search.sm.C, search.sm.B))
        self.state[0], self.state[1] = 1, float(search.sigma)
        for place, name in enumerate(_COUNTERS, 2):
            self.state[place] = _read(search, name)
        values = (
            search.mean, search.pc, search.adapt_sigma.ps, search.sm.D, search.sm.C, search.sm.B
        )  # fmt: skip
        for part, value in zip(self._parts(), values, strict=True):
            part.copy_(th.from_numpy(value).flatten())
        self._written = self.state.clone()

    def _revive(self, mean: th.Tensor) -> None:
        """Make cma's search anew, as it was when :meth:`_write` was called."""
        n, options = self.settings.n_parameters, {
            "popsize": self.settings.pop_size, "randn": self._normal, "seed": np.nan,
            "verbose": -9, "maxiter": np.inf,
        }  # fmt: skip
        search = self._make(mean.cpu().double().numpy(), self.settings.sigma_init, options)
        self._search, self._written = search, self.state.clone()
        if not self.state[0]:
            return
        values = [part.clone().numpy() for part in self._parts()]
        # The covariance is set before the first tell, when cma initialises its step-size control.
        search.adapt_sigma.initialize(search)
        search.sigma = np.float64(self.state[1])
        search.mean, search.pc, search.adapt_sigma.ps, search.sm.D = values[:4]
        search.sm.C, search.sm.B = (value.reshape(n, n) for value in values[4:])
        for place, name in enumerate(_COUNTERS, 2):
            _set(search, name, int(self.state[place]))
        search.adapt_sigma._ps_updated_iteration = search.countiter
        search.itereigenupdated = search.countiter
        # What the first ask and tell would have made.
        search.timer, search.mean_old = self._timer(), search.mean


def _read(owner: Any, name: str) -> float:
    for part in name.split("."):
        owner = getattr(owner, part)
    return float(owner)


def _set(owner: Any, name: str, value: int) -> None:
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, last, value)
