"""Evaluation: undiscounted return of a policy over whole episodes.

The environments are made as evaluations have them (whole games and unclipped rewards on Atari), and
several play side by side, so that one pass through the networks answers for all of them.

**Which episodes count.** Every environment has a fixed share of the episodes, as in SB3's
``evaluate_policy``, and all of its first episodes count, however long they are. The first episodes
to *end* would be the short ones. An environment that has played its share is no longer stepped,
which SB3's function goes on with until the longest game is over.

**Random actions.** ``epsilon`` is the share of uniform actions, which the published Atari numbers
have with 0.001 and without which a policy may be stuck in one place for half an hour of a game.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple, Self, TypeVar

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from rlzoo.core.arguments import UNIT, check_range
from rlzoo.core.seeding import get_states, seed_everything, set_states, stream
from rlzoo.data.goals import goal_layout
from rlzoo.data.policies import RandomPolicy, uniform_actions
from rlzoo.data.scores import normalized_score
from rlzoo.envs import make_vec
from rlzoo.envs.procgen import ProcgenVecEnv
from rlzoo.errors import RefusedError

T = TypeVar("T")

MAX_EVAL_ENVS = 10
"""Environments of an evaluation unless ``eval_envs`` says otherwise.

Measured with DER on RoadRunner, milliseconds of CPU per step and environment: a game 1.0; the
network 1.5 for one alone, 0.26 in a batch of 10, 0.24 of 20, 0.14 of 50. A further game costs
300 ms once (the ROM is loaded again with its seed) and 1.5 MB.
"""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        return_mean: Mean undiscounted return.
        return_std: Standard deviation over episodes (population).
        episodes: Number of episodes.
        length_mean: Mean length in steps.
        normalized: The mean on the scale of :mod:`rlzoo.core.tasks.scores`; None where the
            environment has none.
        success_rate: Share of episodes that ended with a true ``is_success`` in their info; None
            where the environment does not tell.
        splits: What else was evaluated, by name; see :mod:`rlzoo.runs.splits`.
        success_any: Share of episodes with a true ``is_success`` at any step; None where the
            environment has no goals, or does not tell.
    """

    return_mean: float
    return_std: float
    episodes: int
    length_mean: float
    normalized: float | None
    success_rate: float | None = None
    splits: Mapping[str, Evaluation] = field(default_factory=dict)
    success_any: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name; those about success and ``splits`` where there are any."""
        optional = {
            "success_rate": self.success_rate is None,
            "success_any": self.success_any is None,
            "splits": not self.splits,
        }
        return {name: v for name, v in asdict(self).items() if not optional.get(name, False)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the evaluation of :meth:`as_dict`."""
        splits = {n: cls.from_dict(split) for n, split in values.get("splits", {}).items()}
        return cls(**{**values, "splits": splits})

    def summary(self) -> dict[str, Any]:
        """Return the fields that ``result.json`` has."""
        names = ("return_mean", "return_std", "episodes", "normalized")
        told = {"success_rate": self.success_rate, "success_any": self.success_any}
        success = {name: value for name, value in told.items() if value is not None}
        return {**{name: getattr(self, name) for name in names}, **success}


