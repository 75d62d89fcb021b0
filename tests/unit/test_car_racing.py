"""CarRacing-v3 through an encoder, in Gymnasium and in envpool (paper page, 4.3; test 20)."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from rlzoo import ObservationalDropout
from rlzoo.core.vae import FrameVAE, save_encoder
from rlzoo.envs import check_env_id, make_env, make_vec
from rlzoo.errors import RefusedError
from rlzoo.runs.evaluate import run_episodes

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("Box2D", "pygame", "envpool")),
    reason='needs Box2D, pygame and envpool: pip install "rlzoo[carracing]"',
)

ID = "CarRacing-v3"
BACKENDS = ("gymnasium", "envpool")


@pytest.fixture(scope="module", autouse=True)
def headless() -> Any:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("SDL_VIDEODRIVER", "dummy")
        yield


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One encoder, untrained, that says it has seen frames of either."""
    th.manual_seed(0)
    vae, folder = FrameVAE(), tmp_path_factory.mktemp("encoders")
    for backend in BACKENDS:
        save_encoder(folder / f"{backend}.safetensors", vae, {"backend": backend})
    return {backend: folder / f"{backend}.safetensors" for backend in BACKENDS}


def vec(encoders: dict[str, Path], seen: str, n: int = 2, **kwargs: Any) -> Any:
    return make_vec(ID, n, encoder=str(encoders[seen]), max_episode_steps=6, **kwargs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_have_the_same_frames_and_actions(backend: str) -> None:
    env = make_vec(ID, 2, backend=backend, max_episode_steps=3)
    assert env.observation_space == spaces.Box(0, 255, (96, 96, 3), np.uint8)
    assert env.action_space.shape == (3,)
    np.testing.assert_array_equal(env.action_space.low, [-1, 0, 0])
    first = env.reset()
    assert (first.shape, first.dtype) == ((2, 96, 96, 3), np.uint8)
    for _ in range(3):
        frames, rewards, dones, infos = env.step(np.array([[0, 1, 0]] * 2, np.float32))
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"].shape == (96, 96, 3)
    assert infos[0]["episode"]["l"] == 3
    assert env.get_attr("spec")[0].max_episode_steps == 3
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert frames.shape == first.shape
    assert np.isfinite(rewards).all()
    env.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_latents_are_the_codes_of_the_frames(encoders: dict[str, Path], backend: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        env = vec(encoders, backend)
    plain = make_vec(ID, 2, backend=backend, max_episode_steps=6)
    assert env.observation_space.shape == (16,)
    assert env.action_space == spaces.Box(-1, 1, (3,), np.float32)
    for some in (env, plain):
        some._seeds = [5, 6]
    vae = env.vae
    np.testing.assert_allclose(env.reset(), vae.encode(plain.reset()), atol=1e-5)
    for step in range(6):
        codes, rewards, dones, infos = env.step(np.zeros((2, 3), np.float32))
        # Nothing is half throttle, and no brake.
        given = np.array([[0, 0.5, 0]] * 2, np.float32)
        frames, others, _, theirs = plain.step(given)
        np.testing.assert_allclose(codes, vae.encode(frames), atol=1e-5)
        np.testing.assert_allclose(rewards, others, atol=1e-6)
        assert dones.all() == (step == 5)
    for info, other in zip(infos, theirs, strict=True):
        last = vae.encode(other["terminal_observation"][None])[0]
        np.testing.assert_allclose(info["terminal_observation"], last, atol=1e-5)
    env.close()
    plain.close()


def test_gas_moves_the_car_and_actions_are_copied(encoders: dict[str, Path]) -> None:
    env = vec(encoders, "envpool")
    scores = []
    for gas in (-1.0, 1.0):
        env._seeds = [1, 2]
        start, total = env.reset(), 0.0
        action = np.array([[0, gas, -1]] * 2, np.float32)
        kept = action.copy()
        for _ in range(5):
            codes, rewards, _, _ = env.step(action)
            total += float(rewards.sum())
        np.testing.assert_array_equal(action, kept)
        scores.append(float(np.abs(codes - start).sum()))
    assert scores[1] != scores[0]
    env.close()


def test_one_environment(encoders: dict[str, Path]) -> None:
    env = make_env(ID, encoder=str(encoders["gymnasium"]))
    first, _ = env.reset(seed=3)
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(first, again)
    codes, _, terminated, truncated, _ = env.step(np.zeros(3, np.float32))
    assert codes.shape == first.shape == (16,)
    assert not terminated
    assert not truncated
    env.close()


def test_frames_of_another_renderer_are_told(encoders: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match="has seen frames of envpool"):
        vec(encoders, "envpool", n=1, backend="gymnasium").close()


def test_an_agent_of_the_published_size_acts_learns_and_is_evaluated(
    encoders: dict[str, Path],
) -> None:
    """Four environments, 50 steps, a policy of zeros (test 20)."""
    env = make_vec(ID, 4, encoder=str(encoders["envpool"]), max_episode_steps=50)
    model = ObservationalDropout(
        "MlpPolicy", env, peek_prob=0.3, world_model="carracing", pop_size=4, n_eval_episodes=1,
        seed=0, device="cpu",
    )  # fmt: skip
    assert model.policy.vector.shape == (579,)
    returns, lengths = run_episodes(model, env, 4, seed=0)
    assert np.isfinite(returns).all()
    assert (lengths == 50).all()
    model.learn(1)
    assert model.num_timesteps == 200
    assert float(model.policy.vector.abs().sum()) > 0
    env.close()


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path))
    with pytest.raises(RefusedError, match="rlzoo encoder") as caught:
        make_vec(ID, encoder="auto")
    assert len(str(caught.value).splitlines()) == 3
    with pytest.raises(RefusedError, match="no backend 'batched'"):
        make_vec(ID, backend="batched")
    with pytest.raises(RefusedError, match="lap"):
        make_vec(ID, backend="envpool", lap=1)
    assert check_env_id(ID).max_episode_steps == 1000
