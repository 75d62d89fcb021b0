"""Environment ids: which family one belongs to, and the one name of what several ids mean.

``RoadRunnerNoFrameskip-v4`` and ``ALE/RoadRunner-v5`` are the same environment here, because
:mod:`rlzoo.envs.atari` sets all in which they differ. Settings are looked up, scores normalised
and results recorded under the second name, whichever was typed; a run keeps the id it was given.

A suite may have one environment several times, with other settings each time. Then a *label* stands
for it: the id, ``@``, and what differs, as in ``CoinRun@50`` for 50 training levels.
"""

from __future__ import annotations

import re

MARK = "@"
"""Between an id and what differs; no id of Gymnasium has it."""

_PROCGEN = re.compile(r"procgen/([a-z]+)-(easy|hard|extreme|memory)-v0")
_ATARI = re.compile(r"(?:ale_py:)?(?:ALE/(\w+)-v5|(\w+)NoFrameskip-v4)")


def atari_game(env_id: str) -> str | None:
    """Return the game of an Atari id, as in ``"RoadRunner"``; None for any other id."""
    found = _ATARI.fullmatch(env_id)
    return None if found is None else found[1] or found[2]


def canonical(env_id: str) -> str:
    """Return the one name of an environment that has several ids; other ids as they are."""
    base, mark, variant = env_id.partition(MARK)
    game = atari_game(base)
    return env_id if game is None else f"ALE/{game}-v5{mark}{variant}"


def base_id(label: str) -> str:
    """Return the id in a label; an id as it is."""
    return label.partition(MARK)[0]


def number_of(label: str) -> float | None:
    """Return the number of a label that differs by one, as 50.0 of ``CoinRun@50``; else None."""
    try:
        return float(label.partition(MARK)[2])
    except ValueError:
        return None


def procgen_task(env_id: str) -> str | None:
    """Return envpool's name of a game, which published tables use: ``"CoinrunEasy-v0"``.

    None for any other environment, and for the distributions of a single level. ``CoinRun`` is on
    easy levels unless its arguments say otherwise; its scale is the same on hard ones.
    """
    if env_id == "CoinRun":
        return "CoinrunEasy-v0"
    found = _PROCGEN.fullmatch(env_id)
    return None if found is None else f"{found[1].capitalize()}{found[2].capitalize()}-v0"


def family(env_id: str) -> str | None:
    """Return the family whose settings an environment shares; None if it belongs to none.

    ``"atari"``, ``"procgen"`` (games with levels for training and for the test), ``"multiroom"``.
    """
    if atari_game(env_id) is not None:
        return "atari"
    if procgen_task(env_id) is not None:
        return "procgen"
    return "multiroom" if env_id.startswith("rlzoo/MultiRoom-") else None
