"""What recording an episode gives, and how it fails; see ``record`` and ``pictures``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlzoo.envs.checks import first_line
from rlzoo.errors import FailedError

MAX_STEPS = 1000
"""Steps after which an episode is cut unless said otherwise: its frames are held in memory."""


class VideoWarning(UserWarning):
    """A video was asked for and could not be made; everything else went on."""


@dataclass(frozen=True)
class Recorded:
    """One episode.

    Args:
        file: The video.
        episode_return: Undiscounted return.
        length: Steps; a video of the environment has one frame more.
        cut: Whether it ended because of ``max_steps``.
        filmstrip: Picture of the whole episode, if there is one.
    """

    file: Path
    episode_return: float
    length: int
    cut: bool
    filmstrip: Path | None = None


def failure_of(file: Path, error: Exception) -> FailedError:
    """Return the error for a file that could not be made."""
    return FailedError(
        f"{file} could not be recorded: {type(error).__name__}: {first_line(error)}",
        todo="rlzoo doctor shows what works here; --debug shows where the error comes from.",
    )
