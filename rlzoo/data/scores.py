"""Reference returns of D4RL for the normalised score.

Source: ``d4rl/infos.py`` of Farama-Foundation/D4RL (the same numbers for its v0, v1 and v2 sets),
measured on the ``-v2`` environments. ``-v4`` and ``-v5`` ids map to them so that scores can be read
on one scale; they change dynamics and, in v5, rewards a little, so tables are kept per version.
"""

from __future__ import annotations

_RETURNS = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
_REFERENCE = {
    f"{name}-{version}": pair for name, pair in _RETURNS.items() for version in ("v2", "v4", "v5")
}


def reference(env_id: str | None) -> tuple[float, float] | None:
    """Return the undiscounted returns ``(random, expert)``, ``None`` for an unknown environment."""
    return _REFERENCE.get(env_id) if env_id else None


def normalized_score(env_id: str | None, value: float) -> float | None:
    """Return ``100 (value - random) / (expert - random)``: 0 is random, 100 is expert.

    Args:
        env_id: Environment id, such as ``Hopper-v4``.
        value: Undiscounted return.

    Returns:
        The score in percent, ``None`` for an environment without reference returns.
    """
    pair = reference(env_id)
    if pair is None:
        return None
    random, expert = pair
    return 100.0 * (value - random) / (expert - random)