class Episodes(NamedTuple):
    """Whole episodes, in the order in which they ended.

    Args:
        returns: Undiscounted returns, ``[episodes]``.
        lengths: Lengths in steps, ``[episodes]``.
        successes: Whether the environment called their last step a success, ``[episodes]``; None
            if it does not tell.
        any_time: Likewise for any of their steps; None without goals.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.float64]
    successes: NDArray[np.bool_] | None
    any_time: NDArray[np.bool_] | None = None


def make_eval_env(
    env_id: str, episodes: int, max_envs: int = MAX_EVAL_ENVS, **env_kwargs: Any
) -> VecEnv:
    """Make the environments of an evaluation: as many as episodes, at most ``max_envs``."""
    return make_vec(env_id, n_envs=min(episodes, max_envs), **env_kwargs)


def evaluate(
    model: PolicyPredictor,
    env: VecEnv,
    env_id: str,
    episodes: int,
    seed: int,
    name: str | int = "eval",
    deterministic: bool = True,
    epsilon: float = 0.0,
    first_seed: int | None = None,
) -> Evaluation:
    """Run whole episodes.

    Initial states and whatever the policy draws depend on ``seed`` and ``name`` only, and the
    global generators are left as they were: evaluating more often does not change a training.

    Args:
        model: Anything with SB3's ``predict``.
        env: From :func:`make_eval_env`.
        env_id: Id of the environment, for the normalised score.
        episodes: Number of episodes.
        seed: Seed of the run.
        name: Name of the evaluation, which keeps its streams apart from those of training.
        deterministic: Passed to ``predict``.
        epsilon: Share of uniformly random actions, in [0, 1].
        first_seed: As in :func:`play_episodes`.

    Raises:
        RefusedError: As :class:`RandomShare`.
    """
    found = play_episodes(
        model, env, episodes, seed, name, deterministic, epsilon=epsilon, first_seed=first_seed
    )
    mean = float(np.mean(found.returns))
    return Evaluation(
        return_mean=mean,
        return_std=float(np.std(found.returns)),
        episodes=len(found.returns),
        length_mean=float(np.mean(found.lengths)),
        normalized=normalized_score(env_id, mean),
        success_rate=None if found.successes is None else float(np.mean(found.successes)),
        success_any=None if found.any_time is None else float(np.mean(found.any_time)),
    )


def run_episodes(
    model: PolicyPredictor,
    env: VecEnv,
    episodes: int,
    seed: int,
    name: str | int = "eval",
    deterministic: bool = True,
    first: int = 0,
    epsilon: float = 0.0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return undiscounted returns and lengths of :func:`play_episodes`."""
    found = play_episodes(model, env, episodes, seed, name, deterministic, first, epsilon)
    return found.returns, found.lengths


def play_episodes(
    model: PolicyPredictor,
    env: VecEnv,
    episodes: int,
    seed: int,
    name: str | int = "eval",
    deterministic: bool = True,
    first: int = 0,
    epsilon: float = 0.0,
    first_seed: int | None = None,
) -> Episodes:
    """Run whole episodes as :func:`evaluate` does.

    Args:
        model: Anything with SB3's ``predict``.
        env: From :func:`make_eval_env`. With fewer episodes than environments the first ones play.
        episodes: Number of episodes.
        seed: Seed of the run.
        name: Name of the evaluation.
        deterministic: Passed to ``predict``.
        first: Number of the first episode; those of an evaluation start as these do one by one.
        epsilon: Share of uniformly random actions, in [0, 1].
        first_seed: Environment ``i`` gets the seed ``first_seed + i``, whatever ``seed`` is, so
            that with as many environments as episodes the same episodes are played every time.

    Raises:
        RefusedError: As :class:`RandomShare`.
    """
    # VecEnv.seed adds the index of the environment; named streams do not overlap.
    numbers = [first + index for index in range(env.num_envs)]
    if first_seed is None:
        env._seeds = [stream(seed, "eval", name, number) for number in numbers]
    else:
        env._seeds = [first_seed + number for number in numbers]
    share = RandomShare(
        env.action_space, epsilon, [stream(seed, "eval", name, "epsilon", n) for n in numbers]
    )
    states = get_states()
    seed_everything(stream(seed, "eval", name, *(("from", first) if first else ())))
    try:
        return _play(model, env, episodes, deterministic, share)
    finally:
        set_states(states)


