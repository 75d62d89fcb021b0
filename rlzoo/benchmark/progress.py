"""What a benchmark shows while it runs: one bar, lines of a log, JSON lines, or nothing."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from rlzoo.benchmark.estimate import Tracker, duration
from rlzoo.benchmark.suite import Cell
from rlzoo.core.safe_files import to_json
from rlzoo.report.records import Record


class Observer(Protocol):
    """Who is told what happens."""

    def message(self, text: str) -> None:
        """Say one line that a user should read."""

    def begin(self, tracker: Tracker) -> None:
        """The cells start; the tracker always has the current counts."""

    def started(self, cell: Cell, where: str) -> None:
        """A cell started, or started again."""

    def ended(self, cell: Cell, record: Record | None) -> None:
        """A cell ended, with its record; None if it was stopped."""

    def finish(self) -> None:
        """No cell runs any more."""


def name_of(cell: Cell) -> str:
    """Return how messages call a cell."""
    preset = "" if cell.preset == "default" else f" ({cell.preset})"
    return f"{cell.agent}{preset} on {cell.env}, seed {cell.seed}"


def how(record: Record | None) -> str:
    """Return how a cell ended, in one line."""
    if record is None:
        return "stopped"
    if record.status == "failed":
        return f"FAILED: {record.error}"
    final = record.final or {}
    parts = [f"return {final['return_mean']:,.1f}"] if final.get("return_mean") is not None else []
    if final.get("normalized") is not None:
        parts.append(f"normalised {final['normalized']:.1f}")
    return ", ".join([*parts, duration(record.wall_seconds)])


class Quiet:
    """Says only which cells failed, and other messages."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)

    def message(self, text: str) -> None:
        """Write a line to stderr."""
        # As Text, so that brackets are no markup; unwrapped, so that a line stays a line.
        self._console.print(Text(text), soft_wrap=True)

    def begin(self, tracker: Tracker) -> None:
        """Nothing."""

    def started(self, cell: Cell, where: str) -> None:
        """Nothing."""

    def ended(self, cell: Cell, record: Record | None) -> None:
        """Say what failed."""
        if record is not None and record.status == "failed":
            self.message(f"{name_of(cell)}: {how(record)}")

    def finish(self) -> None:
        """Nothing."""


class _Counts(ProgressColumn):
    """Cells done, running and failed, and the remaining time."""

    max_refresh = 0.5

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def render(self, task: Task) -> Text:
        """Return the column: cells done, running and failed."""
        return Text(counts(self._tracker))


def counts(tracker: Tracker) -> str:
    """Return ``3 done, 2 running, 1 failed, 5 min left``."""
    numbers = [f"{len(tracker.done)} done", f"{len(tracker.running)} running"]
    if tracker.failed:
        numbers.append(f"{len(tracker.failed)} failed")
    left = tracker.remaining()
    return ", ".join([*numbers, *([] if left is None else [f"{duration(left)} left"])])


class Bar(Quiet):
    """One bar over all cells, with a line for each that ends; in a log file, lines instead."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: Progress | None = None
        self._tracker: Tracker | None = None

    def begin(self, tracker: Tracker) -> None:
        """Show the bar."""
        self._tracker = tracker
        if not self._console.is_terminal:
            self.message(f"{tracker.total} cells: {counts(tracker)}")
            return
        self._bar = Progress(
            TextColumn("cells"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Counts(tracker),
            console=self._console,
            transient=True,
        )
        self._bar.add_task("cells", total=tracker.total, completed=len(tracker.done))
        self._bar.start()

    def started(self, cell: Cell, where: str) -> None:
        """Say it in a log; the bar counts."""
        if self._bar is None:
            self.message(f"{name_of(cell)}: started, {where}")

    def ended(self, cell: Cell, record: Record | None) -> None:
        """Say how it ended."""
        self.message(f"{name_of(cell)}: {how(record)}")
        if self._tracker is None:
            return
        if self._bar is None:
            self.message(counts(self._tracker))
        else:
            ended = len(self._tracker.done) + len(self._tracker.failed)
            self._bar.update(self._bar.task_ids[0], completed=ended)

    def finish(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None


class JsonLines:
    """One JSON object per event on stdout, for other programs."""

    def __init__(self) -> None:
        self._tracker: Tracker | None = None

    def emit(self, event: str, **facts: Any) -> None:
        """Write one line."""
        sys.stdout.write(to_json({"event": event, **facts}, indent=None))
        sys.stdout.flush()

    def message(self, text: str) -> None:
        """Write a message."""
        self.emit("message", text=text)

    def begin(self, tracker: Tracker) -> None:
        """Write the counts at the beginning."""
        self._tracker = tracker
        self.emit("begin", **self._counts())

    def started(self, cell: Cell, where: str) -> None:
        """Write that a cell started."""
        self.emit("started", cell=asdict(cell), where=where, **self._counts())

    def ended(self, cell: Cell, record: Record | None) -> None:
        """Write the record of a cell, or that it was stopped."""
        facts = None if record is None else asdict(record)
        status = "stopped" if record is None else record.status
        self.emit("ended", cell=asdict(cell), status=status, record=facts, **self._counts())

    def finish(self) -> None:
        """Write the counts at the end."""
        self.emit("end", **self._counts())

    def _counts(self) -> dict[str, Any]:
        tracker = self._tracker
        if tracker is None:
            return {}
        return {
            "cells": tracker.total,
            "done": len(tracker.done),
            "running": len(tracker.running),
            "failed": len(tracker.failed),
            "remaining_seconds": tracker.remaining(),
        }
