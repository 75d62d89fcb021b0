"""Evaluations beside the main one: training levels, other tasks, greedy actions.

A run names them in its setting ``eval_splits`` (:class:`rlzoo.config.splits.EvalSplit`). The main
evaluation stays what curve, best model and ``final`` are about. Every split plays from the same
random streams as the main one, so that a difference is one of levels or of actions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.config.schema import RunSettings
from rlzoo.config.splits import COVERAGE, TRAIN, EvalSplit, parse_splits
from rlzoo.errors import RefusedError, did_you_mean
from rlzoo.runs.evaluate import Evaluation, evaluate, make_eval_env


@dataclass(frozen=True)
class Where:
    """One way to evaluate a policy, with every choice made.

    Args:
        env_id: Environment.
        env_kwargs: Its keyword arguments.
        deterministic: Take the likeliest actions.
        episodes: Number of episodes; None leaves it to the evaluation.
        first_seed: Of fixed episodes; see :class:`rlzoo.config.splits.EvalSplit`.
        final_only: Only with the final policy.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    deterministic: bool
    episodes: int | None = None
    first_seed: int | None = None
    final_only: bool = False

    @classmethod
    def of(cls, env_id: str, run: RunSettings, split: EvalSplit | None = None) -> Self:
        """Return the main evaluation of a run, or one of its splits."""
        if split is None:
            return cls(env_id, run.env_kwargs, run.eval_deterministic)
        is_other = split.env is not None and split.env != env_id
        kwargs = split.env_kwargs if is_other else {**run.env_kwargs, **split.env_kwargs}
        chosen = split.deterministic
        return cls(
            split.env or env_id, kwargs, run.eval_deterministic if chosen is None else chosen,
            split.episodes, split.first_seed, split.final_only,
        )  # fmt: skip

    @classmethod
    def named(cls, env_id: str, run: RunSettings, name: str | None) -> Self:
        """Return the split of a run with a name, the main evaluation for None.

        Raises:
            RefusedError: If the run has none of that name.
        """
        if name is not None and name not in run.eval_splits:
            known = ", ".join(run.eval_splits) or "none"
            raise RefusedError(
                f"There is no split {name!r}. {did_you_mean(name, run.eval_splits)}".rstrip(),
                f"Splits of this run: {known}.",
            )
        return cls.of(env_id, run, None if name is None else parse_splits(run.eval_splits)[name])

    def make(self, episodes: int, max_envs: int) -> VecEnv:
        """Make the environments; fixed episodes get one each."""
        most = episodes if self.first_seed is not None else max_envs
        return make_eval_env(self.env_id, episodes, most, **self.env_kwargs)

    def evaluate(
        self, model: PolicyPredictor, env: VecEnv, episodes: int, seed: int, name: str | int,
        epsilon: float,
    ) -> Evaluation:  # fmt: skip
        """Evaluate as :func:`rlzoo.runs.evaluate.evaluate` does."""
        return evaluate(
            model, env, self.env_id, episodes, seed, name, self.deterministic, epsilon,
            self.first_seed,
        )  # fmt: skip


