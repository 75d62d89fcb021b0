"""The data set ``medium-replay``: everything that the training of a shipped behaviour saw.

The card of the behaviour names the command that trained it; the recipe runs that command and keeps
its replay buffer. The same versions on the same kind of processor give the same bytes.
"""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.collect import versions
from rlzoo.data.recipes import Recipe
from rlzoo.data.sb3_buffers import from_replay_buffer
from rlzoo.data.transitions import Transitions
from rlzoo.errors import FailedError, RefusedError
from rlzoo.runs.progress import Progress
from rlzoo.runs.resume import ResumeRequest, resume
from rlzoo.runs.train import TrainRequest, train

_OPTIONS = {
    "--env": ("env_id", str),
    "--steps": ("steps", int),
    "--seed": ("seed", int),
    "--n-envs": ("n_envs", int),
    "--device": ("device", str),
    "--threads": ("threads", int),
}


def collect_replay(recipe: Recipe, run_dir: Path, progress: Progress) -> Transitions:
    """Train as the medium behaviour was trained, and return the replay buffer.

    Args:
        recipe: One whose behaviour is ``REPLAY``.
        run_dir: Folder of the run; a training that was stopped in there goes on. The caller
            deletes it.
        progress: Where messages and the bar go.

    Returns:
        The transitions, environment by environment, each in the order of time. The episodes that
        the end of the training cut are in ``metadata["cut_episodes"]``.
    """
    command = str(load_behaviour(recipe.env_id, "medium").card["command"])
    progress.message(f"{recipe.id} is the replay buffer of: {command}")
    threads = th.get_num_threads()
    try:
        model = _trained(command, run_dir, progress)
    finally:
        th.set_num_threads(threads)  # the command has its own; whoever asked goes on with theirs
    buffer = model.replay_buffer
    if buffer is None:
        raise FailedError(f"{command} left no replay buffer.")
    return from_replay_buffer(buffer, recipe.env_id, recipe.id).with_metadata(
        recipe=recipe.as_dict(), command=command, versions=versions()
    )


def _trained(command: str, run_dir: Path, progress: Progress) -> OffPolicyAlgorithm:
    result = None
    if (run_dir / "manifest.json").is_file():
        try:
            result = resume(ResumeRequest(run_dir), progress)
        except RefusedError as refusal:  # other versions than those it began with, or damaged
            progress.message(f"The training starts again. {refusal}")
    if result is None:  # nothing was there, or it ended but was not stored
        shutil.rmtree(run_dir, ignore_errors=True)
        result = train(replace(request_of(command), run_dir=run_dir), progress)
    if not isinstance(result.model, OffPolicyAlgorithm):
        raise FailedError(f"{command} trains no agent with a replay buffer.")
    return result.model


def request_of(command: str) -> TrainRequest:
    """Return the request of a command line ``rlzoo train AGENT --env … --set key=value``.

    Raises:
        FailedError: If there is an option that cards do not have.
    """
    _, _, agent, *words = shlex.split(command)
    found: dict[str, Any] = {}
    overrides: list[str] = []
    for option, value in zip(words[::2], words[1::2], strict=True):
        if option == "--set":
            overrides.append(value)
        elif option in _OPTIONS:
            name, kind = _OPTIONS[option]
            found[name] = kind(value)
        else:
            raise FailedError(f"{option} of {command!r} is not understood.")
    return TrainRequest(agent, overrides=tuple(overrides), command=command, **found)
