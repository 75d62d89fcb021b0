"""Environments: vectors and their seeds, policies for spaces, and the shims for other libraries."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from rlzoo.core.seeding import stream
from rlzoo.envs import check_api, check_env_id, compat, make_env, make_vec, policy_for

# --- vectors -------------------------------------------------------------------------------------


def test_each_environment_is_seeded_by_its_own_stream() -> None:
    vec = make_vec("Pendulum-v1", n_envs=3, seed=7)
    first = vec.reset()
    for index in range(3):
        env = gym.make("Pendulum-v1")
        expected, _ = env.reset(seed=stream(7, "env", index))
        np.testing.assert_array_equal(first[index], expected)
    assert len({row.tobytes() for row in first}) == 3
    again = make_vec("Pendulum-v1", n_envs=2, seed=7)
    np.testing.assert_array_equal(again.reset(), first[:2])
    # Later resets go on in the stream of each environment instead of repeating the first.
    assert not np.array_equal(vec.reset(), first)


def test_processes_give_the_same_steps() -> None:
    local = make_vec("Pendulum-v1", n_envs=2, seed=1)
    remote = make_vec("Pendulum-v1", n_envs=2, seed=1, processes=True)
    try:
        assert isinstance(local, DummyVecEnv)
        assert isinstance(remote, SubprocVecEnv)
        np.testing.assert_array_equal(local.reset(), remote.reset())
        for action in (np.zeros((2, 1)), np.ones((2, 1))):
            ours, theirs = local.step(action), remote.step(action)
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)  # float32 against float64
            np.testing.assert_array_equal(ours[2], theirs[2])
    finally:
        remote.close()


@pytest.mark.parametrize("monitor", [True, False])
def test_monitor_records_episodes(monitor: bool) -> None:
    vec = make_vec("CartPole-v1", monitor=monitor)
    assert vec.env_is_wrapped(Monitor) == [monitor]
    vec.reset()
    infos: list[dict[str, Any]] = [{}]
    done = np.array([False])
    while not done[0]:
        _, _, done, infos = vec.step(np.array([0]))
    assert ("episode" in infos[0]) == monitor


def test_keyword_arguments_reach_the_environment() -> None:
    vec = make_vec("Pendulum-v1", g=3.0)
    assert vec.get_attr("g") == [3.0]


def test_environments_of_a_module_are_registered_by_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rlzoo_test_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Own-v0', 'gymnasium.envs.classic_control:PendulumEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        vec = make_vec("rlzoo_test_envs:Own-v0", n_envs=2)
        assert vec.reset().shape == (2, 3)
    finally:
        gym.registry.pop("Own-v0", None)


@pytest.mark.parametrize(
    "env_id", ["FrozenLake-v1", "CartPole-v1", "Pendulum-v1", "Hopper-v4", "Ant-v5"]
)
def test_gymnasiums_own_environments_pass_the_checks(env_id: str) -> None:
    assert check_env_id(env_id).id == env_id
    env = make_env(env_id)
    check_api(env, env_id)
    env.close()


class WithDict(gym.Env[dict[str, Any], int]):
    """A Dict observation, and NumPy scalars where Gymnasium allows them."""

    def __init__(self) -> None:
        image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        self.observation_space = spaces.Dict({"image": image, "speed": spaces.Box(-1.0, 1.0, (2,))})
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> Any:
        return self.observation_space.sample(), np.float32(1), np.bool_(False), np.bool_(False), {}


def test_dict_observations_and_numpy_scalars_work_end_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(gym.registry, "WithDict-v0", gym.envs.registration.EnvSpec(
        "WithDict-v0", entry_point=WithDict, max_episode_steps=5))  # fmt: skip
    vec = make_vec("WithDict-v0", n_envs=2)
    policy = policy_for(vec.observation_space)
    PPO(policy, vec, n_steps=4, batch_size=4, n_epochs=1, device="cpu").learn(8)


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (spaces.Box(-1, 1, (3,)), "MlpPolicy"),
        (spaces.Discrete(4), "MlpPolicy"),
        (spaces.MultiBinary(4), "MlpPolicy"),
        (spaces.Box(0, 255, (84, 84, 4), np.uint8), "CnnPolicy"),
        (spaces.Box(0, 1, (84, 84, 4)), "MlpPolicy"),
        (spaces.Dict({"a": spaces.Discrete(2)}), "MultiInputPolicy"),
    ],
)
def test_the_policy_follows_the_observation_space(space: gym.Space[Any], policy: str) -> None:
    assert policy_for(space) == policy


# --- shims: each has a test of the shim, and one that fails once upstream no longer needs it ------


def outdated(env_id: str, make: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(env_id).close()
    return [str(w.message) for w in caught if "out of date" in str(w.message)]


def test_v4_is_quiet_and_other_old_versions_are_not() -> None:
    assert outdated("Hopper-v4", make_env) == []
    assert len(outdated("CartPole-v0", make_env)) == 1


def test_upstream_still_warns_about_v4() -> None:
    assert len(outdated("Hopper-v4", gym.make)) == 1, "compat.quiet_v4 is no longer needed"


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(compat.__file__).parents[2])}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=folder, env=environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip


def test_half_cheetah_leaves_no_file_and_no_noise(tmp_path: Path) -> None:
    code = "from rlzoo.envs import make_vec; make_vec('HalfCheetah-v4', n_envs=2).reset()"
    done = run_python(code, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert "settotalmass" not in done.stdout + done.stderr


@pytest.mark.skipif(
    tuple(map(int, version("mujoco").split(".")[:2])) < (4, 0), reason="the noise began with 4.0"
)
def test_upstream_still_drops_a_log_file(tmp_path: Path) -> None:
    done = run_python("import gymnasium; gymnasium.make('HalfCheetah-v4')", tmp_path)
    files = [path.name for path in tmp_path.iterdir()]
    assert files == ["MUJOCO_LOG.TXT"], "compat.quiet_mujoco is no longer needed"
    assert "settotalmass" in done.stdout + done.stderr


def test_other_mujoco_warnings_are_logged_and_other_listeners_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mujoco

    monkeypatch.chdir(tmp_path)
    before = mujoco.get_mju_user_warning()
    try:
        mujoco.set_mju_user_warning(None)
        compat.quiet_mujoco()
        env: Any = make_env("Hopper-v4").unwrapped
        env.reset(seed=0)
        with caplog.at_level(logging.WARNING, logger="rlzoo.envs.compat"):
            env.data.qvel[:] = np.nan  # "Nan, Inf or huge value in QVEL"
            mujoco.mj_step(env.model, env.data)
        assert "QVEL" in caplog.text
        assert list(tmp_path.iterdir()) == []

        heard: list[str] = []
        mujoco.set_mju_user_warning(heard.append)
        compat.quiet_mujoco()
        make_env("HalfCheetah-v4").close()
        assert len(heard) == 1
    finally:
        mujoco.set_mju_user_warning(before)


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GL is chosen on Linux")


@linux
@pytest.mark.parametrize(
    ("there", "chosen"),
    [({"libEGL.so.1", "libOSMesa.so.8"}, "egl"), ({"libOSMesa.so"}, "osmesa"), (set(), None)],
)
def test_gl_is_chosen_without_a_display(
    there: set[str], chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.setenv(name, "")  # Empty counts as unset, and is undone after the test.
    monkeypatch.setattr(compat, "_loads", there.__contains__)
    assert compat.choose_gl() == chosen
    assert os.environ["MUJOCO_GL"] == (chosen or "")


@linux
def test_gl_is_never_chosen_against_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert compat.choose_gl() == "glfw"
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setenv("DISPLAY", ":0")
    assert compat.choose_gl() is None
    assert "MUJOCO_GL" not in os.environ


FRAME = """
import os
for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
    os.environ.pop(name, None)
{make}
env.reset(seed=0)
assert env.render().shape == (480, 480, 3)
"""


@linux
@pytest.mark.skipif(not compat._loads("libEGL.so.1"), reason="no EGL here")
def test_a_frame_without_a_display(tmp_path: Path) -> None:
    make = "from rlzoo.envs import make_env\nenv = make_env('Hopper-v4', render_mode='rgb_array')"
    run_python(FRAME.format(make=make), tmp_path)


@linux
@pytest.mark.skipif(not compat._loads("libEGL.so.1"), reason="no EGL here")
def test_upstream_still_renders_no_frame_without_a_display(tmp_path: Path) -> None:
    make = "import gymnasium\nenv = gymnasium.make('Hopper-v4', render_mode='rgb_array')"
    with pytest.raises(subprocess.CalledProcessError) as caught:  # No longer: choose_gl can go.
        run_python(FRAME.format(make=make), tmp_path)
    assert "OpenGL" in caught.value.stderr
