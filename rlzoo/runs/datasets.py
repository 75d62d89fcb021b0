"""From the id of a data set to the data: read it where it is, collect it where it is not."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from minari.storage import get_dataset_path
from stable_baselines3.common.save_util import save_to_pkl

from rlzoo.core.goal_episodes import GoalEpisodes
from rlzoo.core.safe_files import replacing
from rlzoo.data import d4rl, minari_io
from rlzoo.data import recipes as recipe_book
from rlzoo.data.collect import collect
from rlzoo.data.demonstrations import SCRIPTED, scripted_recipe, slots_for, standard_recipes
from rlzoo.data.goals import goal_layout, to_goal_episodes
from rlzoo.data.load import is_pickle, load_dataset
from rlzoo.data.recipes import RECIPES, REPLAY, Recipe, get_recipe
from rlzoo.data.sb3_buffers import to_replay_buffer
from rlzoo.data.shards import discard
from rlzoo.data.transitions import Transitions
from rlzoo.envs import check_env_id, make_env
from rlzoo.envs.make import OF_VECTORS
from rlzoo.errors import RefusedError
from rlzoo.runs.directory import safe_name
from rlzoo.runs.policies import load_policy, locate
from rlzoo.runs.progress import Progress, Silent

try:
    import fcntl
except ImportError:  # Windows: data sets are collected by the driver anyway
    fcntl = None  # type: ignore[assignment]

FILE_SUFFIXES = (".hdf5", ".h5")
_NOT_IN_DATA = (*OF_VECTORS, "goal_seed")  # other arguments of an environment change the data
# Starting a worker costs seconds (it imports torch); below this size one process is faster.
_WORTH_WORKERS = 50_000


@dataclass(frozen=True)
class CollectRequest:
    """A collection that is not a recipe.

    Args:
        env_id: Environment id.
        policy: As for :func:`rlzoo.runs.policies.load_policy`.
        out: Minari id, or path of a D4RL ``.hdf5`` file.
        size: Number of transitions.
        seed: Of all streams.
        n_envs: Slots; part of what makes the data.
        deterministic: Take deterministic actions.
        epsilon: Probability of a uniform action.
        noise: Standard deviation of noise on actions scaled to [-1, 1].
        workers: Processes; all cores by default. The data do not depend on it.
        overwrite: Replace what is there.
        trust: Unpickle a model file that rlzoo did not write.
        agent: Class of such a model file, a name in the registry.
        episodes: Number of whole episodes, in place of ``size``; only for environments whose
            episodes end at their time limit, as those with goals do.
    """

    env_id: str
    policy: str
    out: str
    size: int = 100_000
    seed: int = 0
    n_envs: int = 16
    deterministic: bool = False
    epsilon: float = 0.0
    noise: float = 0.0
    workers: int | None = None
    overwrite: bool = False
    trust: bool = False
    agent: str | None = None
    episodes: int | None = None


def home() -> Path:
    """Return the folder for unfinished collections: ``$RLZOO_HOME``, by default ``~/.rlzoo``."""
    return Path(os.environ.get("RLZOO_HOME", Path.home() / ".rlzoo"))


def ensure_dataset(
    source: str | Path, progress: Progress | None = None, workers: int | None = None
) -> Transitions:
    """Return a data set; a recipe that is not in the Minari store is collected and stored.

    Args:
        source: Recipe id such as ``rlzoo/hopper/medium-v0``, another Minari id, or a path.
        progress: Where the collection reports.
        workers: Processes that collect; all cores by default. The data do not depend on it.
    """
    name = str(source)
    ours = name.startswith("rlzoo/") and minari_io.is_id(name) and not Path(name).exists()
    if not ours or minari_io.exists(name):
        return load_dataset(source)
    recipe = get_recipe(name)  # its id may be shorter than the name: medium-1000k is medium
    if minari_io.exists(recipe.id):
        return load_dataset(recipe.id)
    return collect_recipe(recipe, progress, workers)


def ensure_demonstrations(
    source: str | None, env_id: str, env_kwargs: Mapping[str, Any], progress: Progress | None = None
) -> GoalEpisodes:
    """Return demonstrations of a task; those of its scripted expert are collected where absent.

    Args:
        source: Recipe id, Minari id or path; by default 20 episodes of the scripted expert.
        env_id: The task.
        env_kwargs: Arguments of the environment that the agent trains in.
        progress: Where the collection reports.

    Raises:
        RefusedError: If there is no expert for the task, or the data are of another one.
    """
    if source is not None:
        return to_goal_episodes(ensure_dataset(source, progress), env_id)
    own = {name: value for name, value in env_kwargs.items() if name not in _NOT_IN_DATA}
    recipe = scripted_recipe(env_id, env_kwargs=own)
    with one_at_a_time(recipe.id):
        found = minari_io.exists(recipe.id)
        data = load_dataset(recipe.id) if found else collect_recipe(recipe, progress)
    return to_goal_episodes(data, env_id)


@contextlib.contextmanager
def one_at_a_time(dataset_id: str) -> Iterator[None]:
    """Wait until no other process of this machine collects the data set, and keep others waiting.

    Args:
        dataset_id: Recipe id.
    """
    path = home() / "collecting" / f"{safe_name(dataset_id)}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def collect_recipe(
    recipe: Recipe, progress: Progress | None = None, workers: int | None = None
) -> Transitions:
    """Collect a recipe and put it into the Minari store, replacing what is there.

    A collection that was killed goes on where it was; the result has the same bytes.
    """
    progress = progress or Silent()
    work_dir = _work_dir(recipe.id)
    if recipe.behaviour == REPLAY:
        # A training needs data sets and this module: imported when both are complete.
        from rlzoo.runs.replay_recipe import collect_replay

        stored = store(collect_replay(recipe, work_dir, progress), recipe.id, overwrite=True)
        shutil.rmtree(work_dir, ignore_errors=True)
        return stored
    progress.start(f"collecting {recipe.id}", recipe.size, "transitions")
    try:
        data = recipe_book.collect_recipe(
            recipe,
            partial(make_env, recipe.env_id, **recipe.env_kwargs),
            workers=_workers(workers, recipe.size),
            work_dir=work_dir,
            progress=lambda done, _: progress.update(done),
        )
    finally:
        progress.stop()
    stored = store(data, recipe.id, overwrite=True)
    for folder in recipe_book.work_folders(recipe, work_dir):
        discard(folder)
    return stored


def collect_request(request: CollectRequest, progress: Progress | None = None) -> Transitions:
    """Collect with any policy and write the result where the request says.

    Raises:
        RefusedError: If something is out of range, or the target exists and may not be replaced.
    """
    progress = progress or Silent()
    check_env_id(request.env_id)
    _check_target(request)
    env_kwargs = _env_kwargs(request)
    request = _in_transitions(request, env_kwargs)
    policy = load_policy(
        request.policy, request.env_id, trust=request.trust, agent=request.agent, device="cpu"
    )
    work_dir = _work_dir(request.out)
    progress.start(f"collecting {request.out}", request.size, "transitions")
    try:
        data = collect(
            partial(make_env, request.env_id, **env_kwargs),
            policy,
            size=request.size,
            seed=request.seed,
            n_envs=request.n_envs,
            deterministic=request.deterministic,
            epsilon=request.epsilon,
            gaussian_noise=request.noise,
            workers=_workers(request.workers, request.size),
            work_dir=work_dir,
            progress=lambda done, _: progress.update(done),
            metadata={"id": request.out, "env_id": request.env_id},
        )
    finally:
        progress.stop()
    stored = store(data, request.out, request.overwrite)
    discard(work_dir)
    return stored


def _env_kwargs(request: CollectRequest) -> dict[str, Any]:
    """Return the arguments of the environment: those of the policy's run, or of its expert."""
    found = locate(request.policy, request.env_id)
    if found.kind == SCRIPTED:
        return scripted_recipe(request.env_id).env_kwargs
    return dict(found.run.env_kwargs)


