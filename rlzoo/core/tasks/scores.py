"""Normalised scores: every scale with its constants, in one place.

A scale is linear: its lower end (random play) is 0, its upper end is 1, or 100 for D4RL, whose
scores are percent. Training, evaluation, records and leaderboards ask this module, and a new suite
adds its scale here. Published columns of ``benchmarks/reference/`` that name the ends of a scale
are tested to be these numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlzoo.core.tasks.ids import base_id, procgen_task


@dataclass(frozen=True)
class Scale:
    """How returns of some environments become comparable.

    Args:
        name: What the score is called.
        low: Who has a score of 0.
        high: Who has the score ``top``.
        top: Score of the upper end: 1, or 100 for percent.
        source: Where the constants come from.
        ends: Task -> undiscounted returns of the lower and of the upper end.
        ids: Pattern of the ids that name a task; the first group that matched is the task.
    """

    name: str
    low: str
    high: str
    top: float
    source: str
    ends: Mapping[str, tuple[float, float]] = field(repr=False)
    ids: re.Pattern[str] = field(repr=False)

    @property
    def digits(self) -> int:
        """Decimals with which a score is printed."""
        return 1 if self.top > 2 else 3

    def task(self, env_id: str) -> str | None:
        """Return the task that an id names, None if the scale does not have it."""
        base = base_id(env_id)
        found = self.ids.fullmatch(procgen_task(base) or base.rpartition(":")[2])
        name = None if found is None else next(filter(None, found.groups()), None)
        return name if name in self.ends else None


D4RL = Scale(
    "D4RL-normalised score",
    "random",
    "expert",
    100.0,
    # Measured on the -v2 environments. -v4 and -v5 ids map to them so that scores can be read on
    # one scale; they change dynamics and, in v5, rewards a little, so tables are per version.
    "d4rl/infos.py of Farama-Foundation/D4RL, the same for its v0, v1 and v2 sets",
    {
        "HalfCheetah": (-280.178953, 12135.0),
        "Hopper": (-20.272305, 3234.3),
        "Walker2d": (1.629008, 4592.3),
        "Ant": (-325.6, 3879.7),
    },
    re.compile(r"(\w+)-v[245]"),
)

ATARI = Scale(
    "human-normalised score",
    "random",
    "human",
    1.0,
    # The set in which the human has 7127.7 in Alien, not the older one of the Nature paper.
    "the 26 games of Kaiser et al. 2020, arXiv 1903.00374, in van Hasselt et al. 2019, "
    "arXiv 1906.05243",
    {
        "Alien": (227.8, 7127.7),
        "Amidar": (5.8, 1719.5),
        "Assault": (222.4, 742.0),
        "Asterix": (210.0, 8503.3),
        "BankHeist": (14.2, 753.1),
        "BattleZone": (2360.0, 37187.5),
        "Boxing": (0.1, 12.1),
        "Breakout": (1.7, 30.5),
        "ChopperCommand": (811.0, 7387.8),
        "CrazyClimber": (10780.5, 35829.4),
        "DemonAttack": (152.1, 1971.0),
        "Freeway": (0.0, 29.6),
        "Frostbite": (65.2, 4334.7),
        "Gopher": (257.6, 2412.5),
        "Hero": (1027.0, 30826.4),
        "Jamesbond": (29.0, 302.8),
        "Kangaroo": (52.0, 3035.0),
        "Krull": (1598.0, 2665.5),
        "KungFuMaster": (258.5, 22736.3),
        "MsPacman": (307.3, 6951.6),
        "Pong": (-20.7, 14.6),
        "PrivateEye": (24.9, 69571.3),
        "Qbert": (163.9, 13455.0),
        "RoadRunner": (11.5, 7845.0),
        "Seaquest": (68.4, 42054.7),
        "UpNDown": (533.4, 11693.2),
    },
    # Results of other libraries and published tables name games in more ways than can be trained.
    re.compile(r"(?:ALE/)?(\w+?)(?:NoFrameskip|Deterministic)?(?:-v\d+)?"),
)

_PROCGEN_EASY = {
    "Coinrun": (5.0, 10.0),
    "Starpilot": (2.5, 64.0),
    "Caveflyer": (3.5, 12.0),
    "Dodgeball": (1.5, 19.0),
    "Fruitbot": (-1.5, 32.4),
    "Chaser": (0.5, 13.0),
    "Miner": (1.5, 13.0),
    "Jumper": (1.0, 10.0),
    "Leaper": (1.5, 10.0),
    "Maze": (5.0, 10.0),
    "Bigfish": (1.0, 40.0),
    "Heist": (3.5, 10.0),
    "Climber": (2.0, 12.6),
    "Plunder": (4.5, 30.0),
    "Ninja": (3.5, 10.0),
    "Bossfight": (0.5, 13.0),
}
_PROCGEN_HARD = {
    "Coinrun": (5.0, 10.0),
    "Starpilot": (1.5, 35.0),
    "Caveflyer": (2.0, 13.4),
    "Dodgeball": (1.5, 19.0),
    "Fruitbot": (-0.5, 27.2),
    "Chaser": (0.5, 14.2),
    "Miner": (1.5, 20.0),
    "Jumper": (1.0, 10.0),
    "Leaper": (1.5, 10.0),
    "Maze": (4.0, 10.0),
    "Bigfish": (0.0, 40.0),
    "Heist": (2.0, 10.0),
    "Climber": (1.0, 12.6),
    "Plunder": (3.0, 30.0),
    "Ninja": (2.0, 10.0),
    "Bossfight": (0.5, 13.0),
}

PROCGEN = Scale(
    "Procgen-normalised score",
    "minimum",
    "maximum",
    1.0,
    "openai/train-procgen train_procgen/constants.py, Cobbe et al. 2020, arXiv 1912.01588",
    {
        f"{game}{mode}": ends
        for mode, games in (("Easy", _PROCGEN_EASY), ("Hard", _PROCGEN_HARD))
        for game, ends in games.items()
    },
    re.compile(r"([A-Z][a-z]+(?:Easy|Hard))-v\d+"),
)

SCALES = (D4RL, ATARI, PROCGEN)


def scale_of(env_id: str | None) -> Scale | None:
    """Return the scale that an environment has, None for one without."""
    if not env_id:
        return None
    return next((scale for scale in SCALES if scale.task(env_id) is not None), None)


def reference(env_id: str | None) -> tuple[float, float] | None:
    """Return the undiscounted returns at both ends of the scale, None without a scale."""
    scale = scale_of(env_id)
    task = None if scale is None or env_id is None else scale.task(env_id)
    return None if scale is None or task is None else scale.ends[task]


def normalized_score(env_id: str | None, value: float) -> float | None:
    """Return ``top (value - low) / (high - low)``.

    Args:
        env_id: Environment id, such as ``Hopper-v4`` or ``ALE/Pong-v5``.
        value: Undiscounted return.

    Returns:
        The score, ``None`` for an environment without a scale.
    """
    scale, ends = scale_of(env_id), reference(env_id)
    if scale is None or ends is None:
        return None
    low, high = ends
    return scale.top * (value - low) / (high - low)


def score_digits(env_id: str | None) -> int:
    """Return the decimals with which the normalised score of an environment is printed."""
    scale = scale_of(env_id)
    return 1 if scale is None else scale.digits


def describe_scale(env_id: str | None) -> dict[str, Any] | None:
    """Return name, ends and source of the scale of an environment for a record, or None."""
    scale, ends = scale_of(env_id), reference(env_id)
    if scale is None or ends is None:
        return None
    low, high = ends
    return {"score": scale.name, scale.low: low, scale.high: high, "source": scale.source}
