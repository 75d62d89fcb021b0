"""Making environments: one function whatever the family."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlzoo.core.seeding import check_seed, stream
from rlzoo.envs import car_racing, compat, foraging, goals, multiroom, swingup
from rlzoo.envs.checks import ATARI, PROCGEN, check_api, check_env_id, first_line
from rlzoo.envs.goals.rooms_vec import FourRoomsVecEnv
from rlzoo.envs.guard import EnvFailedError, Guard, Unmade
from rlzoo.envs.workers import WorkerVecEnv
from rlzoo.errors import RefusedError

Factory = Callable[[], gym.Env[Any, Any]]

GYMNASIUM, ENVPOOL, BATCHED = "gymnasium", "envpool", "batched"
_BACKENDS = {
    ATARI: (GYMNASIUM, ENVPOOL),
    PROCGEN: (ENVPOOL, GYMNASIUM),
    multiroom.ENTRY_POINT: (BATCHED, GYMNASIUM),
    goals.ROOMS: (BATCHED, GYMNASIUM),
    swingup.ENTRY_POINT: (BATCHED, GYMNASIUM),
    foraging.ENTRY_POINT: (BATCHED, GYMNASIUM),
    car_racing.ENTRY_POINT: (GYMNASIUM, ENVPOOL),
    goals.POOL: (ENVPOOL, GYMNASIUM),
}
"""What may step a vector of a family, by its entry point; the first one unless asked for."""


def _family(spec: EnvSpec) -> str:
    """Return the entry point; for what envpool has of gymnasium-robotics that of the pool."""
    return goals.POOL if goals.is_pooled(spec.id) else str(spec.entry_point)


OF_VECTORS = ("backend", "num_threads")
"""Arguments that make no difference to one environment."""


def make_env(env_id: str, training: bool = False, **env_kwargs: Any) -> gym.Env[Any, Any]:
    """Make one environment.

    Args:
        env_id: Id of a registered environment, ``"module:Env-v0"``, or an id of a known family
            (``ALE/…``, ``MiniGrid-…``), whose package is imported.
        training: Make it as agents learn in it. Differs for Atari, where a lost life ends the
            episode and rewards are clipped (:mod:`rlzoo.envs.atari`), and for Procgen, which has
            levels of its own for training (:mod:`rlzoo.envs.procgen`).
        env_kwargs: Keyword arguments of the environment, such as ``render_mode``; those of Atari
            are in :func:`rlzoo.envs.atari.make_atari`, those of Procgen in
            :class:`rlzoo.envs.procgen.ProcgenVecEnv`; ``encoder`` of CarRacing-v3 (a file, or
            ``"auto"``) gives latents, see :mod:`rlzoo.envs.car_racing`. ``backend`` makes a
            difference for vectors only: a single game is the same with each.

    Raises:
        RefusedError: If the id is unknown or replaced, a package is missing, or the environment
            cannot be made with these arguments.
    """
    encoder = car_racing.take_encoder(env_id, env_kwargs, single=True)
    env = _make(env_id, training, False, env_kwargs)
    return env if encoder is None else car_racing.LatentEnv(env, encoder)


def _make(
    env_id: str, training: bool, monitor: bool, env_kwargs: dict[str, Any]
) -> gym.Env[Any, Any]:
    if env_kwargs.get("render_mode") not in (None, "human"):
        compat.choose_gl()
    spec = check_env_id(env_id)
    with _refusing(env_id, env_kwargs), compat.quiet_v4():
        if _family(spec) == goals.POOL:
            return _make_robot(env_id, spec, monitor, env_kwargs)
        if spec.entry_point in _BACKENDS:
            _backend(env_id, spec, env_kwargs)
            env_kwargs = {k: v for k, v in env_kwargs.items() if k not in OF_VECTORS}
        if spec.entry_point == ATARI:
            from rlzoo.envs.atari import make_atari  # imports OpenCV

            return make_atari(env_id, spec, training, monitor, **env_kwargs)
        if spec.entry_point == PROCGEN:
            from rlzoo.envs.procgen import check_fixed

            check_fixed(env_id, spec, env_kwargs)
            env_kwargs = {**env_kwargs, "training": training}
        env = gym.make(env_id, **env_kwargs)
        return Monitor(env) if monitor else env


def _make_robot(
    env_id: str, spec: EnvSpec, monitor: bool, env_kwargs: dict[str, Any]
) -> gym.Env[Any, Any]:
    """Make one Fetch or PointMaze, in envpool or with gymnasium-robotics."""
    backend = _backend(env_id, spec, env_kwargs)
    env_kwargs = {name: value for name, value in env_kwargs.items() if name != "backend"}
    if backend == ENVPOOL and env_kwargs.get("render_mode") is None:
        from rlzoo.envs.goals.pool import make_goal_env

        for name in ("render_mode", "disable_env_checker"):
            env_kwargs.pop(name, None)
        copy: gym.Env[Any, Any] = make_goal_env(spec, monitor, **env_kwargs)
        return copy
    if spec.entry_point == goals.POOL:
        raise RefusedError(
            f"{env_id!r} with gymnasium needs 'gymnasium-robotics'; only that can draw it, too.",
            todo='Install it with: pip install "rlzoo[goals]"',
        )
    from rlzoo.envs.goals.robots import FetchPositionsOnly, Succeeding

    env_kwargs.pop("num_threads", None)
    count = env_kwargs.pop("positions_only", None)
    env: gym.Env[Any, Any] = Succeeding(gym.make(env_id, **env_kwargs))
    if count is not None:
        env = FetchPositionsOnly(env, count)
    return Monitor(env) if monitor else env


@contextlib.contextmanager
def _refusing(env_id: str, env_kwargs: dict[str, Any]) -> Iterator[None]:
    """Turn whatever an environment raises while it is made into a refusal."""
    try:
        yield
    except RefusedError:
        raise
    except Exception as error:
        raise RefusedError(
            f"Environment {env_id!r} cannot be made: {first_line(error)}.",
            f"Given: {env_kwargs}." if env_kwargs else "",
        ) from error


def _backend(env_id: str, spec: EnvSpec, env_kwargs: dict[str, Any]) -> str:
    """Return what steps a vector, by ``env_kwargs["backend"]`` or the family."""
    allowed = _BACKENDS.get(_family(spec), ())
    backend = env_kwargs.get("backend") or (allowed or (GYMNASIUM,))[0]
    if not allowed and backend != ENVPOOL:  # the argument, if any, is the environment's own
        return GYMNASIUM
    if backend not in allowed:
        raise RefusedError(
            f"Environment {env_id!r} has no backend {backend!r}.",
            f"Allowed: {' or '.join(map(repr, allowed))}."
            if allowed
            else "Atari games, Procgen with CoinRun, CarRacing, Fetch and PointMaze have it.",
        )
    return str(backend)


def make_vec(
    env_id: str,
    n_envs: int = 1,
    seed: int = 0,
    split: str | None = None,
    monitor: bool = True,
    processes: bool = False,
    training: bool = False,
    **env_kwargs: Any,
) -> VecEnv:
    """Make ``n_envs`` copies behind one SB3 ``VecEnv``.

    Environment ``i`` is seeded with ``stream(seed, "env", i)`` at its first reset. An environment
    that is not Gymnasium's own is checked against the API first, on a separate instance.

    Args:
        env_id: See :func:`make_env`.
        n_envs: Number of copies, at least 1.
        seed: Seed of the run.
        split: ``"train"`` or ``"test"`` levels of CoinRun and Procgen; None follows ``training``
            there, and is all that environments without such a split take.
        monitor: Record returns and lengths of the episodes with SB3's ``Monitor``.
        processes: One process per copy. Pays for slow environments only. Not with envpool, which
            has threads: ``num_threads``.
        training: See :func:`make_env`; evaluations leave it out.
        env_kwargs: Keyword arguments of the environment. ``backend`` chooses what steps the copies:
            ``"gymnasium"``, one after the other; ``"envpool"``, C++ threads, for Atari and
            CarRacing (if asked for), and for Procgen, Fetch and PointMaze (unless asked otherwise);
            ``"batched"``, all at once, for MultiRoom, Four Rooms, swing-up and foraging (unless
            asked otherwise, or in processes). What draws images (``render_mode``) is stepped one
            after the other.

    Raises:
        RefusedError: As :func:`make_env`, or if the environment breaks the API.
    """
    seed = check_seed(seed)
    if n_envs < 1:
        raise RefusedError(f"n_envs={n_envs} is out of range.", "Allowed: 1, 2, …")
    spec = check_env_id(env_id)
    if spec.entry_point == PROCGEN:
        env_kwargs["split"] = split
    elif split is not None:
        raise RefusedError(
            f"Environment {env_id!r} has no split {split!r}.", "Allowed: None for this environment."
        )
    if spec.entry_point == goals.ROOMS:  # drawn once per run, the same ones in every copy
        env_kwargs.setdefault("goal_seed", stream(seed, "goals"))
    encoder = car_racing.take_encoder(env_id, env_kwargs)
    backend, drawn = _backend(env_id, spec, env_kwargs), env_kwargs.get("render_mode") is not None
    if backend == BATCHED and not (drawn or processes):
        vec: VecEnv = _batch(make_env(env_id, training, **env_kwargs), spec, n_envs, monitor)
    elif backend == ENVPOOL and not drawn:
        vec = _pool(env_id, spec, n_envs, training, monitor, processes, env_kwargs)
    else:
        vec = _copies(env_id, n_envs, training, monitor, processes, env_kwargs)
    if encoder is not None:
        vec = car_racing.LatentVecEnv(vec, encoder)
    # SB3 hands these to the first reset of each environment.
    vec._seeds = [stream(seed, "env", index) for index in range(n_envs)]
    return vec


def _batch(only: gym.Env[Any, Any], spec: EnvSpec, n_envs: int, monitor: bool) -> VecEnv:
    """Multiply an environment in its family's batched simulator."""
    if spec.entry_point == goals.ROOMS:
        return FourRoomsVecEnv(only, n_envs, monitor)
    if spec.entry_point in (swingup.ENTRY_POINT, foraging.ENTRY_POINT):
        return swingup.make_batch(only, n_envs, monitor)
    from rlzoo.envs.multiroom.vec import MultiRoomVecEnv  # needs minigrid

    return MultiRoomVecEnv(only.unwrapped, n_envs, monitor)  # type: ignore[arg-type]


