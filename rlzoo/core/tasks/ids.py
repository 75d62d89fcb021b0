"""Environment ids: which family one belongs to, and the one name of what several ids mean.

``RoadRunnerNoFrameskip-v4`` and ``ALE/RoadRunner-v5`` are the same environment here, because
:mod:`rlzoo.envs.atari` sets all in which they differ. Settings are looked up, scores normalised
and results recorded under the second name, whichever was typed; a run keeps the id it was given.
"""

from __future__ import annotations

import re

_ATARI = re.compile(r"(?:ale_py:)?(?:ALE/(\w+)-v5|(\w+)NoFrameskip-v4)")


def atari_game(env_id: str) -> str | None:
    """Return the game of an Atari id, as in ``"RoadRunner"``; None for any other id."""
    found = _ATARI.fullmatch(env_id)
    return None if found is None else found[1] or found[2]


def canonical(env_id: str) -> str:
    """Return the one name of an environment that has several ids; other ids as they are."""
    game = atari_game(env_id)
    return env_id if game is None else f"ALE/{game}-v5"


def family(env_id: str) -> str | None:
    """Return the family whose settings an environment shares: ``"atari"``, or None."""
    return None if atari_game(env_id) is None else "atari"
