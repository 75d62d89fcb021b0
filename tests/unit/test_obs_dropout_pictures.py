"""What an agent believed, as a trajectory and as pictures (issue 8, point 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th

from rlzoo import ObservationalDropout
from rlzoo.agents.observational_dropout.pictures import FPS, filmstrip, frames, shown_steps
from rlzoo.agents.observational_dropout.recursion import believe
from rlzoo.agents.observational_dropout.trajectories import Trajectory, Witness
from rlzoo.core.simulator_vec import SimulatorVecEnv
from rlzoo.core.swingup import CartPoleSwingUp
from rlzoo.envs import make_vec
from rlzoo.runs.evaluate import run_episodes
from rlzoo.runs.pictures import write_film


def make(env: Any, p: float = 0.2, **kwargs: Any) -> ObservationalDropout:
    arguments: dict[str, Any] = {
        "pop_size": 4,
        "n_eval_episodes": 1,
        "zero_policy": False,
        **kwargs,
    }
    return ObservationalDropout("MlpPolicy", env, peek_prob=p, seed=3, device="cpu", **arguments)


def played(model: ObservationalDropout, env: Any, seed: int = 0) -> Trajectory:
    witness = Witness(model, seed)
    run_episodes(witness, env, 1, seed)
    return witness.trajectory()


@pytest.mark.parametrize("env_id", ["rlzoo/CartPoleSwingUp-v0", "Pendulum-v1"])
def test_what_is_believed_is_what_the_recursion_believes(env_id: str) -> None:
    env = make_vec(env_id, max_episode_steps=90)
    model = make(env)
    found = played(model, env)
    assert found.peeks[0]
    assert 5 < found.peeks.sum() < 40
    act, predict = model.policy.bind()
    prediction, count = th.zeros(1, len(found.real[0])), 0
    for step, real in enumerate(found.real):
        x = believe(th.from_numpy(real)[None], prediction, th.tensor([found.peeks[step]]))
        np.testing.assert_allclose(found.believed[step], x[0], rtol=1e-4, atol=1e-4)
        if step:
            np.testing.assert_allclose(found.predicted[step], prediction[0], rtol=1e-4, atol=1e-4)
            count += int(not np.allclose(found.believed[step], real, atol=1e-3))
        action = act(x[None])
        prediction = predict(x[None], action)[0]
        scaled = model.policy.unscale_action(action[0].numpy())
        np.testing.assert_allclose(found.actions[step], scaled[0], rtol=1e-4, atol=1e-4)
    assert count > 20  # beliefs and reality differ, so the comparison can fail


def test_watching_changes_nothing_and_repeats_itself() -> None:
    env = SimulatorVecEnv(CartPoleSwingUp(max_steps=60))
    model = make(env)
    before = model.policy.peeks.bit_generator.state
    first, again, other = (played(model, env, seed) for seed in (0, 0, 1))
    assert model.policy.peeks.bit_generator.state == before
    np.testing.assert_array_equal(first.peeks, again.peeks)
    np.testing.assert_array_equal(first.believed, again.believed)
    assert not np.array_equal(first.peeks, other.peeks)
    assert played(make(env, p=0.0), env).peeks.sum() == 1
    assert played(make(env, p=1.0), env).peeks.all()
    with pytest.raises(RuntimeError, match="Nothing was played"):
        Witness(model).trajectory()


def at(x: float) -> list[float]:
    return [x, 0.0, 1.0, 0.0, 0.0]


def cart_pole(steps: int = 9) -> Trajectory:
    """Believed a metre to the right, really a metre to the left; one peek, at step 5."""
    real = np.array([at(-1.0)] * steps, np.float32)
    peeks = np.zeros(steps, bool)
    peeks[5] = True
    believed = np.array([at(1.0)] * steps, np.float32)
    return Trajectory(real, believed, peeks, np.zeros((steps, 1)), cart_pole=True)


def colour(image: np.ndarray, x: float) -> tuple[int, ...]:
    """The colour on the upper half of a cart at x metres: 6 m are the width of the picture."""
    rows, columns = image.shape[:2]
    below_middle = (
        round(rows * 0.525) - 6
    )  # the stage ends 5 % above the lower edge, and 10 % below
    return tuple(int(v) for v in image[below_middle, round(columns / 2 + x * columns / 6) + 15])


def test_the_real_cart_is_solid_the_believed_one_faint_and_peeks_flash() -> None:
    shown = list(frames(cart_pole()))
    assert [image.shape for image in shown] == [(400, 600, 3)] * 3  # steps 0, 4 and 8
    blind, _, looked = shown
    real, believed, nothing = (colour(blind, x) for x in (-1, 1, 2.7))
    assert real == (0x24, 0x50, 0x8F)
    assert nothing == (255, 255, 255)
    faint = tuple(round(255 + 0.35 * (c - 255)) for c in (0xD1, 0x66, 0x2B))
    assert np.abs(np.subtract(believed, faint)).max() <= 2
    # Steps 5 to 8 have the peek; at step 8 nothing is seen, so the two differ again.
    assert colour(looked, 2.7) == (0xFF, 0xD5, 0x4A)
    assert colour(blind, 2.7) != colour(looked, 2.7)


def test_beliefs_that_have_run_away_are_drawn_out_of_sight() -> None:
    found = cart_pole()
    found.predicted[2:] = np.nan
    found.predicted[1] = 1e30
    assert len(list(frames(found))) == 3
    filmstrip(found).canvas.draw()


def lines(size: int, steps: int = 30) -> Trajectory:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(steps, size)).astype(np.float32)
    peeks = np.zeros(steps, bool)
    peeks[[0, 7, 8, 20]] = True
    return Trajectory(real, real + 1, peeks, np.zeros((steps, 1)))


@pytest.mark.parametrize("size", [1, 5, 16])
def test_every_dimension_is_a_pair_of_lines_with_ticks_at_the_peeks(size: int) -> None:
    found = lines(size)
    figure = filmstrip(found, title="x")
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert len(panels) == size
    for index, axes in enumerate(panels):
        real, believed, ticks = axes.lines
        np.testing.assert_array_equal(real.get_ydata(), found.real[:, index])
        np.testing.assert_array_equal(believed.get_ydata(), found.believed[:, index])
        np.testing.assert_array_equal(ticks.get_xdata(), [0, 7, 8, 20])
    assert "4 peeks in 30 steps" in figure.get_suptitle()


def test_many_dimensions_are_two_images() -> None:
    found = lines(50)
    real, believed = filmstrip(found).axes
    np.testing.assert_array_equal(real.images[0].get_array(), found.real.T)
    np.testing.assert_array_equal(believed.images[0].get_array(), found.believed.T)


def test_a_line_moves_over_the_page_and_flashes_at_peeks() -> None:
    shown = list(frames(lines(2)))
    assert len(shown) == 30
    changed = [np.flatnonzero((image != shown[29]).any((0, 2))) for image in shown[:29]]
    firsts = [columns[0] for columns in changed]
    assert firsts == sorted(firsts)
    assert len(set(firsts)) > 25
    yellow = [int((image == (0xFF, 0xD5, 0x4A)).all(-1).sum()) > 100 for image in shown]
    assert np.flatnonzero(yellow).tolist() == [0, 7, 8, 20]


def test_long_episodes_are_thinned() -> None:
    assert shown_steps(1000, True)[:3] == [0, 4, 8]
    assert shown_steps(1000, True)[-1] == 999
    assert shown_steps(10, False) == list(range(10))
    assert len(shown_steps(1000, False)) == 251
    assert shown_steps(1, True) == [0]


@pytest.mark.parametrize("name", ["film.gif", "film.mp4"])
def test_films_are_read_back(tmp_path: Path, name: str) -> None:
    if name.endswith("mp4"):
        pytest.importorskip("imageio_ffmpeg")
        iio = pytest.importorskip("imageio.v3")
    drawn = list(frames(lines(5)))
    write_film(iter(drawn), tmp_path / name, FPS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("gif"):
        from PIL import Image

        with Image.open(tmp_path / name) as film:
            sizes = [film.seek(i) or film.convert("RGB").size for i in range(film.n_frames)]
            assert film.info["duration"] == 40
        assert sizes == [(drawn[0].shape[1], drawn[0].shape[0])] * len(drawn)
    else:
        shown = list(iio.imiter(tmp_path / name, plugin="FFMPEG"))
        assert len(shown) == len(drawn)
        assert shown[0].shape == drawn[0].shape
        assert np.abs(shown[3].astype(int) - drawn[3]).mean() < 8
