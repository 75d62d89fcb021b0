"""The splits of an evaluation: other environments or actions, beside those of the main score."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from rlzoo.config.schema import check_value, find, run_arguments
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE
from rlzoo.errors import RefusedError

TRAIN = "train"
"""A split of this name holds the training levels: its return minus the main one is the gap."""

COVERAGE = "coverage"
"""A split of this name has every place of a task as its goal once: the share that was reached."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class EvalSplit:
    """One more way to evaluate a policy; None leaves a choice to the main evaluation.

    Args:
        env: Environment id.
        env_kwargs: Keyword arguments of the environment, on top of those of the run; alone, if
            ``env`` is another id.
        episodes: Number of episodes.
        deterministic: Take the likeliest action; otherwise draw it.
        first_seed: Play fixed episodes: episode ``i`` starts from the environment's seed
            ``first_seed + i``, whatever the seed of the run, so that all runs play the same ones.
        final_only: Only with the final policy, not during the training.
    """

    env: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    episodes: Annotated[int, AT_LEAST_ONE] | None = None
    deterministic: bool | None = None
    first_seed: Annotated[int, NON_NEGATIVE] | None = None
    final_only: bool = False


def parse_splits(
    given: Mapping[str, Mapping[str, Any]], where: str = "eval_splits"
) -> dict[str, EvalSplit]:
    """Return the splits of a run by name, checked.

    Args:
        given: The setting ``eval_splits``.
        where: How messages call it.

    Raises:
        RefusedError: For a name that cannot be one of a column, an unknown setting, or a value of
            a wrong type or out of range.
    """
    known, found = run_arguments(EvalSplit), {}
    for name, settings in given.items():
        place = f"{where}.{name}"
        if not _NAME.fullmatch(name):
            raise RefusedError(
                f"{place} is no name of a split.", "Allowed: small letters, digits and '_'."
            )
        values = {
            key: check_value(find(known, key, place, "a split"), value, place)
            for key, value in settings.items()
        }
        found[name] = EvalSplit(**values)
    return found
