"""How long cells will take, from what earlier ones took."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence

from rlzoo.benchmark.suite import Cell, Key
from rlzoo.report.records import Record


class Estimator:
    """Seconds of a cell: its steps, at the speed of cells like it, evaluations included.

    Args:
        records: Of any size of the suite; failed ones do not count.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        # Seconds per step, by what the cells have in common, the most special first.
        self._rates: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Learn from one more cell."""
        if record.status != "ok" or not record.wall_seconds or not record.total_timesteps:
            return
        rate = record.wall_seconds / record.total_timesteps
        for name in _names(record.agent, record.preset, record.env):
            self._rates[name].append(rate)

    def seconds(self, cell: Cell) -> float | None:
        """Return the seconds that a cell will take, None if no cell of its agent is known."""
        for name in _names(cell.agent, cell.preset, cell.key[4]):
            if name in self._rates:
                return cell.steps * sum(self._rates[name]) / len(self._rates[name])
        return None


def _names(agent: str, preset: str, env: str) -> tuple[tuple[str, ...], ...]:
    return (agent, preset, env), (agent, preset), (agent,)


class Tracker:
    """Which cells are done, running, failed and waiting, and how long the rest will take.

    Args:
        cells: All cells of the benchmark.
        done: Keys of those that were done before.
        estimator: Learns from the cells that end.
        slots: Cells that run at the same time.
    """

    def __init__(
        self, cells: Sequence[Cell], done: Iterable[Key], estimator: Estimator, slots: int
    ) -> None:
        self.total, self._estimator, self.slots = len(cells), estimator, slots
        self.done, self.failed = set(done), set[Key]()
        self.waiting = {cell.key: cell for cell in cells if cell.key not in self.done}
        self.running: dict[Key, tuple[Cell, float]] = {}

    def started(self, cell: Cell) -> None:
        """Note that a cell runs; a second time means that it starts again."""
        self.waiting.pop(cell.key, None)
        self.running[cell.key] = (cell, time.monotonic())

    def ended(self, cell: Cell, record: Record | None) -> None:
        """Note that a cell ended, with the record of it; None if it was stopped."""
        self.running.pop(cell.key, None)
        self.waiting.pop(cell.key, None)
        if record is None:
            self.waiting[cell.key] = cell
        elif record.status == "ok":
            self.done.add(cell.key)
            self._estimator.add(record)
        else:
            self.failed.add(cell.key)

    def remaining(self) -> float | None:
        """Return the seconds until all cells have ended, None if too little is known."""
        rest = [self._estimator.seconds(cell) for cell in list(self.waiting.values())]
        now = time.monotonic()
        for cell, since in list(self.running.values()):
            seconds = self._estimator.seconds(cell)
            rest.append(None if seconds is None else max(0.0, seconds - (now - since)))
        known = [seconds for seconds in rest if seconds is not None]
        if rest and not known:
            return None
        # What is not known takes as long as what is.
        mean = sum(known) / len(known) if known else 0.0
        return (sum(known) + mean * (len(rest) - len(known))) / max(1, min(self.slots, len(rest)))


def duration(seconds: float | None) -> str:
    """Return a time as ``42 s``, ``7 min``, ``3 h 10 min``, ``2 d 5 h``; ``unknown`` for None."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02} min"
    return f"{hours // 24} d {hours % 24} h"