class RandomShare:
    """Replaces a share of actions by uniform ones, with a generator for every environment.

    Args:
        action_space: A bounded Box or a Discrete, if the share is above 0.
        epsilon: The share, in [0, 1].
        seeds: One per environment.

    Raises:
        RefusedError: If ``epsilon`` is out of range, or the actions cannot be drawn uniformly.
    """

    def __init__(
        self, action_space: gym.Space[Any], epsilon: float, seeds: Sequence[int] = ()
    ) -> None:
        check_range("eval_epsilon", epsilon, UNIT)
        self.epsilon = epsilon
        self._uniform = _uniform(action_space, epsilon) if epsilon else None
        self._generators = [np.random.default_rng(seed) for seed in seeds if epsilon]

    def __call__(self, actions: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
        """Return the actions of the environments at some places, with random ones among them."""
        if self._uniform is None:
            return actions
        actions = np.array(actions)
        for row, place in enumerate(places):
            generator = self._generators[place]
            if generator.random() < self.epsilon:
                drawn = generator.random((1, self._uniform.uniforms))
                actions[row] = uniform_actions(self._uniform.action_space, drawn)[0]
        return actions


def _uniform(space: gym.Space[Any], epsilon: float) -> RandomPolicy:
    try:
        return RandomPolicy(space)
    except RefusedError as error:
        raise RefusedError(
            f"eval_epsilon={epsilon}, but {space} has no uniform actions.",
            error.allowed,
            "Evaluate with eval_epsilon=0.",
        ) from None


def _play(
    model: PolicyPredictor, env: VecEnv, episodes: int, deterministic: bool, share: RandomShare
) -> Episodes:
    """Play every environment's share of the episodes; see the top of this module."""
    n = min(env.num_envs, episodes)
    left = np.zeros(env.num_envs, np.int64)
    left[:n] = [(episodes + place) // n for place in range(n)]
    monitored = env.env_is_wrapped(Monitor)[0]
    # Row i of a batch is the environment at places[i] of the whole vector.
    vec, places = _those(env, np.arange(env.num_envs), left > 0)
    observations, state = vec.reset(), None
    starts, totals, lengths = (np.ones(len(places), bool), *np.zeros((2, len(places))))
    ended: list[tuple[float, float, bool | None, bool]] = []
    reached = np.zeros(len(places), bool)
    while left.any():
        actions, state = model.predict(
            observations,  # type: ignore[arg-type]
            state=state, episode_start=starts, deterministic=deterministic,
        )  # fmt: skip
        observations, rewards, starts, infos = vec.step(share(actions, places))
        totals, lengths = totals + rewards, lengths + 1
        reached |= [bool(info.get("is_success")) for info in infos]
        for row in np.flatnonzero(starts):
            # Without it in a monitored game, a life was lost and the game goes on.
            episode = (
                infos[row].get("episode") if monitored else {"r": totals[row], "l": lengths[row]}
            )
            if episode is not None and left[places[row]]:
                left[places[row]] -= 1
                success = infos[row].get("is_success")
                ended.append((episode["r"], episode["l"], success, reached[row]))
            totals[row] = lengths[row] = 0.0
            reached[row] = False
        # Nobody but a policy knows how its state is cut into rows.
        if state is None and left.any() and not left[places].all():
            keep = left[places] > 0
            smaller, places = _those(vec, places, keep)
            if smaller is not vec:
                vec, observations = smaller, _rows(observations, keep)
                starts, totals, lengths = starts[keep], totals[keep], lengths[keep]
                reached = reached[keep]
    returns, durations, successes, any_time = zip(*ended, strict=True)
    told = None not in successes
    return Episodes(
        np.array(returns, np.float64),
        np.array(durations, np.float64),
        np.array(successes, bool) if told else None,
        np.array(any_time, bool) if told and goal_layout(env.observation_space) else None,
    )


def _those(
    vec: VecEnv, places: NDArray[np.int64], keep: NDArray[np.bool_]
) -> tuple[VecEnv, NDArray[np.int64]]:
    """Return a vector of some rows and their places; all of them if it cannot be split."""
    rows = np.flatnonzero(keep)
    if len(rows) == vec.num_envs:
        return vec, places
    if isinstance(vec, ProcgenVecEnv):
        return vec.some(rows), places[rows]
    if type(vec) is not DummyVecEnv:
        return vec, places
    part = DummyVecEnv([partial(_itself, vec.envs[row]) for row in rows])
    part._seeds = [vec._seeds[row] for row in rows]
    return part, places[rows]


def _itself(value: T) -> T:
    return value


def _rows(observations: VecEnvObs, keep: NDArray[np.bool_]) -> VecEnvObs:
    if isinstance(observations, dict):
        return {name: values[keep] for name, values in observations.items()}
    if isinstance(observations, tuple):
        return tuple(values[keep] for values in observations)
    return observations[keep]
