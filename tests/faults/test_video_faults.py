"""Case 40: rendering or video impossible, found before anything is started."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlzoo.cli.main import main
from rlzoo.errors import RefusedError
from rlzoo.runs import video_checks
from rlzoo.runs.video_checks import check_video

HAS_VIDEO = all(importlib.util.find_spec(name) is not None for name in video_checks.PACKAGES)
needs_video = pytest.mark.skipif(
    not HAS_VIDEO, reason='needs moviepy and imageio-ffmpeg: pip install "rlzoo[video]"'
)


class Blank(gym.Env[Any, Any]):
    """Draws nothing, or what it is told to."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, frame: Any = None) -> None:
        self.render_mode, self.frame = render_mode, frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def render(self) -> Any:
        if isinstance(self.frame, Exception):
            raise self.frame
        return self.frame


class Silent(Blank):
    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Undo what the checks set; forget what they found."""
    for name in ("MUJOCO_GL", "SDL_VIDEODRIVER", "SDL_AUDIODRIVER", "PYGAME_HIDE_SUPPORT_PROMPT"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
        monkeypatch.delenv(name)
    video_checks.backend_failure.cache_clear()
    gym.register("Blank-v0", Blank)
    gym.register("Silent-v0", Silent)
    yield
    del gym.registry["Blank-v0"], gym.registry["Silent-v0"]


def refusal(env_id: str, **env_kwargs: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        check_video(env_id, env_kwargs)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.skipif(HAS_VIDEO, reason="the extra is installed here")
def test_case_40_record_without_the_extra_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record", "random", "--env", "CartPole-v1"]) == 2
    assert 'pip install "rlzoo[video]"' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_case_40_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_checks, "PACKAGES", ("no_such_encoder",))
    message = refusal("CartPole-v1")
    assert "no_such_encoder" in message
    assert 'pip install "rlzoo[video]"' in message


@needs_video
def test_case_40_environment_without_images() -> None:
    assert "ansi" in refusal("Silent-v0")


@needs_video
@pytest.mark.filterwarnings("ignore:.*RGB-array rendering should return")
@pytest.mark.parametrize(
    ("frame", "words"),
    [(None, "NoneType"), (np.zeros((4, 4)), "(4, 4)"), (ValueError("no paint left"), "no paint")],
)
def test_case_40_what_is_no_frame_is_refused(frame: Any, words: str) -> None:
    assert words in refusal("Blank-v0", frame=frame)


@needs_video
def test_case_40_a_frame_is_enough() -> None:
    assert check_video("Blank-v0", {"frame": np.zeros((4, 6, 3), np.uint8)}) == (4, 6, 3)


@needs_video
def test_case_40_no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "moviepy.config", raising=False)
    monkeypatch.setenv("FFMPEG_BINARY", "/nowhere/ffmpeg")
    assert "ffmpeg" in refusal("Blank-v0", frame=np.zeros((4, 6, 3), np.uint8))


@needs_video
def test_case_40_backend_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a display GLFW fails: MuJoCo says so, or ends the process."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    message = refusal("Hopper-v4")
    assert "glfw" in message
    assert "MUJOCO_GL=" in message.splitlines()[-1] or "libegl1 libosmesa6" in message


@needs_video
def test_case_40_no_backend_at_all_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    # Every probe really runs and fails: the program that it runs in ends at once.
    monkeypatch.setattr(video_checks, "_PROBE", "raise SystemExit(3)")
    message = refusal("Hopper-v4")
    assert "libegl1 libosmesa6" in message
    assert "code 3" in message


@needs_video
def test_case_40_a_backend_that_crashes_the_process_is_survived(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(video_checks, "_PROBE", "import os; os.abort()")
    assert "ended with code" in video_checks.backend_failure("egl")


@needs_video
def test_case_40_a_working_backend_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if all(video_checks.backend_failure(backend) for backend in ("egl", "osmesa")):
        pytest.skip("needs one of the libraries libegl1 and libosmesa6")
    assert check_video("Hopper-v4") == (480, 480, 3)
    assert os.environ["MUJOCO_GL"] in ("egl", "osmesa")
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"
