"""Refusing an environment before anything is started, with the reason and what to do.

The checks answer cases 2 to 8 of the fault list: unknown ids, missing packages, replaced versions,
action spaces that an agent cannot use, and environments that break the API.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import re
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator, parse_env_id
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core.asserts import with_asserts
from rlzoo.envs import compat, goals
from rlzoo.errors import RefusedError, did_you_mean

_FAMILIES: tuple[tuple[str, str, str], ...] = (
    (r"ALE/|.*NoFrameskip-v\d|.*-ram(Deterministic)?-v\d", "ale_py", "rlzoo[atari]"),
    (r"MiniGrid-|BabyAI-", "minigrid", "minigrid"),
    (
        r"Fetch|HandReach|HandManipulate|PointMaze|AntMaze|Adroit|FrankaKitchen",
        "gymnasium_robotics",
        "rlzoo[goals]",
    ),
    (r"(?i)coinrun|procgen", "rlzoo.envs.procgen", "rlzoo[coinrun]"),
)
"""Pattern of an id, module that registers it, package to install."""

ATARI = "ale_py.env:AtariEnv"
"""Entry point of every game."""

PROCGEN = "rlzoo.envs.procgen:ProcgenEnv"
"""Entry point of CoinRun and the other games of Procgen."""

_BROKEN_FETCH = r"Fetch(Reach|Push|Slide|PickAndPlace)(Dense)?-v[0-3]"

ATARI_IDS = r"ALE/\w+-v5|\w+NoFrameskip-v4"
"""The ids of games that :mod:`rlzoo.envs.atari` makes; others have rules of their own."""


def check_env_id(env_id: str) -> EnvSpec:
    """Return the registered spec of an id, importing the package that registers it if need be.

    Args:
        env_id: As for ``gymnasium.make``: ``"Hopper-v4"`` or ``"module:Env-v0"``. The version must
            be given, so that the same command means the same environment next year.

    Raises:
        RefusedError: If the id is unknown (with the nearest ones), has been replaced (with its
            successor), or needs a package that is missing (with the install command).
    """
    module, _, name = env_id.rpartition(":")
    if module and module != "procgen":  # its old ids; the package has no version for this Python
        _import_for(env_id, module, f"Install the package that has the module {module!r}.")
    if re.fullmatch(_BROKEN_FETCH, name):
        _refuse_fetch(name)
    spec = gym.registry.get(name) or _register_family(name)
    if spec is None:
        _refuse_unknown(env_id, name)
    if _is_dead(spec) and _versions(name):
        _refuse_replaced(name)
    if isinstance(spec.entry_point, str):
        try:
            load_env_creator(spec.entry_point)
        except (ImportError, gym.error.DependencyNotInstalled) as error:
            _refuse_missing(env_id, error)
        compat.quiet_mujoco()
        compat.integer_joints()
    return spec


def check_action_space(
    accepted: Collection[str],
    env: gym.Env[Any, Any] | VecEnv,
    agent: str = "this agent",
    agents: Mapping[str, Collection[str]] | None = None,
) -> None:
    """Check that an agent can act in an environment.

    Args:
        accepted: Names of the action spaces that the agent accepts, as in ``("Box",)``.
        env: An environment or vector of environments.
        agent: Name of the agent, for the message.
        agents: Accepted action spaces of every agent, for naming those that fit.

    Raises:
        RefusedError: If the kind of space does not fit, or a dimension of a Box has no finite,
            non-empty range.
    """
    space = env.action_space
    kind = type(space).__name__
    if kind not in accepted:
        fitting = [name for name, kinds in (agents or {}).items() if kind in kinds]
        raise RefusedError(
            f"{agent} cannot act in an environment with the action space {space}.",
            f"{agent} accepts: {', '.join(accepted)}.",
            f"Agents that fit: {', '.join(fitting)}." if fitting else "",
        )
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        bad = ~(np.isfinite(low) & np.isfinite(high) & (low < high))
        if bad.any():
            index = tuple(int(i) for i in np.argwhere(bad)[0])
            place = index[0] if len(index) == 1 else index
            raise RefusedError(
                f"Dimension {place} of the action space is [{low[index]:g}, {high[index]:g}].",
                "Every dimension needs a finite lower bound below a finite upper bound.",
                "Wrap the environment with gymnasium.wrappers.RescaleAction or give it bounds.",
            )


def policy_for(space: gym.Space[Any]) -> str:
    """Return the name of SB3's policy for an observation space.

    Raises:
        RefusedError: If SB3 has none for it.
    """
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    if is_image_space(space):
        return "CnnPolicy"
    if isinstance(space, (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)):
        return "MlpPolicy"
    raise RefusedError(
        f"No policy takes the observation space {space}.",
        "Allowed: Box, Discrete, MultiDiscrete, MultiBinary, Dict.",
        "Wrap the environment with gymnasium.wrappers.FlattenObservation.",
    )


def check_api(env: gym.Env[Any, Any], env_id: str = "") -> None:
    """Reset and step an environment once, and refuse the first broken rule of the Gymnasium API.

    NumPy booleans and NumPy floats are accepted as flags and reward, as Gymnasium does.

    Args:
        env: A fresh environment; its random state is used, so train with another instance.
        env_id: How the message calls it.

    Raises:
        RefusedError: With the first rule that is broken.
    """
    name = env_id or type(env.unwrapped).__name__
    try:
        # The checker prints a note for every environment that has compute_reward.
        with contextlib.redirect_stdout(io.StringIO()):
            # SB3's rules are assert statements; under python -O they would all pass.
            checker = with_asserts("stable_baselines3.common.env_checker")
            checker.check_env(_PlainScalars(env), warn=False)
    except Exception as error:
        raise RefusedError(
            f"Environment {name!r} breaks the Gymnasium API.",
            first_line(error),
            "Rules: https://gymnasium.farama.org/api/env/",
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error; its type and place when it has no message."""
    text = str(error).strip().splitlines()
    if text:
        return text[0][:300]
    place, trace = "", error.__traceback__
    while trace is not None:
        place = f" in {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} without a message{place}"


