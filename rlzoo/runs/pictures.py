"""Pictures of agents that believe or imagine something other than what they see.

Which agents these are, and who draws them, is in the registry (``pictures``). The module has

- ``Witness(model, seed)``: plays as the model does; ``trajectory()`` is what it saw and believed;
- ``filmstrip(trajectory, title)``: a matplotlib figure;
- ``frames(trajectory)``: images of the same size, and ``FPS``, how fast they are shown.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.agents.registry import AGENTS, AgentSpec
from rlzoo.core.model_file import read_description
from rlzoo.core.portable import class_path
from rlzoo.core.safe_files import temporary_name, write_atomic
from rlzoo.envs import make_vec
from rlzoo.envs.checks import check_env_id
from rlzoo.errors import RefusedError, RlzooError
from rlzoo.runs.evaluate import run_episodes
from rlzoo.runs.recorded import MAX_STEPS, Recorded, VideoWarning, failure_of

MP4, GIF = ".mp4", ".gif"
_COLOURS = 64  # of a GIF


def check_agent(spec: AgentSpec) -> None:
    """Refuse an agent of which there is nothing to draw.

    Raises:
        RefusedError: If it believes what it sees.
    """
    if not spec.pictures:
        drawn = ", ".join(name for name, other in AGENTS.items() if other.pictures)
        raise RefusedError(
            f"{spec.name} believes what it sees; there is nothing to draw.",
            f"Agents with beliefs: {drawn}.",
            "Leave run.pictures out; --video records the environment.",
        )


def spec_of(path: Path) -> AgentSpec | None:
    """Return the agent of a model file if its beliefs can be drawn; None for any other."""
    try:
        name = (read_description(path) or {}).get("class")
    except (RefusedError, TypeError):  # told when it is loaded
        return None
    with_pictures = (spec for spec in AGENTS.values() if spec.pictures)
    return next((spec for spec in with_pictures if class_path(spec.load_class()) == name), None)


def suffix() -> str:
    """Return ``".mp4"`` where its encoder is installed (extra ``video``), else ``".gif"``."""
    return GIF if importlib.util.find_spec("imageio_ffmpeg") is None else MP4


def draw_episodes(
    model: Any,
    spec: AgentSpec,
    env_id: str,
    files: list[Path],
    seed: int = 0,
    *,
    deterministic: bool = True,
    max_steps: int | None = MAX_STEPS,
    env_kwargs: Mapping[str, Any] | None = None,
    epsilon: float = 0.0,
    tolerant: bool = False,
) -> list[Recorded]:
    """Run whole episodes; write an animation and a filmstrip of each.

    Episode ``i`` starts as episode ``i`` of an evaluation with the same seed does.

    Args:
        model: The agent.
        spec: Its entry in the registry.
        env_id: Environment id.
        files: One ``.mp4`` or ``.gif`` per episode, replaced if it exists; the filmstrip has the
            same name with ``.png``.
        seed: Seed of the run, and of the peeks.
        deterministic: Passed to ``predict``.
        max_steps: Steps after which an episode is cut; None for the environment's own limit.
        env_kwargs: Keyword arguments of the environment.
        epsilon: Share of random actions, as evaluations have it.
        tolerant: Turn every error into one :class:`VideoWarning`, for a training that must not end
            because of a picture.

    Raises:
        FailedError: If drawing, encoding or writing fails (unless ``tolerant``).
        RefusedError: If the environment cannot be made.
    """
    done: list[Recorded] = []
    kwargs = dict(env_kwargs or {})
    if max_steps is not None:
        own = kwargs.get("max_episode_steps") or check_env_id(env_id).max_episode_steps
        kwargs["max_episode_steps"] = min(max_steps, own or max_steps)
    try:
        env = make_vec(env_id, **kwargs)
        try:
            for index, file in enumerate(files):
                done.append(
                    _draw(model, spec, env, env_id, file, seed, index, deterministic, epsilon,
                          kwargs.get("max_episode_steps"))
                )  # fmt: skip
        finally:
            env.close()
    except Exception as error:  # of the environment, matplotlib, ffmpeg, the disk, the policy
        file = files[min(len(done), len(files) - 1)]
        failure = error if isinstance(error, RlzooError) else failure_of(file, error)
        if not tolerant:
            raise failure from error
        warnings.warn(f"No picture: {failure}", VideoWarning, stacklevel=2)
    return done


def _draw(
    model: Any, spec: AgentSpec, env: VecEnv, env_id: str, file: Path, seed: int, index: int,
    deterministic: bool, epsilon: float, limit: int | None,
) -> Recorded:  # fmt: skip
    module = importlib.import_module(spec.pictures)
    witness = module.Witness(model, seed + index)
    returns, lengths = run_episodes(
        witness, env, 1, seed, deterministic=deterministic, first=index, epsilon=epsilon
    )
    trajectory = witness.trajectory()
    title = f"{spec.name} on {env_id}, return {returns[0]:.0f}"
    image = io.BytesIO()
    module.filmstrip(trajectory, title).savefig(image, format="png", dpi=100)
    filmstrip = file.with_suffix(".png")
    write_atomic(filmstrip, image.getvalue())
    write_film(module.frames(trajectory), file, module.FPS)
    cut = limit is not None and int(lengths[0]) >= limit
    return Recorded(file, float(returns[0]), int(lengths[0]), cut, filmstrip)


def write_film(frames: Iterator[NDArray[np.uint8]], file: Path, fps: int) -> None:
    """Write an animation; the file appears when it is complete.

    Args:
        frames: Images ``[height, width, 3]`` of one size, with even sides.
        file: ``.gif``, or anything else for an mp4.
        fps: Frames per second.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with temporary_name(file) as folder:
        folder.mkdir()
        part = folder / f"film{file.suffix}"
        if file.suffix == GIF:
            _write_gif(frames, part, fps)
        else:
            _write_mp4(frames, part, fps)
        os.replace(part, file)


def _write_gif(frames: Iterator[NDArray[np.uint8]], file: Path, fps: int) -> None:
    from PIL import Image

    images = (Image.fromarray(frame).quantize(_COLOURS) for frame in frames)
    # Pillow makes one frame of equal neighbours, shown as long as both.
    next(images).save(
        file, save_all=True, append_images=images, duration=1000 // fps, loop=0, optimize=False
    )


def _write_mp4(frames: Iterator[NDArray[np.uint8]], file: Path, fps: int) -> None:
    imageio_ffmpeg: Any = importlib.import_module("imageio_ffmpeg")
    first = next(frames)
    size = first.shape[1], first.shape[0]
    writer = imageio_ffmpeg.write_frames(str(file), size, fps=fps, macro_block_size=2)
    writer.send(None)
    try:
        for frame in chain([first], frames):
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
