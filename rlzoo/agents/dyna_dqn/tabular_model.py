"""A model that counts: ``n(s, a, s')`` forward, ``n(s', s, a)`` backward, of numbered states.

It is never wrong about what it has seen. In a deterministic environment the forward direction gives
back the stored outcome, bit by bit, so that planning with it *is* replay (paper page, section 2.1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import cast

import torch as th
from torch import nn
from torch.nn import functional as F  # noqa: N812

from rlzoo.agents.dyna_dqn.transitions import Prediction

_COLUMNS = 6  # s, a, s', count, mean reward, share of ends


class TableModel(nn.Module):
    """Counts of the transitions seen so far; only those that occurred take memory.

    Args:
        n_states: Number of states, ``S``; the width of a one-hot observation.
        n_actions: Number of actions, ``A``.
    """

    def __init__(self, n_states: int, n_actions: int) -> None:
        super().__init__()
        self.n_states, self.n_actions = n_states, n_actions
        self._clear()

    def _clear(self) -> None:
        self._keys: list[tuple[int, int, int]] = []
        self._counts: list[float] = []
        self._rewards: list[float] = []
        self._ends: list[float] = []
        self._row: dict[tuple[int, int, int], int] = {}
        self._after: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._before: defaultdict[int, list[int]] = defaultdict(list)

    @property
    def is_fitted(self) -> bool:
        """Whether it has seen data."""
        return bool(self._keys)

    def observe(self, state: int, action: int, next_state: int, reward: float, end: float) -> None:
        """Count one transition. Rewards and ends are running means: exact if they are constant."""
        row = self._find((state, action, next_state))
        self._counts[row] += 1
        count = self._counts[row]
        self._rewards[row] += (reward - self._rewards[row]) / count
        self._ends[row] += (end - self._ends[row]) / count

    def _find(self, key: tuple[int, int, int]) -> int:
        if key not in self._row:
            row = self._row[key] = len(self._keys)
            self._keys.append(key)
            for column in (self._counts, self._rewards, self._ends):
                column.append(0.0)
            self._after[key[0], key[1]].append(row)
            self._before[key[2]].append(row)
        return self._row[key]

    def count(self, state: int, action: int, next_state: int) -> int:
        """Return ``n(s, a, s')``."""
        row = self._row.get((state, action, next_state))
        return 0 if row is None else int(self._counts[row])

    def forward_sample(
        self, observations: th.Tensor, actions: th.Tensor, doubt: bool = False
    ) -> Prediction:
        """Draw ``s'`` with probability ``n(s, a, s') / n(s, a)``; pairs never seen have doubt.

        Args:
            observations: One-hot, ``[B, S]``.
            actions: ``[B]``.
            doubt: Ignored: it costs nothing here.
        """
        pairs = zip(observations.argmax(-1).tolist(), actions.tolist(), strict=True)
        rows = self._draw([self._after.get(pair, []) for pair in pairs], observations)
        states = [-1 if row is None else self._keys[row][2] for row in rows]
        return self._prediction(rows, states, actions, observations)

    def backward_sample(self, next_observations: th.Tensor, doubt: bool = False) -> Prediction:
        """Draw ``(s, a)`` with probability ``n(s', s, a) / n(s')``.

        Args:
            next_observations: One-hot, ``[B, S]``.
            doubt: Ignored: it costs nothing here.
        """
        ends = next_observations.argmax(-1).tolist()
        rows = self._draw([self._before.get(state, []) for state in ends], next_observations)
        states = [-1 if row is None else self._keys[row][0] for row in rows]
        actions = [0 if row is None else self._keys[row][1] for row in rows]
        chosen = th.tensor(actions, device=next_observations.device)
        found = self._prediction(rows, states, chosen, next_observations)
        return found._replace(dones=th.zeros_like(found.dones))

    def backup(
        self,
        observations: th.Tensor,
        actions: th.Tensor,
        value: Callable[[th.Tensor], th.Tensor],
        gamma: float,
    ) -> th.Tensor:
        """Return the expectation of ``r + gamma (1 - d) value(s')``, ``[B]``; NaN if never seen."""
        values = value(th.eye(self.n_states, device=observations.device)).tolist()
        pairs = zip(observations.argmax(-1).tolist(), actions.tolist(), strict=True)
        found = [self._expect(self._after.get(pair, []), values, gamma) for pair in pairs]
        return th.tensor(found, device=observations.device)

    def _expect(self, rows: Sequence[int], values: Sequence[float], gamma: float) -> float:
        total = sum(self._counts[row] for row in rows)
        if not total:
            return float("nan")
        weighted = (
            self._counts[row]
            * (self._rewards[row] + gamma * (1 - self._ends[row]) * values[self._keys[row][2]])
            for row in rows
        )
        return sum(weighted) / total

    def _draw(self, choices: list[list[int]], like: th.Tensor) -> list[int | None]:
        """Draw one row per list, in proportion to the counts; None from an empty list."""
        # torch's generator, not NumPy's: the buffer draws its indices from that one, and they must
        # be the same with and without a model.
        uniforms = th.rand(len(choices), dtype=th.float64).tolist()
        return [self._pick(rows, u) for rows, u in zip(choices, uniforms, strict=True)]

    def _pick(self, rows: Sequence[int], u: float) -> int | None:
        if len(rows) < 2:
            return rows[0] if rows else None
        sums = list(accumulate(self._counts[row] for row in rows))
        return next(row for row, below in zip(rows, sums, strict=True) if u * sums[-1] < below)

    def _prediction(
        self, rows: list[int | None], states: list[int], actions: th.Tensor, like: th.Tensor
    ) -> Prediction:
        known = th.tensor([row is not None for row in rows], device=like.device)
        numbers = th.tensor(states, device=like.device)
        found = F.one_hot(numbers.clamp(min=0), self.n_states).to(like.dtype)
        rewards, ends = (
            th.tensor([0.0 if row is None else column[row] for row in rows]).to(like)
            for column in (self._rewards, self._ends)
        )
        doubt = th.where(known, 0.0, float("inf")).to(like.dtype)
        return Prediction(th.where(known[:, None], found, like), rewards, ends, doubt, actions)

    # ------------------------------------------------- state_dict: a table that grows

    def _rows(self) -> Iterator[list[float]]:
        columns = zip(self._keys, self._counts, self._rewards, self._ends, strict=True)
        for key, count, reward, end in columns:
            yield [*map(float, key), count, reward, end]

    def get_extra_state(self) -> th.Tensor:
        """Return the table, ``[n, 6]``: s, a, s', count, mean reward, share of ends."""
        return th.tensor(list(self._rows()), dtype=th.float64).reshape(-1, _COLUMNS)

    def set_extra_state(self, state: th.Tensor) -> None:
        """Take what :meth:`get_extra_state` returned, order of the rows included."""
        self._clear()
        for s, a, s2, count, reward, end in cast(list[list[float]], state.tolist()):
            row = self._find((int(s), int(a), int(s2)))
            self._counts[row], self._rewards[row], self._ends[row] = count, reward, end
