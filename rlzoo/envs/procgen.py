"""CoinRun and the other games of Procgen, through envpool.

=============================  ======================================================
id                             what
=============================  ======================================================
``CoinRun``                    CoinRun; ``distribution`` is "easy" unless said otherwise
``procgen/<game>-<dist>-v0``   any game in one of its distributions, such as
                               ``procgen/coinrun-hard-v0`` or ``procgen/maze-memory-v0``
=============================  ======================================================

**Levels.** A level is a number in [0, 2^31 - 1). ``start_level`` and ``num_levels`` always name the
levels of *training*: ``split="train"`` draws from [start_level, start_level + num_levels), and
``split="test"`` from all numbers above them. That is the benchmark's "all levels" without those of
training, so that not one test level was seen; it leaves out a share of 1e-7 for 200 levels.
Without a split, a training plays the levels of training and everything else those of the test.
``num_levels=0`` is training on all levels, and nothing is left for a test.

**Ends.** The time limit of a game (1000 steps for most) is a truncation, and so it is told:
``terminated`` is false, ``infos[i]["TimeLimit.truncated"]`` true. The published baselines treat it
as an end with the value 0; whether an agent bootstraps there is the agent's business. A death in
the very step of the limit looks like the limit, because the game does not tell them apart.

Every info has ``level_seed``, the level of that step, and ``prev_level_complete``, 1 in the last
step of a level that was completed.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import importlib.util
import re
from collections.abc import Mapping
from typing import Any, Self

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, check_range
from rlzoo.envs.checks import PROCGEN
from rlzoo.envs.envpool_vec import Batch, EnvpoolEnv, EnvpoolVecEnv, import_envpool
from rlzoo.envs.qt import load_qt
from rlzoo.errors import RefusedError, did_you_mean

MAX_LEVEL = 2**31 - 1
"""Levels are below this number."""

EVERYWHERE = ("easy", "hard")
GAMES: dict[str, tuple[str, ...]] = {
    "bigfish": EVERYWHERE,
    "bossfight": EVERYWHERE,
    "caveflyer": (*EVERYWHERE, "memory", "exploration"),
    "chaser": (*EVERYWHERE, "extreme"),
    "climber": (*EVERYWHERE, "exploration"),
    "coinrun": (*EVERYWHERE, "exploration"),
    "dodgeball": (*EVERYWHERE, "extreme", "memory"),
    "fruitbot": EVERYWHERE,
    "heist": (*EVERYWHERE, "memory", "exploration"),
    "jumper": (*EVERYWHERE, "memory", "exploration"),
    "leaper": (*EVERYWHERE, "extreme", "exploration"),
    "maze": (*EVERYWHERE, "memory", "exploration"),
    "miner": (*EVERYWHERE, "memory"),
    "ninja": (*EVERYWHERE, "exploration"),
    "plunder": EVERYWHERE,
    "starpilot": (*EVERYWHERE, "extreme"),
}
"""Distributions of levels of every game; "exploration" is one level."""

TRAINING_LEVELS = {"easy": 200}
"""Levels of training in the benchmark; 500 where nothing is said here."""

REDUCED_ACTIONS = (4, 7, 1, 5, 8, 2, 3)
"""The actions of the first CoinRun: noop, right, left, jump, right-jump, left-jump, down."""

_FLAGS = (
    "paint_vel_info",
    "use_backgrounds",
    "use_monochrome_assets",
    "restrict_themes",
    "use_generated_assets",
    "center_agent",
    "use_easy_jump",
)


@dataclasses.dataclass(frozen=True)
class Levels:
    """A range of levels.

    Args:
        start: The first one.
        count: How many.
    """

    start: int
    count: int

    def __contains__(self, level: int) -> bool:
        return self.start <= level < self.start + self.count


def levels_of(
    split: str | None,
    num_levels: int,
    start_level: int = 0,
    test_levels: int = 0,
) -> Levels:
    """Return the levels of a split.

    Args:
        split: ``"train"`` or ``"test"``; None is ``"test"``, or all levels if there is no test.
        num_levels: Number of training levels; 0 for all.
        start_level: The first training level.
        test_levels: Number of test levels, the first ones after those of training; 0 for all.

    Raises:
        RefusedError: If there are no such levels.
    """
    for name, value in (("num_levels", num_levels), ("start_level", start_level),
                        ("test_levels", test_levels)):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int):
            raise RefusedError(f"{name}={value!r} is not an integer.", "Allowed: 0, 1, 2, …")
        check_range(name, value, NON_NEGATIVE)
    if split not in (None, "train", "test"):
        raise RefusedError(f"There is no split {split!r}.", "Allowed: 'train' or 'test'.")
    end = start_level + num_levels
    if num_levels == 0:
        if start_level or test_levels or split == "test":
            raise RefusedError(
                "num_levels=0 trains on all levels; none is left for a test or to start at.",
                todo="Set num_levels to the number of training levels, such as 200.",
            )
        return Levels(0, MAX_LEVEL)
    if end + max(test_levels, 1) > MAX_LEVEL:
        raise RefusedError(
            f"start_level={start_level} with {num_levels} levels leaves none for the test.",
            f"Levels are below {MAX_LEVEL}.",
        )
    if split == "train":
        return Levels(start_level, num_levels)
    return Levels(end, test_levels or MAX_LEVEL - end)


class ProcgenVecEnv(EnvpoolVecEnv):
    """Copies of a game.

    Args:
        game: Name of the game, a key of ``GAMES``.
        n_envs: Number of copies.
        distribution: Of the levels: one of ``GAMES[game]``.
        split: ``"train"`` or ``"test"``; None follows ``training``.
        training: Play the levels of training unless ``split`` says otherwise.
        num_levels: Number of training levels; 0 for all. None takes 200 for easy ones, else 500.
        start_level: The first training level.
        test_levels: Number of test levels; 0 for all that are left.
        reduced_actions: Only the seven of ``REDUCED_ACTIONS`` instead of Procgen's fifteen.
        max_episode_steps: Steps after which an episode is truncated, if that is earlier than the
            game's own limit.
        num_threads: See :class:`~rlzoo.envs.envpool_vec.EnvpoolVecEnv`.
        monitor: See there.
        flags: Procgen's own: ``paint_vel_info`` (the speed as two grey squares in the corner),
            ``use_backgrounds``, ``restrict_themes``, …

    Observations are ``[3, 64, 64]`` uint8.

    Raises:
        RefusedError: If an argument is not known or out of range, or envpool or Qt are missing.
    """

    def __init__(
        self,
        game: str,
        n_envs: int = 1,
        *,
        distribution: str = "easy",
        split: str | None = None,
        training: bool = False,
        num_levels: int | None = None,
        start_level: int = 0,
        test_levels: int = 0,
        reduced_actions: bool = False,
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
        monitor: bool = True,
        **flags: bool,
    ) -> None:
        _check_game(game, distribution, flags)
        check_range("max_episode_steps", max_episode_steps, AT_LEAST_ONE)
        config: dict[str, Any] = dict(flags)
        self.levels: Levels | None = None
        if distribution == "exploration":
            if split is not None or num_levels or start_level or test_levels:
                raise RefusedError(
                    f"{game} with distribution='exploration' is one level for training and test.",
                    "Leave split, num_levels, start_level and test_levels out.",
                )
        else:
            split = split or ("train" if training else None)
            count = TRAINING_LEVELS.get(distribution, 500) if num_levels is None else num_levels
            self.levels = levels_of(split, count, start_level, test_levels)
            config.update(start_level=self.levels.start, num_levels=self.levels.count)
        load_procgen("CoinRun" if game == "coinrun" else game)
        super().__init__(
            f"{game.capitalize()}{distribution.capitalize()}-v0",
            n_envs,
            num_threads=num_threads,
            monitor=monitor,
            info_keys=("level_seed", "prev_level_complete"),
            step_limit=max_episode_steps,
            **config,
        )
        self._actions = np.array(REDUCED_ACTIONS, np.int32) if reduced_actions else None
        if self._actions is not None:
            self.action_space = spaces.Discrete(len(self._actions))

    def some(self, rows: npt.NDArray[np.int64]) -> Self:
        """Return a vector of some of the copies, which go on where they are while the others rest.

        It is for an evaluation whose other copies have played enough. The copies are shared: step
        only one of the two vectors until the next reset. With seeds set, a reset of the part gives
        it copies of its own.

        Args:
            rows: Their places in this vector, ``[n]``.
        """
        some = copy.copy(self)
        some.num_envs, some._ids = len(rows), self._ids[rows]
        for name in ("_seeds", "_options", "reset_infos"):
            values = getattr(self, name)
            setattr(some, name, [values[row] for row in rows.tolist()])
        return some

    def _to_pool(self, actions: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return actions if self._actions is None else self._actions[actions]

    def _receive(self) -> Batch:
        batch = super()._receive()
        # envpool calls every end in the step of the limit a truncation.
        done = batch.truncated & (batch.info["prev_level_complete"] > 0)
        if True in done.tolist():
            batch.terminated, batch.truncated = batch.terminated | done, batch.truncated & ~done
        return batch


class ProcgenEnv(EnvpoolEnv):
    """One copy of a game with Gymnasium's interface.

    Args:
        game: Name of the game.
        render_mode: ``"rgb_array"`` or None. Frames are the observations, four times as large.
        arguments: Of :class:`ProcgenVecEnv`.
    """

    def __init__(self, game: str, render_mode: str | None = None, **arguments: Any) -> None:
        super().__init__(ProcgenVecEnv(game, monitor=False, **arguments), render_mode)

    def render(self) -> Any:
        """Return the frame, ``[256, 256, 3]`` uint8."""
        frame = super().render()
        return None if frame is None else frame.repeat(4, axis=0).repeat(4, axis=1)


def make_procgen(
    env_id: str, spec: EnvSpec, n_envs: int, monitor: bool, **arguments: Any
) -> ProcgenVecEnv:
    """Make a vector of a registered game.

    Raises:
        RefusedError: As :class:`ProcgenVecEnv`.
    """
    check_fixed(env_id, spec, arguments)
    return ProcgenVecEnv(**{**spec.kwargs, **arguments}, n_envs=n_envs, monitor=monitor)


def check_fixed(env_id: str, spec: EnvSpec, arguments: Mapping[str, Any]) -> None:
    """Refuse to change what the id says.

    Raises:
        RefusedError: If an argument is another than that of the id.
    """
    for name, fixed in spec.kwargs.items():
        if arguments.get(name, fixed) != fixed:
            raise RefusedError(
                f"{name}={arguments[name]!r} cannot be set for {env_id!r}, which has {fixed!r}.",
                todo="Other games and distributions: procgen/<game>-<distribution>-v0.",
            )


def check_procgen() -> str:
    """Return which envpool and which Qt play Procgen here.

    Raises:
        RefusedError: If one of them is missing.
    """
    return f"envpool {import_envpool('Procgen').__version__}, {load_procgen('Procgen')}"


def load_procgen(what: str) -> str:
    """Load Qt and the extension that is linked against it.

    Args:
        what: What needs it, for the message.

    Returns:
        Where Qt is from, for people.

    Raises:
        RefusedError: If one of them cannot be loaded.
    """
    if importlib.util.find_spec("envpool") is None:
        import_envpool(what)  # refuses; that is to be said first
    qt = load_qt(what)
    import_envpool(what)
    module = importlib.import_module("envpool.procgen")
    if "ProcgenEnvSpec" not in vars(module):  # envpool was imported before, and without Qt
        importlib.reload(module)
    problem = getattr(module, "_PROCGEN_IMPORT_ERROR", None)
    if problem is not None:
        raise RefusedError(
            f"{what} cannot load envpool's Procgen with {qt}: {problem.__cause__ or problem}.",
            "It needs Qt 5.15.",
        ) from problem
    return qt


def meant_by(name: str) -> str | None:
    """Return the id that is meant by one of the procgen package or of envpool."""
    found = re.fullmatch(r"(?i)(?:procgen[-/])?([a-z]+?)[-_]?(easy|hard)?(?:-v\d+)?", name)
    if found is None or found[1].lower() not in GAMES:
        return None
    game, distribution = found[1].lower(), (found[2] or "").lower()
    if game == "coinrun" and not distribution:
        return "CoinRun"
    return _id(game, distribution or "easy")


def _id(game: str, distribution: str) -> str:
    return f"procgen/{game}-{distribution}-v0"


def _check_game(game: str, distribution: str, flags: dict[str, Any]) -> None:
    if game not in GAMES:
        raise RefusedError(
            f"Procgen has no game {game!r}. {did_you_mean(game, GAMES)}".rstrip(),
            f"Games: {', '.join(GAMES)}.",
        )
    if distribution not in GAMES[game]:
        raise RefusedError(
            f"{game} has no distribution {distribution!r}.", f"Allowed: {', '.join(GAMES[game])}."
        )
    for name, value in flags.items():
        if name == "use_sequential_levels":
            raise RefusedError(
                "use_sequential_levels goes on to levels that belong to no split.",
                f"Allowed: {', '.join(_FLAGS)}.",
            )
        if name not in _FLAGS:
            raise RefusedError(
                f"{game} has no argument {name!r}. {did_you_mean(name, _FLAGS)}".rstrip(),
                f"Allowed: distribution, num_levels, start_level, test_levels, reduced_actions, "
                f"max_episode_steps, num_threads, {', '.join(_FLAGS)}.",
            )
        if not isinstance(value, bool):
            raise RefusedError(f"{name}={value!r} is not a truth value.", "Allowed: true, false.")


def _register() -> None:
    gym.register("CoinRun", entry_point=PROCGEN, kwargs={"game": "coinrun"})
    for game, distributions in GAMES.items():
        for distribution in distributions:
            kwargs = {"game": game, "distribution": distribution}
            gym.register(_id(game, distribution), entry_point=PROCGEN, kwargs=kwargs)


_register()
