"""Videos of a policy: one mp4 per episode, encoded by Gymnasium's ``RecordVideo``."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
from gymnasium.wrappers import RecordVideo
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlzoo.agents.registry import AgentSpec
from rlzoo.core.safe_files import temporary_name
from rlzoo.core.seeding import check_seed
from rlzoo.envs import make_vec
from rlzoo.envs.checks import check_env_id
from rlzoo.errors import RefusedError, RlzooError
from rlzoo.runs import pictures
from rlzoo.runs.directory import safe_name
from rlzoo.runs.evaluate import run_episodes
from rlzoo.runs.policies import Located, known_env, load_policy, locate
from rlzoo.runs.recorded import MAX_STEPS, Recorded, VideoWarning, failure_of
from rlzoo.runs.video_checks import check_video

__all__ = [
    "MAX_STEPS",
    "Recorded",
    "VideoWarning",
    "check_video",
    "record_episodes",
    "record_policy_spec",
]


def record_episodes(
    policy: PolicyPredictor,
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
    """Run whole episodes and write a video of each.

    Episode ``i`` starts as episode ``i`` of an evaluation with the same seed does. The global
    generators are left as they were. Call :func:`check_video` first, and long before.

    Args:
        policy: Anything with SB3's ``predict``.
        env_id: Environment id.
        files: One file to write per episode, replaced if it exists; folders are made. Each appears
            when it is complete.
        seed: Seed of the run.
        deterministic: Passed to ``predict``.
        max_steps: Steps after which an episode is cut; None for the environment's own limit.
        env_kwargs: Keyword arguments of the environment.
        epsilon: Share of random actions, as evaluations have it.
        tolerant: Turn every error into one :class:`VideoWarning` and return the episodes until
            then: for a training that must not end because of a frame.

    Returns:
        The episodes in the order of ``files``.

    Raises:
        FailedError: If drawing, encoding or writing fails (unless ``tolerant``).
        RefusedError: If the environment cannot be made, or its copies run in other processes.
    """
    done: list[Recorded] = []
    try:
        with _environment(env_id, max_steps, dict(env_kwargs or {})) as env:
            for index, file in enumerate(files):
                done.append(_record(policy, env, file, seed, index, deterministic, epsilon))
    except Exception as error:  # of the environment, OpenGL, moviepy, ffmpeg, the disk, the policy
        failure = error if isinstance(error, RlzooError) else failure_of(files[len(done)], error)
        if not tolerant:
            raise failure from error
        warnings.warn(f"No video: {failure}", VideoWarning, stacklevel=2)
    return done


@contextmanager
def _environment(
    env_id: str, max_steps: int | None, env_kwargs: dict[str, Any]
) -> Iterator[DummyVecEnv]:
    """Give one environment as evaluations have it, with images."""
    if max_steps is not None:
        own = check_env_id(env_id).max_episode_steps
        env_kwargs["max_episode_steps"] = min(max_steps, own or max_steps)
    env: VecEnv = make_vec(env_id, **{**env_kwargs, "render_mode": "rgb_array"})
    try:
        inner = env.unwrapped
        if not isinstance(inner, DummyVecEnv):
            raise RefusedError(f"Environments in a {type(inner).__name__} cannot be recorded.")
        yield cast(DummyVecEnv, env)
    finally:
        env.close()


def _record(
    policy: PolicyPredictor, env: VecEnv, file: Path, seed: int, index: int, deterministic: bool,
    epsilon: float,
) -> Recorded:  # fmt: skip
    inner = cast(DummyVecEnv, env.unwrapped)
    plain = inner.envs[0]
    file.parent.mkdir(parents=True, exist_ok=True)
    with temporary_name(file) as folder:
        last = _LastStep(plain)
        inner.envs[0] = recorder = RecordVideo(
            last, str(folder), episode_trigger=lambda episode: episode == 0, name_prefix="video"
        )
        try:
            # The reset after the last step, which SB3 makes by itself, writes the file.
            returns, lengths = run_episodes(
                policy, env, 1, seed, deterministic=deterministic, first=index, epsilon=epsilon
            )
        finally:
            inner.envs[0] = plain  # so that closing the environment encodes nothing
            recorder.recorded_frames = []  # it would complain about frames that are left
        os.replace(folder / "video-episode-0.mp4", file)
    return Recorded(file, float(returns[0]), int(lengths[0]), last.cut)


class _LastStep(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers whether the last step before a reset was a truncation."""

    cut = False

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and note whether a time limit ended the episode."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.cut = truncated and not terminated
        return observation, reward, terminated, truncated, info


