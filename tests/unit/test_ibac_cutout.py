"""Cutout: what is drawn (sections 4.1 and 8, test 14), and who sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from ibac_testing import collected
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.cutout import Rectangles, cutout, draw_rectangles, paint
from rlzoo.agents.ibac_sni.policies import IBACPolicy
from rlzoo.agents.ibac_sni.presets import PRESETS
from rlzoo.errors import RefusedError

N = 20_000


# --- what is drawn -------------------------------------------------------------------------------


def test_numbers_places_sizes_and_colours_are_uniform() -> None:
    found = draw_rectangles(np.random.default_rng(0), N)
    shares = np.bincount(found.counts, minlength=6) / N
    np.testing.assert_allclose(shares, np.full(6, 1 / 6), atol=0.01)
    for values, low, high in ((found.corners, 0.0, 1.0), (found.sides, 0.1, 0.35)):
        assert low <= values.min() < values.max() < high
        shares = np.histogram(values, 10, (low, high))[0] / values.size
        np.testing.assert_allclose(shares, np.full(10, 0.1), atol=0.005)
    assert found.colours.dtype == np.uint8
    counts = np.bincount(found.colours.ravel(), minlength=256) / found.colours.size
    np.testing.assert_allclose(counts[:255], np.full(255, 1 / 255), rtol=0.2)
    assert counts[255] == 0


def test_painted_pixels_are_those_of_the_rectangles() -> None:
    """White is never drawn; what is expected is computed by random points in the plane."""
    frames = np.full((2_000, 3, 64, 64), 255, np.uint8)
    painted = cutout(frames, np.random.default_rng(0))
    assert frames.min() == 255  # left as they were
    share = (painted != 255).any(1).mean()
    rng = np.random.default_rng(1)
    point, corner = rng.random((2, 400_000, 1)), rng.random((2, 400_000, 5))
    side = rng.uniform(0.1, 0.35, (2, 400_000, 5))
    inside = ((corner <= point) & (point < corner + side)).all(0)
    some = inside & (np.arange(5) < rng.integers(6, size=(400_000, 1)))
    assert share == pytest.approx(some.any(1).mean(), abs=0.006)


def test_later_ones_cover_earlier_ones_and_stop_at_the_edge() -> None:
    boxes = Rectangles(
        np.array([2]),
        np.array([[[0.25, 0.5], [0.5, 0.75], *[[0, 0]] * 3]]),
        np.array([[[0.5, 0.25], [0.3, 0.3], *[[1, 1]] * 3]]),
        np.array([[[1, 2], [3, 4], *[[9, 9]] * 3]], np.uint8),
    )
    frames = np.full((1, 2, 8, 4), 7, np.uint8)
    expected = np.full((8, 4), 7)
    expected[2:6, 2:3] = 1
    expected[4:6, 3:4] = 3
    np.testing.assert_array_equal(paint(frames, boxes)[0, 0], expected)
    expected = np.where(expected == 7, 7, expected + 1)
    np.testing.assert_array_equal(paint(frames, boxes)[0, 1], expected)


def test_the_generator_decides() -> None:
    frames = np.random.default_rng(5).integers(0, 256, (9, 3, 20, 30), np.uint8)
    one, same, other = (cutout(frames, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert len({(f != g).sum() for f, g in zip(one, frames, strict=True)}) > 3  # one by one


# --- who sees it ---------------------------------------------------------------------------------


class White(gym.Env[Any, Any]):
    """White frames for ever."""

    observation_space = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.full((3, 64, 64), 255, np.uint8), {}

    def step(self, action: Any) -> Any:
        return np.full((3, 64, 64), 255, np.uint8), 1.0, False, False, {}


def make(n_envs: int = 3, **kwargs: Any) -> IBACSNI:
    settings: dict[str, Any] = {
        "n_steps": 8, "batch_size": 12, "n_epochs": 1, "seed": 0, "device": "cpu", "cutout": True,
        "latent_dim": 8, "n_noise_samples": 2, "policy_kwargs": {"encoder": "nature"},
    }  # fmt: skip
    env = DummyVecEnv([lambda: TimeLimit(White(), 5)] * n_envs)
    return IBACSNI("CnnPolicy", env, **{**settings, **kwargs})


def frames_of(model: IBACSNI) -> np.ndarray:
    return model.rollout_buffer.observations.numpy().copy()  # type: ignore[union-attr]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return what every call of the network gets, in [0, 255]."""
    found: list[np.ndarray] = []
    inputs = IBACPolicy.inputs

    def recorded(self: IBACPolicy, observation: Any) -> th.Tensor:
        found.append(observation.numpy().copy())
        return inputs(self, observation)

    monkeypatch.setattr(IBACPolicy, "inputs", recorded)
    return found