class _PlainScalars(gym.Wrapper[Any, Any, Any, Any]):
    """Turns NumPy scalars among the step values into Python's, which SB3's checker wants."""

    def __getattr__(self, name: str) -> Any:
        if name != "compute_reward":  # all that the checker calls beyond Gymnasium's API
            raise AttributeError(name)
        return self.env.get_wrapper_attr(name)

    def step(self, action: Any) -> Any:
        values: Any = self.env.step(action)
        if not isinstance(values, tuple):
            return values
        return tuple(
            v.item() if isinstance(v, (np.bool_, np.floating)) and i > 0 else v
            for i, v in enumerate(values)
        )


def _register_family(name: str) -> EnvSpec | None:
    """Import the package that registers an id of a known family."""
    has = {module: importlib.util.find_spec(module) for module in ("gymnasium_robotics", "envpool")}
    if goals.is_pooled(name) and not has["gymnasium_robotics"] and has["envpool"]:
        goals.register_pooled(name)
        return gym.registry[name]
    for pattern, module, package in _FAMILIES:
        if re.match(pattern, name):
            _import_for(name, module, f'Install it with: pip install "{package}"')
            return gym.registry.get(name)
    with contextlib.suppress(ImportError):  # games are also called Pong-v4, or by mistake Pong-v5
        importlib.import_module("ale_py")
    return gym.registry.get(name)


def _import_for(env_id: str, module: str, todo: str) -> None:
    try:
        compat.import_quietly(module)
    except ImportError as error:
        raise RefusedError(
            f"Environment {env_id!r} needs {module!r}: {first_line(error)}.", todo=todo
        ) from error


def _is_dead(spec: EnvSpec) -> bool:
    """Whether an id is registered only to say that it no longer runs."""
    entry = spec.entry_point
    if callable(entry):
        return getattr(entry, "__module__", "") == "gymnasium.envs"
    if spec.id == "Pusher-v4":  # Its model has been wrong since MuJoCo 3 (Gymnasium issue 950).
        return _mujoco_major() >= 3
    return str(entry).startswith("gymnasium.envs.mujoco") and spec.version in (2, 3)


