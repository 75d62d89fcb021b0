"""How long work talks to whoever started it; the command line draws bars, tests stay silent."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What long work reports."""

    def message(self, text: str) -> None:
        """Say one line that a user should read."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Begin a task of ``total`` units."""

    def update(self, done: int, note: str = "") -> None:
        """Set the number of units done, with a short note such as the last return."""

    def stop(self) -> None:
        """End the current task."""


class Silent:
    """Reports nothing."""

    def message(self, text: str) -> None:
        """Ignore."""

    def start(self, label: str, total: int, unit: str) -> None:
        """Ignore."""

    def update(self, done: int, note: str = "") -> None:
        """Ignore."""

    def stop(self) -> None:
        """Ignore."""