def test_acting_update_and_bootstrap_see_the_same_rectangles(seen: list[np.ndarray]) -> None:
    model = collected(make(normalize_reward=False))
    stored = frames_of(model)
    assert len(np.unique(stored.reshape(24, -1), axis=0)) > 15  # one of six has none
    np.testing.assert_array_equal(np.stack(seen[:9]), stored[[0, *range(8)]])  # warm-up
    (bootstrap,) = seen[9:]
    seen.clear()
    model.train()
    rows = {frame.tobytes() for frame in stored.reshape(24, 3, 64, 64)}
    assert all(frame.tobytes() in rows for batch in seen for frame in batch)
    assert sum(len(batch) for batch in seen) == 24
    collected_again(model)
    np.testing.assert_array_equal(frames_of(model)[0], bootstrap)
    assert (bootstrap != 255).any()


def collected_again(model: IBACSNI) -> None:
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)  # type: ignore[arg-type]


def test_a_frame_at_the_time_limit_has_rectangles_of_its_own(seen: list[np.ndarray]) -> None:
    model = collected(make(bootstrap_timeouts=True))
    stored = frames_of(model)
    assert [len(batch) for batch in seen] == [3] * 6 + [1] * 3 + [3] * 4
    ends = np.concatenate(seen[6:9])
    assert len(np.unique(ends.reshape(3, -1), axis=0)) > 1
    for end in ends:
        others = stored[5].reshape(3, -1)
        assert not (end.ravel() == others).all(1).any() or (end == 255).all()


def test_nothing_but_learning_sees_them(seen: list[np.ndarray]) -> None:
    model = collected(make())
    assert np.asarray(model._last_obs).min() == 255  # what a continued run compares with
    seen.clear()
    model.predict(np.full((3, 64, 64), 255, np.uint8))
    assert seen[0].min() == 255
    plain = collected(make(cutout=False))
    assert frames_of(plain).min() == 255
    assert not hasattr(plain, "cutout_seed")


def test_seeds_and_files_keep_the_rectangles(tmp_path: Path) -> None:
    one, same, other = (collected(make(seed=seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(frames_of(one), frames_of(same))
    assert (frames_of(one) != frames_of(other)).any()
    unseeded = make(seed=None)
    assert unseeded.cutout_seed != make(seed=None).cutout_seed
    unseeded.save(tmp_path / "model")
    loaded = IBACSNI.load(tmp_path / "model", env=unseeded.get_env(), device="cpu")
    assert (loaded.cutout, loaded.cutout_seed) == (True, unseeded.cutout_seed)


def test_only_the_preset_of_the_first_paper_has_it() -> None:
    assert [name for name, values in PRESETS.items() if values.get("cutout")] == ["coinrun-paper"]


@pytest.mark.parametrize("is_grid", [True, False])
def test_grids_and_vectors_have_no_colours(is_grid: bool) -> None:
    env = DummyVecEnv([White]) if is_grid else "CartPole-v1"
    kwargs = {"encoder": "grid"} if is_grid else {}
    with pytest.raises(RefusedError, match="cutout=True") as caught:
        IBACSNI("MlpPolicy", env, cutout=True, device="cpu", policy_kwargs=kwargs)
    assert len(str(caught.value).splitlines()) <= 3
