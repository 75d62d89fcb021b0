"""The errors that rlzoo raises on purpose. Standard library only, so that every part may use it.

A message has at most three lines: what was given, what is allowed, what to do. The command line
prints it as it is and exits with ``exit_code``; from Python they are ordinary ``ValueError`` and
``RuntimeError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RlzooError(Exception):
    """Base class. ``str(error)`` is the message that the command line prints.

    Args:
        given: What was given or what happened, in one line.
        allowed: What is allowed, in one line; empty when the first line says it.
        todo: What the user can do, in one line; empty when nothing helps.
    """

    exit_code = 1

    def __init__(self, given: str, allowed: str = "", todo: str = "") -> None:
        self.given, self.allowed, self.todo = given, allowed, todo
        super().__init__(given, allowed, todo)

    def __str__(self) -> str:
        return "\n".join(line for line in (self.given, self.allowed, self.todo) if line)


class RefusedError(RlzooError, ValueError):
    """Input that cannot be accepted; nothing was started. Exit code 2."""

    exit_code = 2


class FailedError(RlzooError, RuntimeError):
    """Work that broke off after saving what could be saved. Exit code 1."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` known names that look most like ``name``, best first."""
    names = list(known)
    folded = {k.lower(): k for k in names}
    close = difflib.get_close_matches(name.lower(), folded, n=n, cutoff=0.5)
    return [folded[c] for c in close]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x' or 'y'?"``, or an empty string when nothing is near."""
    close = nearest(name, known)
    return f"Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