def _pool(
    env_id: str,
    spec: EnvSpec,
    n_envs: int,
    training: bool,
    monitor: bool,
    processes: bool,
    env_kwargs: dict[str, Any],
) -> VecEnv:
    """Make the copies in envpool."""
    if processes:
        raise RefusedError(
            "processes=True does not go with envpool, which has threads.",
            "Set num_threads in env_kwargs, or backend='gymnasium'.",
        )
    with _refusing(env_id, env_kwargs):
        wanted = {k: v for k, v in env_kwargs.items() if k not in ("backend", "render_mode")}
        if spec.entry_point == ATARI:
            from rlzoo.envs.atari_pool import make_atari_pool

            return make_atari_pool(env_id, spec, n_envs, monitor, training, **wanted)
        if _family(spec) == goals.POOL:
            from rlzoo.envs.goals.pool import GoalPoolVecEnv

            return GoalPoolVecEnv(spec.id, n_envs, monitor=monitor, spec=spec, **wanted)
        if spec.entry_point == car_racing.ENTRY_POINT:
            return car_racing.CarRacingPoolVecEnv(n_envs, monitor=monitor, spec=spec, **wanted)
        from rlzoo.envs.procgen import make_procgen

        return make_procgen(env_id, spec, n_envs, monitor, training=training, **wanted)


