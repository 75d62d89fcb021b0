"""Whether a video can be made here at all; asked before anything that takes time is started.

A wrong OpenGL backend may abort the whole process instead of raising, so each is tried in a process
of its own first.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator

from rlzoo.envs import make_env
from rlzoo.envs.checks import check_env_id, first_line
from rlzoo.errors import RefusedError

PACKAGES = ("moviepy", "imageio_ffmpeg")
"""Modules of the extra ``video``."""

_INSTALL = 'pip install "rlzoo[video]"'
_GL_MODULES = ("gymnasium.envs.mujoco", "gymnasium_robotics", "mujoco")
_PROBE = """
import gymnasium
env = gymnasium.make("InvertedPendulum-v5", render_mode="rgb_array", width=32, height=32)
env.reset(seed=0)
frame = env.render()
env.close()
raise SystemExit(0 if frame.max() > frame.min() else "only one colour was drawn")
"""
_PROBE_SECONDS = 120


def check_video(env_id: str, env_kwargs: Mapping[str, Any] | None = None) -> tuple[int, ...]:
    """Render one frame of an environment, and find the program that encodes a video.

    Sets ``MUJOCO_GL`` to a backend that works and SDL to run without a display, unless the user has
    set them. Costs one to three seconds. Call it before training when a video was asked for.

    Args:
        env_id: Id of a registered environment.
        env_kwargs: Its keyword arguments; a ``render_mode`` among them is replaced.

    Returns:
        Shape of a frame, ``(height, width, 3)``.

    Raises:
        RefusedError: If a package, ffmpeg or an OpenGL backend is missing, or the environment does
            not render images; the message says what to install.
    """
    _check_encoder()
    spec = _spec(env_id)
    creator = _creator(spec)
    modes = getattr(creator, "metadata", {}).get("render_modes")
    if modes is not None and "rgb_array" not in modes:
        raise RefusedError(
            f"Environment {env_id!r} draws no images; a video cannot be made.",
            f"It has the render modes: {', '.join(map(str, modes)) or 'none'}; needed: rgb_array.",
        )
    _without_display()
    if _needs_gl(creator):
        _choose_backend(env_id)
    return _first_frame(env_id, dict(env_kwargs or {}))


def _check_encoder() -> None:
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise RefusedError(
            f"A video needs {' and '.join(missing)}, which {'are' if missing[1:] else 'is'} not "
            "installed.",
            todo=f"Install it with: {_INSTALL}",
        )
    try:
        importlib.import_module("moviepy.config")  # looks for ffmpeg
    except Exception as error:  # it raises whatever its search for the program came across
        raise RefusedError(
            f"A video needs the program ffmpeg, which was not found: {first_line(error)}",
            "imageio-ffmpeg brings one; the variables FFMPEG_BINARY and IMAGEIO_FFMPEG_EXE name "
            "another.",
            f"Install it with: {_INSTALL}",
        ) from error


def _spec(env_id: str) -> EnvSpec:
    try:
        return check_env_id(env_id)
    except RuntimeError as error:  # MuJoCo, when it is imported
        if "MUJOCO_GL" not in str(error):
            raise
        raise RefusedError(
            f"MUJOCO_GL={os.environ.get('MUJOCO_GL')} is not known to MuJoCo.",
            "Allowed: egl, osmesa, glfw; unset chooses one that works.",
        ) from error


def _creator(spec: EnvSpec) -> Any:
    entry = spec.entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _without_display() -> None:
    """Let pygame draw without a display and a sound card, and without its greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform.startswith("linux") and not _display():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("SDL_AUDIODRIVER", "dummy")


def _display() -> bool:
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _needs_gl(creator: Any) -> bool:
    """Whether an environment is one of MuJoCo's, which draw with OpenGL."""
    classes = creator.__mro__ if isinstance(creator, type) else (creator,)
    modules = [str(getattr(cls, "__module__", "")) for cls in classes]
    return any(m == root or m.startswith(root + ".") for m in modules for root in _GL_MODULES)


def _choose_backend(env_id: str) -> None:
    """Set ``MUJOCO_GL`` to the first backend that draws a frame in a process of its own."""
    chosen = os.environ.get("MUJOCO_GL", "")
    backends = ["egl", "osmesa"] if sys.platform.startswith("linux") else []
    default = [] if backends and not _display() else [""]
    candidates = [chosen] if chosen else [*default, *backends]
    failures: dict[str, str] = {}
    for backend in candidates:
        failure = backend_failure(backend)
        if not failure:
            if backend:
                os.environ["MUJOCO_GL"] = backend
            return
        failures[backend] = failure
    works = next((b for b in backends if b not in failures and not backend_failure(b)), None)
    said = "; ".join(f"{backend or 'default'}: {why}" for backend, why in failures.items())
    raise RefusedError(
        f"Environment {env_id!r} cannot be drawn here: no OpenGL backend works.",
        f"Tried MUJOCO_GL {said}."[:300],
        f"Set MUJOCO_GL={works}, which works here."
        if works
        else "Install one; on Debian and Ubuntu: apt install libegl1 libosmesa6",
    )


@functools.cache
def backend_failure(backend: str) -> str:
    """Return why a value of ``MUJOCO_GL`` draws nothing, empty if it works.

    Args:
        backend: ``"egl"``, ``"osmesa"``, ``"glfw"``; empty for MuJoCo's default.
    """
    # PYOPENGL_PLATFORM belongs to the backend of this process, if there is one already.
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    environment["MUJOCO_GL"] = backend
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no frame within {_PROBE_SECONDS} seconds"
    if done.returncode == 0:
        return ""
    # Destructors may complain after the error that counts.
    said = done.stderr.splitlines()
    lines = [line for line in said if re.match(r"[\w.]+(Error|Exception)", line)] or said[-1:]
    return lines[0][:120] if lines and lines[0] else f"ended with code {done.returncode}"


def _first_frame(env_id: str, env_kwargs: dict[str, Any]) -> tuple[int, ...]:
    try:
        env = make_env(env_id, **{**env_kwargs, "render_mode": "rgb_array"})
        try:
            env.reset(seed=0)
            frame: Any = env.render()
        finally:
            env.close()
    except Exception as error:  # whatever an environment's drawing raises
        text = error.given if isinstance(error, RefusedError) else first_line(error)
        commands = re.findall(r"pip install (?:\"[^\"]+\"|[\w\[\],-]+)", str(error))
        raise RefusedError(
            f"No frame of environment {env_id!r} can be drawn.",
            text,
            f"Install it with: {commands[-1]}" if commands else "",
        ) from error
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.shape[-1] != 3:
        what = getattr(frame, "shape", type(frame).__name__)
        raise RefusedError(
            f"Environment {env_id!r} draws {what}, which is no image.",
            "Needed: an array of height x width x 3 from render_mode='rgb_array'.",
        )
    return tuple(int(n) for n in frame.shape)
