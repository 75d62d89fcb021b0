"""From what a user types to a policy: ``random``, a shipped behaviour, a model, a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.agents.registry import get_agent
from rlzoo.config import load_yaml
from rlzoo.config.schema import RunSettings, run_arguments
from rlzoo.core.safe_zip import load_model
from rlzoo.core.seeding import check_seed
from rlzoo.core.tasks.ids import canonical
from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.demonstrations import SCRIPTED, TASKS
from rlzoo.data.experts import scripted_expert
from rlzoo.data.policies import BatchPolicy, RandomPolicy, Step, uniform_actions
from rlzoo.data.recipes import BEHAVIOURS, ENV_NAMES
from rlzoo.envs import make_env
from rlzoo.envs.blind import RightJump
from rlzoo.errors import RefusedError, did_you_mean
from rlzoo.runs.evaluate import Evaluation
from rlzoo.runs.splits import Where

RIGHT_JUMP = "right-jump"
"""Blind policy for CoinRun, see :class:`rlzoo.envs.blind.RightJump`."""


class RandomActions(RandomPolicy):
    """Uniform actions for the collector, and with SB3's ``predict`` for evaluation.

    Args:
        action_space: A bounded Box or a Discrete.
    """

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        super().__init__(action_space)
        self._rng = np.random.default_rng()

    def predict(
        self,
        observation: NDArray[Any] | Mapping[str, NDArray[Any]],
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Return one action per row of a batch of observations, and ``state``, as SB3 does."""
        rows = next(iter(observation.values())) if isinstance(observation, Mapping) else observation
        return uniform_actions(
            self.action_space, self._rng.random((len(rows), self.uniforms))
        ), state

    def set_random_seed(self, seed: int | None) -> None:
        """Seed the generator that :meth:`predict` draws from."""
        self._rng = np.random.default_rng(seed)


class Scripted:
    """A scripted expert for the collector, and with SB3's ``predict`` for evaluation.

    Args:
        expert: From :func:`rlzoo.data.experts.scripted_expert`.
    """

    def __init__(self, expert: BatchPolicy) -> None:
        self.expert = expert
        self.normals, self.uniforms = expert.normals, expert.uniforms
        self.act, self.describe = expert.act, expert.describe

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Return one action per row of a batch of observations, and ``state``, as SB3 does."""
        n = len(next(iter(observation.values())))
        starts = np.zeros(n, np.bool_) if episode_start is None else episode_start.astype(np.bool_)
        none = np.zeros((n, 0))
        return self.act(observation, Step(none, none, starts, np.ones(n, np.bool_))), state

    def set_random_seed(self, seed: int | None) -> None:
        """Do nothing: an expert without noise draws nothing."""


@dataclass(frozen=True)
class Located:
    """What a specification of a policy names.

    Args:
        kind: ``"random"``, ``"right-jump"``, ``"scripted"``, ``"behaviour"`` or ``"model"``.
        env_id: Environment that it belongs to, None if that is not known.
        level: Level of a behaviour.
        path: Model file.
        run: Settings of the run that a model lies in; the defaults without one.
    """

    kind: str
    env_id: str | None = None
    level: str = ""
    path: Path | None = None
    run: RunSettings = field(default_factory=RunSettings)


def locate(spec: str, env_id: str | None = None) -> Located:
    """Find out what a specification names; nothing is loaded.

    Args:
        spec: ``"random"``, ``"right-jump"`` for Procgen, ``"scripted"`` for tasks with goals,
            ``"medium"``, ``"expert"``, ``"hopper/expert"``, the path of a model file, or a run
            folder.
        env_id: Environment, which wins over the one that the specification names.

    Raises:
        RefusedError: If it names nothing.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        model = path / "model.zip"
        if not model.is_file():
            raise RefusedError(
                f"The folder {path} has no model.zip.",
                "Allowed: the folder of a run that has finished, or a model file.",
            )
        return _located_model(model, env_id)
    for candidate in (path, Path(f"{path}.zip")):
        if candidate.is_file():
            return _located_model(candidate, env_id)
    family, _, level = spec.rpartition("/")
    env_of = {name: known for known, name in ENV_NAMES.items()}
    if level in BEHAVIOURS and (not family or family in env_of):
        kind = "random" if level == "random" else "behaviour"
        return Located(kind, env_id or env_of.get(family), level)
    if spec == RIGHT_JUMP:
        return Located(RIGHT_JUMP, env_id)
    if spec == SCRIPTED:
        task = TASKS.get(env_id or "")
        run = RunSettings() if task is None else RunSettings(env_kwargs=dict(task.env_kwargs))
        return Located(SCRIPTED, env_id, run=run)
    names = [
        *BEHAVIOURS,
        RIGHT_JUMP,
        SCRIPTED,
        *(f"{name}/{level}" for name in env_of for level in BEHAVIOURS),
    ]
    raise RefusedError(
        f"There is no model file, run folder or policy {spec!r}. "
        f"{did_you_mean(spec, names)}".rstrip(),
        f"Allowed: a model.zip, a run folder, {', '.join(BEHAVIOURS)}, or {names[-1]}.",
    )