class Splits:
    """The splits of a run, with their environments, which are made when they are first needed.

    Args:
        env_id: Environment of the run.
        settings: Settings of the run.

    Raises:
        RefusedError: As :func:`rlzoo.config.splits.parse_splits`.
    """

    def __init__(self, env_id: str, settings: RunSettings) -> None:
        self._settings = settings
        parsed = parse_splits(settings.eval_splits)
        self.places = {n: Where.of(env_id, settings, split) for n, split in parsed.items()}
        self._made: dict[str, VecEnv] = {}

    def check(self, like: VecEnv) -> None:
        """Make one environment of every split, and compare it with those of the training.

        Raises:
            RefusedError: If one cannot be made, or is not for the same policies.
        """
        for name, place in self.places.items():
            vec = place.make(1, 1)
            try:
                for what in ("observation_space", "action_space"):
                    theirs, ours = getattr(vec, what), getattr(like, what)
                    if theirs != ours:
                        raise RefusedError(
                            f"eval_splits.{name}: {place.env_id} has the {what} {theirs}.",
                            f"The training has {ours}.",
                            "Change the split's env_kwargs, or leave it out: --set eval_splits={}",
                        )
            finally:
                vec.close()

    def evaluate(
        self, model: PolicyPredictor, seed: int, name: str | int, episodes: int, final: bool
    ) -> dict[str, Evaluation]:
        """Evaluate a policy on every split.

        Args:
            model: Anything with SB3's ``predict``.
            seed: Seed of the run.
            name: Name of the evaluation.
            episodes: Episodes of a split that does not say how many.
            final: Whether the training is over.
        """
        epsilon = self._settings.eval_epsilon
        return {
            key: place.evaluate(
                model, self._env(place, episodes), place.episodes or episodes, seed, name, epsilon
            )
            for key, place in self.places.items()
            if final or not place.final_only
        }

    def _env(self, place: Where, episodes: int) -> VecEnv:
        settings = self._settings
        # Of the same size for a short and for the long evaluation, so that they share them.
        most = max(settings.eval_episodes, settings.final_eval_episodes or 0, episodes)
        most = place.episodes or (episodes if place.first_seed is not None else most)
        fixed = place.first_seed is not None
        key = json.dumps([place.env_id, place.env_kwargs, most, fixed], default=repr)
        if key not in self._made:
            self._made[key] = place.make(most, settings.eval_envs)
        return self._made[key]

    def describe(self) -> dict[str, Any]:
        """Return how every split is evaluated, for the record."""
        return {
            name: {key: value for key, value in asdict(place).items() if value is not None}
            for name, place in self.places.items()
        }

    def close(self) -> None:
        """Close the environments."""
        while self._made:
            self._made.popitem()[1].close()


def gap_of(found: Evaluation) -> float | None:
    """Return the return on training levels minus the main one; None without such a split."""
    train = found.splits.get(TRAIN)
    return None if train is None else train.return_mean - found.return_mean


def coverage_of(found: Evaluation) -> float | None:
    """Return the share of a task's places that were reached; None without such a split."""
    places = found.splits.get(COVERAGE)
    return None if places is None else places.success_any


def metrics_of(found: Evaluation) -> dict[str, float]:
    """Return what an evaluation has beside its main score, as a record's ``metrics``.

    ``success_rate``, ``success_any``, ``gap``, ``coverage`` and ``reached``, which is the coverage
    or else ``success_any``; and of every other split ``<split>_return``, ``<split>_normalized``,
    ``<split>_success_rate`` and ``<split>_success_any``. Only what there is.
    """
    coverage = coverage_of(found)
    values = {
        "success_rate": found.success_rate, "success_any": found.success_any,
        "gap": gap_of(found), COVERAGE: coverage,
        "reached": found.success_any if coverage is None else coverage,
    }  # fmt: skip
    for name, split in found.splits.items():
        if name == COVERAGE:
            continue
        values[f"{name}_return"] = split.return_mean
        values[f"{name}_normalized"] = split.normalized
        values[f"{name}_success_rate"] = split.success_rate
        values[f"{name}_success_any"] = split.success_any
    return {name: value for name, value in values.items() if value is not None}


def scalars_of(found: Evaluation) -> dict[str, float]:
    """Return what the log has of an evaluation: ``eval/…``, and ``eval/<split>/…`` of splits."""
    values = {
        **_scalars("eval", found), "eval/gap": gap_of(found), "eval/coverage": coverage_of(found)
    }  # fmt: skip
    for name, split in found.splits.items():
        values |= _scalars(f"eval/{name}", split)
    return {name: value for name, value in values.items() if value is not None}


def _scalars(prefix: str, found: Evaluation) -> Mapping[str, float | None]:
    return {
        f"{prefix}/mean_reward": found.return_mean,
        f"{prefix}/std_reward": found.return_std,
        f"{prefix}/mean_ep_length": found.length_mean,
        f"{prefix}/normalized": found.normalized,
        f"{prefix}/success_rate": found.success_rate,
        f"{prefix}/success_any": found.success_any,
    }