def _in_transitions(request: CollectRequest, env_kwargs: dict[str, Any]) -> CollectRequest:
    """Return the request with its episodes counted in transitions, slot by slot.

    Raises:
        RefusedError: If the environment has no time limit, so that nothing can be said.
    """
    if request.episodes is None:
        return request
    if request.episodes < 1:
        raise RefusedError(f"episodes={request.episodes} is out of range.", "Allowed: at least 1.")
    env = make_env(request.env_id, **env_kwargs)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    with_goals = goal_layout(env.observation_space) is not None
    env.close()
    if limit is None or not with_goals:
        raise RefusedError(
            f"--episodes cannot be used with {request.env_id}, whose episodes vary in length.",
            "Allowed: environments with goals, whose episodes end at their time limit.",
            "Give the number of transitions: --size",
        )
    size = request.episodes * limit
    return replace(request, size=size, n_envs=slots_for(request.episodes))


def is_file(target: str) -> bool:
    """Return whether a target names a D4RL file and not a Minari id."""
    return Path(target).suffix in FILE_SUFFIXES


def store(data: Transitions, target: str, overwrite: bool = False) -> Transitions:
    """Write a data set to the Minari store, or to a D4RL file when ``target`` ends like one.

    The statistics of the returns go into the metadata, so that a list of data sets need not read
    them all.

    Returns:
        The data set with its new metadata.
    """
    data = data.with_metadata(id=target, returns=data.return_statistics())
    if is_file(target):
        d4rl.save(data, target, overwrite=overwrite)
        return data
    return minari_io.save(data, target, overwrite=overwrite)