def _located_model(path: Path, env_id: str | None) -> Located:
    """Return a model file with the environment of the run that it lies in."""
    try:
        trained_in = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))["env"]
        settings = load_yaml(path.parent / "config.yaml")[0]["all"]["run"]
        # An earlier version did not know all of them.
        known = {name: settings[name] for name in run_arguments() if name in settings}
        run = RunSettings(**known)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Located("model", env_id, path=path)
    if env_id is not None and canonical(env_id) != canonical(str(trained_in)):
        return Located("model", env_id, path=path)
    return Located("model", env_id or trained_in, "", path, run)


def load_policy(
    spec: str,
    env_id: str | None = None,
    device: str = "auto",
    trust: bool = False,
    agent: str | None = None,
    env: Any = None,
) -> Any:
    """Return a policy with SB3's ``predict`` that the collector takes as well.

    Args:
        spec: See :func:`locate`.
        env_id: Environment; needed where the specification does not name one.
        device: For a model.
        trust: Unpickle a model file that rlzoo did not write.
        agent: Class of such a file, a name in the registry.
        env: Vector of environments that the model must fit.

    Raises:
        RefusedError: If there is no such policy, or it cannot be loaded.
    """
    found = locate(spec, env_id)
    if found.kind == "model":
        cls = get_agent(agent).load_class() if agent else None
        return load_model(cls, str(found.path), env=env, device=device, trust_pickle=trust)
    if found.kind == "behaviour":
        return load_behaviour(known_env(found, spec), found.level)
    if found.kind == SCRIPTED:
        return Scripted(scripted_expert(known_env(found, spec)))
    probe = make_env(known_env(found, spec))
    try:
        if found.kind == RIGHT_JUMP:
            return RightJump(probe.action_space)
        return RandomActions(probe.action_space)
    finally:
        probe.close()


def evaluate_policy_spec(
    spec: str,
    env_id: str | None = None,
    episodes: int = 10,
    seed: int = 0,
    deterministic: bool | None = None,
    device: str = "auto",
    trust: bool = False,
    agent: str | None = None,
    epsilon: float | None = None,
    split: str | None = None,
) -> tuple[str, Evaluation]:
    """Evaluate anything that :func:`locate` finds on fresh episodes.

    Args:
        spec: See :func:`locate`.
        env_id: Environment; by default that of the run or of the policy.
        episodes: Number of episodes.
        seed: Seed of everything random.
        deterministic: Take the likeliest actions; None does as the run (or the split), and takes
            them without one.
        device: For a model.
        trust: Unpickle a model file that rlzoo did not write.
        agent: Class of such a file, a name in the registry.
        epsilon: Share of random actions; None takes that of the run, 0 without one.
        split: Evaluate on this one of the run's ``eval_splits`` instead.

    Returns:
        The environment id and the evaluation.

    Raises:
        RefusedError: If something is out of range, the environment is not known, or the model was
            made for other spaces.
    """
    seed = check_seed(seed)
    if episodes < 1:
        raise RefusedError(f"episodes={episodes} is out of range.", "Allowed: at least 1.")
    found = locate(spec, env_id)
    known = known_env(found, spec)
    run = found.run if epsilon is None else replace(found.run, eval_epsilon=epsilon)
    where = Where.named(known, run, split)
    if deterministic is not None:
        where = replace(where, deterministic=deterministic)
    env = where.make(episodes, run.eval_envs)
    try:
        policy = load_policy(spec, known, device, trust, agent, env=env)
        if found.kind != "model":
            policy.set_random_seed(seed)
        return where.env_id, where.evaluate(policy, env, episodes, seed, "eval", run.eval_epsilon)
    finally:
        env.close()


def known_env(found: Located, spec: str) -> str:
    """Return the environment of what was located.

    Raises:
        RefusedError: If neither the user nor the file names one.
    """
    if found.env_id is None:
        raise RefusedError(f"{spec} does not say its environment.", todo="Name it: --env Hopper-v4")
    return found.env_id
