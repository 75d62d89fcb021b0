"""What commands show while they work: messages and bars on stderr, so that stdout holds results."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class ConsoleProgress:
    """Shows messages and one bar with the time left; in a log file, lines instead of a bar."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._label, self._total, self._note = "", 0, ""

    def message(self, text: str) -> None:
        """Say one line that a user should read."""
        self._say(text)

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task of ``total`` units."""
        self.stop()
        self._label, self._total, self._note = label, total, ""
        if not self._console.is_terminal:
            self._say(f"{label}: {total:,} {unit}")
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total, note="")
        self._bar.start()

    def update(self, done: int, note: str = "") -> None:
        """Set the number of units done, with a short note such as the last return."""
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, completed=min(done, self._total), note=self._note)
        elif note:
            self._say(f"{self._label}: {done:,}/{self._total:,}, {note}")

    def stop(self) -> None:
        """End the current task."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = None

    def _say(self, text: str) -> None:
        # As Text, so that brackets are no markup; unwrapped, so that a line stays a line.
        self._console.print(Text(text), soft_wrap=True)