def _copies(
    env_id: str,
    n_envs: int,
    training: bool,
    monitor: bool,
    processes: bool,
    env_kwargs: dict[str, Any],
) -> VecEnv:
    """Make the copies one by one, in this process or in one for each."""
    if processes or not _is_builtin(env_id):  # A failing worker would only say "connection reset".
        env = make_env(env_id, training, **env_kwargs, disable_env_checker=True)
        try:
            check_api(env, env_id)
        finally:
            env.close()

    factories: list[Factory] = [
        partial(_make_copy, env_id, index, n_envs, training, monitor, processes, env_kwargs)
        for index in range(n_envs)
    ]
    return _in_processes(factories) if processes else _in_this_process(factories)


def _make_copy(
    env_id: str,
    index: int,
    n_envs: int,
    training: bool,
    monitor: bool,
    remote: bool,
    env_kwargs: dict[str, Any],
) -> gym.Env[Any, Any]:
    """Make one copy, in the process that it will run in."""
    if remote:
        # Ctrl-C reaches every process of a terminal; the parent decides when the workers end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return Guard(_make(env_id, training, monitor, env_kwargs), remote)
    except RefusedError as error:
        if remote:
            return Unmade(error, env_kwargs.get("render_mode"))
        if index:  # Others could be made, so the cause may lie in the number of them.
            error.given = f"Copy {index} of 0 to {n_envs - 1}: {error.given}"
        raise


def _in_processes(factories: list[Factory]) -> VecEnv:
    try:
        return WorkerVecEnv(factories)
    except EnvFailedError as error:
        raise RefusedError(error.given, todo=error.todo) from error.__cause__


def _in_this_process(factories: list[Factory]) -> VecEnv:
    made: list[gym.Env[Any, Any]] = []

    def keep(factory: Factory) -> gym.Env[Any, Any]:
        made.append(factory())
        return made[-1]

    try:
        return DummyVecEnv([partial(keep, factory) for factory in factories])
    except Exception:
        for env in made:
            env.close()
        raise


def _is_builtin(env_id: str) -> bool:
    """Whether the environment is Gymnasium's own, which upstream checks."""
    return str(check_env_id(env_id).entry_point).startswith("gymnasium.envs.")