def open_unchecked(source: str, env_id: str | None = None) -> Transitions:
    """Return a data set that may be invalid, for looking at it and repairing it.

    Raises:
        RefusedError: If it is missing or so damaged that it cannot be read at all.
    """
    path = Path(source).expanduser()
    if is_pickle(source):
        return load_dataset(source)  # it refuses: only an import may unpickle
    if path.is_file():
        return d4rl.load(path, env_id=env_id, check=False)
    if path.is_dir() and not (minari_io.is_id(source) and minari_io.exists(source)):
        return minari_io.load_folder(path, check=False)
    if minari_io.is_id(source):
        return minari_io.load(source, check=False)
    return load_dataset(source)  # it refuses, and says what is possible


def _check_target(request: CollectRequest) -> None:
    out = request.out
    taken = Path(out).exists() if is_file(out) else minari_io.exists(out)
    if taken and not request.overwrite:
        raise RefusedError(f"{out} exists already.", "", "Give another --out, or --overwrite.")


def _work_dir(target: str) -> Path:
    return home() / "collecting" / safe_name(target)


def _workers(workers: int | None, size: int) -> int:
    if workers is not None:
        return workers
    if size < _WORTH_WORKERS:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Known:
    """A line of ``rlzoo dataset list``.

    Args:
        id: Recipe or Minari id.
        here: Whether it is in the local store.
        env_id: Environment, None if unknown.
        size: Number of transitions, None if unknown.
        episodes: Number of episodes, None if unknown.
        returns: ``mean`` and ``std`` of complete episodes, None for sets of others.
    """

    id: str
    here: bool
    env_id: str | None = None
    size: int | None = None
    episodes: int | None = None
    returns: dict[str, float] | None = None


def list_known() -> list[Known]:
    """Return every recipe and every local data set, sorted by id; no arrays are read."""
    local = minari_io.local_ids()
    absent = [
        Known(recipe.id, False, recipe.env_id, recipe.size)
        for recipe in {**RECIPES, **standard_recipes()}.values()
        if recipe.id not in local
    ]
    return sorted([*absent, *(_local(name) for name in local)], key=lambda known: known.id)


def _local(dataset_id: str) -> Known:
    path = Path(get_dataset_path(dataset_id)) / "data" / "metadata.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        env_id = json.loads(facts["env_spec"])["id"] if "env_spec" in facts else None
        ours = (facts.get("rlzoo") or {}).get("metadata") or {}
        return Known(
            dataset_id,
            True,
            ours.get("env_id") or env_id,
            facts.get("total_steps"),
            facts.get("total_episodes"),
            ours.get("returns"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Known(dataset_id, True)


def export_dataset(source: str, target: Path, overwrite: bool = False) -> Transitions:
    """Write a data set as a D4RL file (``.hdf5``) or as SB3's replay buffer (``.pkl``).

    Raises:
        RefusedError: If the file exists, or its suffix is another one.
    """
    data = load_dataset(source)
    if is_file(str(target)):
        d4rl.save(data, target, overwrite=overwrite)
        return data
    if target.suffix != ".pkl":
        raise RefusedError(
            f"{target} has an unknown suffix.",
            "Allowed: .hdf5 (D4RL layout), .pkl (SB3 replay buffer).",
        )
    if target.exists() and not overwrite:
        raise RefusedError(f"{target} exists already.", "", "Give another name, or --overwrite.")
    buffer = to_replay_buffer(data, device="cpu")
    with replacing(target) as file:
        save_to_pkl(file, buffer)
    return data
