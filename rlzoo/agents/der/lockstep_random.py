"""Random numbers of several agents, each from generators of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch as th

from rlzoo.core.seeding import stream

BLOCK = 64
"""Calls for which numbers are drawn at once: one kernel for each agent, instead of one per call."""

Draw = Callable[..., th.Tensor]


def noise(*size: int, generator: th.Generator, device: th.device) -> th.Tensor:
    """Draw what :func:`rlzoo.agents.der.noisy.factor` draws."""
    u = th.randn(*size, generator=generator, device=device)
    return u.abs().sqrt_().copysign_(u)


def uniform(*size: int, generator: th.Generator, device: th.device) -> th.Tensor:
    """Draw from [0, 1), float64."""
    return th.rand(*size, generator=generator, device=device, dtype=th.float64)


class Drawn:
    """Numbers of one kind for ``S`` agents, in a tensor that keeps its place, for a graph.

    What an agent gets depends on its seed and on how many it needs, not on the others.

    Args:
        seeds: One for each agent.
        name: Of the stream.
        draw: :func:`noise` or :func:`uniform`.
        places: For each agent, where its numbers go in a row of ``width``; the rest stays 0.
        width: Length of a row.
        device: Where they are drawn.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        name: str,
        draw: Draw,
        places: Sequence[th.Tensor],
        width: int,
        device: th.device,
    ) -> None:
        self._draw, self._places, self._device = draw, [p.to(device) for p in places], device
        self._generators = [
            th.Generator(device).manual_seed(stream(seed, "lock-step", name)) for seed in seeds
        ]
        dtype = draw(0, generator=self._generators[0], device=device).dtype
        self._block = th.zeros(BLOCK, len(seeds), width, dtype=dtype, device=device)
        self._used = BLOCK
        self.value = th.zeros(len(seeds), width, dtype=dtype, device=device)
        """The last numbers, ``[S, width]``."""

    def advance(self) -> th.Tensor:
        """Go on to the next numbers, and return them."""
        if self._used == BLOCK:
            for i, (generator, at) in enumerate(zip(self._generators, self._places, strict=True)):
                drawn = self._draw(BLOCK, len(at), generator=generator, device=self._device)
                self._block[:, i].index_copy_(1, at, drawn)
            self._used = 0
        self.value.copy_(self._block[self._used])
        self._used += 1
        return self.value