def _mujoco_major() -> int:
    from importlib.metadata import version

    return int(version("mujoco").split(".")[0])


def _versions(name: str) -> list[str]:
    """Return the usable ids with the same namespace and name, oldest first."""
    namespace, base, _ = parse_env_id(name)
    found = [s for s in gym.registry.values() if (s.namespace, s.name) == (namespace, base)]
    usable = [s for s in found if not _is_dead(s)]
    return [s.id for s in sorted(usable, key=lambda s: s.version or 0)]


def _refuse_fetch(name: str) -> NoReturn:
    task = name.rpartition("-")[0]
    raise RefusedError(
        f"{name!r} is not used: before version 4 its robot starts elsewhere than documented.",
        f"Successor: {task}-v4. Reasons: Gymnasium-Robotics issues 251, 264 and 269.",
    )


def _refuse_replaced(name: str) -> NoReturn:
    _, base, version = parse_env_id(name)
    raise RefusedError(
        f"Environment {name!r} no longer runs: version {version} of {base} was replaced.",
        f"Successor: {' or '.join(_versions(name))}.",
    )


def _game_called(name: str) -> str | None:
    """Return the id of the Atari game that is meant by ``Pong``, ``pong-v5`` or ``ALE/Pong-v4``."""
    base = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?(-v\d+)?$", "", name)
    wanted = f"ALE/{base.replace('_', '')}-v5".lower()
    return next((known for known in gym.registry if known.lower() == wanted), None)


def _can_be_made(spec: EnvSpec) -> bool:
    is_other_game = spec.entry_point == ATARI and not re.fullmatch(ATARI_IDS, spec.id)
    return not (is_other_game or _is_dead(spec))


def _refuse_unknown(env_id: str, name: str) -> NoReturn:
    level = importlib.import_module("rlzoo.envs.procgen").meant_by(name)
    if level is not None:
        raise RefusedError(
            f"Unknown environment {env_id!r}. Did you mean {level!r}?",
            "Procgen: CoinRun, or procgen/<game>-<distribution>-v0, as in procgen/maze-hard-v0.",
        )
    game = _game_called(name)
    if game is not None:
        old = game.removeprefix("ALE/").replace("-v5", "NoFrameskip-v4")
        raise RefusedError(
            f"Unknown environment {env_id!r}. Did you mean {game!r}?",
            f"Known: {game} or {old}." if old in gym.registry else "",
        )
    try:
        _, _, version = parse_env_id(name)
        same = _versions(name)
    except gym.error.Error as error:
        raise RefusedError(
            f"{env_id!r} is not an environment id.",
            "Allowed: [namespace/]name-v<number>, as in Hopper-v4.",
        ) from error
    if same and version is None:
        raise RefusedError(
            f"Environment {env_id!r} has no version.", f"Allowed: {' or '.join(same)}."
        )
    if same and (version or 0) < (gym.registry[same[0]].version or 0):
        _refuse_replaced(name)
    usable = [s.id for s in gym.registry.values() if _can_be_made(s)]
    raise RefusedError(
        f"Unknown environment {env_id!r}. {did_you_mean(name, same or usable)}".strip(),
        f"Known versions: {', '.join(same)}." if same else "",
        "" if same else "An own one: register it, then --env module:Name-v0",
    )


def _refuse_missing(env_id: str, error: Exception) -> NoReturn:
    commands = re.findall(r"pip install (?:\"[^\"]+\"|[\w\[\],-]+)", str(error))
    module = getattr(error, "name", None)
    todo = commands[-1] if commands else f'pip install "{module}"' if module else ""
    raise RefusedError(
        f"Environment {env_id!r} needs a package that is missing: {first_line(error)}.",
        todo=f"Install it with: {todo}" if todo else "",
    ) from error