def record_policy_spec(
    spec: str,
    env_id: str | None = None,
    episodes: int = 1,
    seed: int = 0,
    deterministic: bool = True,
    device: str = "auto",
    trust: bool = False,
    agent: str | None = None,
    out: Path | None = None,
    max_steps: int | None = MAX_STEPS,
    overwrite: bool = False,
    plain: bool = False,
) -> tuple[str, list[Recorded]]:
    """Record anything that :func:`rlzoo.runs.policies.locate` finds.

    Of an agent that believes something other than what it sees, that is drawn: an animation and a
    filmstrip per episode, which need no package; see :mod:`rlzoo.runs.pictures`.

    Args:
        spec: See :func:`rlzoo.runs.policies.locate`.
        env_id: Environment, if ``spec`` does not say it or another one is wanted.
        episodes: Number of videos.
        seed: See :func:`record_episodes`.
        deterministic: Passed to ``predict``.
        device: For a model.
        trust: Unpickle a model file that rlzoo did not write.
        agent: Class of such a file, a name in the registry.
        out: Folder, or a file ``x.mp4``, or ``x.gif`` where beliefs are drawn; by default
            ``videos/`` of a run folder, the folder of another model, the current folder for a
            policy without a file.
        max_steps: See :func:`record_episodes`.
        overwrite: Replace files that exist.
        plain: Record the environment, whatever the agent believes.

    Returns:
        The environment id and the episodes.

    Raises:
        RefusedError: Before anything runs, if something is out of range, a file exists, or a video
            cannot be made here (see :func:`check_video`).
        FailedError: If drawing, encoding or writing fails.
    """
    seed = check_seed(seed)
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value is not None and value < 1:
            raise RefusedError(f"{name}={value} is out of range.", "Allowed: at least 1.")
    found = locate(spec, env_id)
    known = known_env(found, spec)
    drawn = None if plain or found.kind != "model" else pictures.spec_of(found.path or Path(spec))
    files = _targets(
        found, spec, known, episodes, seed, out, pictures.MP4 if drawn is None else None
    )
    _check_targets(files, overwrite)
    if drawn is not None:
        _check_targets([file.with_suffix(".png") for file in files], overwrite)
        return known, _beliefs(drawn, spec, known, found, files, seed, deterministic, device,
                               max_steps)  # fmt: skip
    check_video(known, found.run.env_kwargs)
    with _environment(known, max_steps, dict(found.run.env_kwargs)) as env:
        policy = load_policy(spec, known, device, trust, agent, env=env)
    if found.kind != "model":
        policy.set_random_seed(seed)
    return known, record_episodes(
        policy, known, files, seed,
        deterministic=deterministic, max_steps=max_steps, env_kwargs=found.run.env_kwargs,
        epsilon=found.run.eval_epsilon,
    )  # fmt: skip


def _beliefs(
    agent: AgentSpec, spec: str, env_id: str, found: Located, files: list[Path], seed: int,
    deterministic: bool, device: str, max_steps: int | None,
) -> list[Recorded]:  # fmt: skip
    """Draw what an agent believes."""
    env = make_vec(env_id, **found.run.env_kwargs)
    try:
        model = load_policy(spec, env_id, device, env=env)
    finally:
        env.close()
    return pictures.draw_episodes(
        model, agent, env_id, files, seed,
        deterministic=deterministic, max_steps=max_steps, env_kwargs=found.run.env_kwargs,
        epsilon=found.run.eval_epsilon,
    )  # fmt: skip


def _targets(
    found: Located,
    spec: str,
    env_id: str,
    episodes: int,
    seed: int,
    out: Path | None,
    suffix: str | None,
) -> list[Path]:
    """Return the files; without a suffix beliefs are drawn, in what ``out`` says or can be made."""
    allowed = (pictures.MP4, pictures.GIF) if suffix is None else (suffix,)
    if found.path is None:
        folder, stem = Path(), safe_name(f"{env_id}_{found.level or spec}")
    else:
        in_run = (found.path.parent / "manifest.json").is_file()
        folder = found.path.parent / "videos" if in_run else found.path.parent
        stem = safe_name(found.path.stem)
    stem = f"{stem}_seed{seed}"
    if out is not None and out.suffix in allowed:
        suffix = out.suffix
        folder, stem = out.parent, out.stem
        if episodes == 1:
            return [out]
    elif out is not None:
        folder = out
    suffix = suffix or pictures.suffix()
    return [folder / f"{stem}_{index}{suffix}" for index in range(episodes)]


def _check_targets(files: list[Path], overwrite: bool) -> None:
    folder = files[0].parent
    existing = next((file for file in files if file.exists()), None)
    if existing is not None and (existing.is_dir() or not overwrite):
        raise RefusedError(
            f"{existing} exists already.", "", "Give another --out or --seed, or --overwrite."
        )
    parent = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    try:
        # Root may "write" to a folder without permission bits but not to a read-only mount.
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise RefusedError(
            f"No video can be written to {folder}: {error.strerror or error}.",
            "",
            "Give another --out.",
        ) from error
