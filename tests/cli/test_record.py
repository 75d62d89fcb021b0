"""``rlzoo record``: real videos, read back with imageio; skipped where the extra is missing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlzoo.core.seeding import get_states
from rlzoo.envs import make_env
from rlzoo.errors import FailedError
from rlzoo.runs.evaluate import make_eval_env, run_episodes
from rlzoo.runs.policies import RandomActions
from rlzoo.runs.record import Recorded, VideoWarning, record_episodes

needs_video = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("moviepy", "imageio_ffmpeg", "pygame")),
    reason='needs moviepy, imageio-ffmpeg and pygame: pip install "rlzoo[video]"',
)


def frames(path: Path) -> list[np.ndarray]:
    import imageio.v3

    return list(imageio.v3.imiter(path, plugin="FFMPEG"))


def policy() -> RandomActions:
    found = RandomActions(make_env("CartPole-v1").action_space)
    found.set_random_seed(0)
    return found


@needs_video
def test_record_shows_the_episodes_of_eval(rlzoo: Callable, tmp_path: Path) -> None:
    arguments = ("random", "--env", "CartPole-v1", "--seed", 3, "--json")
    recorded = rlzoo("record", *arguments, "--out", "here/x.mp4")
    assert recorded.code == 0, recorded.err
    (video,) = json.loads(recorded.out)["videos"]
    evaluated = json.loads(rlzoo("eval", *arguments, "--episodes", 1).out)
    assert video["return"] == evaluated["return_mean"]
    assert video["length"] == evaluated["length_mean"]
    shown = frames(tmp_path / "here" / "x.mp4")
    assert len(shown) == video["length"] + 1
    assert shown[0].shape == (400, 600, 3)
    assert any(not np.array_equal(shown[0], frame) for frame in shown)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["x.mp4"]


@needs_video
def test_episodes_start_as_those_of_eval_do(rlzoo: Callable, tmp_path: Path) -> None:
    found = rlzoo("record", "hopper/random", "--env", "Pendulum-v1", "--episodes", 2,
                  "--max-steps", 5, "--json")  # fmt: skip
    assert found.code == 0, found.err
    videos = json.loads(found.out)["videos"]
    assert [video["length"] for video in videos] == [5, 5]
    assert all(video["cut"] for video in videos)
    assert videos[0]["return"] != videos[1]["return"]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["Pendulum-v1_random_seed0_0.mp4", "Pendulum-v1_random_seed0_1.mp4"]


class AlwaysLeft:
    """Its returns depend on the initial states only."""

    def predict(self, observation: np.ndarray, *_: object, **__: object) -> tuple:
        return np.zeros(len(observation), np.int64), None


@needs_video
def test_several_episodes_are_those_of_an_evaluation(tmp_path: Path) -> None:
    env = make_eval_env("CartPole-v1", 6)
    returns, lengths = run_episodes(AlwaysLeft(), env, 6, seed=3)
    files = [tmp_path / f"{index}.mp4" for index in range(6)]
    found = record_episodes(AlwaysLeft(), "CartPole-v1", files, seed=3)
    assert sorted(episode.episode_return for episode in found) == sorted(returns)
    assert sorted(episode.length for episode in found) == sorted(lengths)
    assert len(set(returns.tolist())) > 1


@needs_video
def test_nothing_is_replaced_without_overwrite(rlzoo: Callable, tmp_path: Path) -> None:
    target = tmp_path / "x.mp4"
    target.write_text("mine")
    arguments = ("record", "random", "--env", "CartPole-v1", "--out", target)
    refused = rlzoo(*arguments)
    assert refused.refused
    assert "--overwrite" in refused.err
    assert target.read_text() == "mine"
    done = rlzoo(*arguments, "--overwrite")
    assert done.code == 0, done.err
    assert len(frames(target)) > 5


@needs_video
def test_the_model_of_a_run_goes_to_videos_of_the_run(rlzoo: Callable, tmp_path: Path) -> None:
    trained = rlzoo(
        "train", "ppo", "--env", "CartPole-v1", "--steps", 16, "--eval-episodes", 1,
        "--set=n_steps=16", "--set=batch_size=16", "--set=n_epochs=1", "--set=n_envs=1",
        "--run-dir", "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    found = rlzoo("record", "run", "--max-steps", 20)
    assert found.code == 0, found.err
    assert [path.name for path in (tmp_path / "run" / "videos").iterdir()] == ["model_seed0_0.mp4"]
    assert "run/videos/model_seed0_0.mp4" in found.out


@needs_video
def test_the_generators_are_left_as_they_were(tmp_path: Path) -> None:
    before = get_states()
    (found,) = record_episodes(policy(), "CartPole-v1", [tmp_path / "x.mp4"])
    assert isinstance(found, Recorded)
    assert get_states() == before


@needs_video
def test_case_40_a_failing_frame_is_an_error_or_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gymnasium.envs.classic_control.cartpole import CartPoleEnv

    drawn = []
    render = CartPoleEnv.render

    def broken(self: CartPoleEnv) -> object:
        drawn.append(1)
        if len(drawn) > 40:
            raise OSError("the graphics card fell out")
        return render(self)

    monkeypatch.setattr(CartPoleEnv, "render", broken)
    files = [tmp_path / f"{index}.mp4" for index in range(20)]
    with pytest.raises(FailedError, match="graphics card"):
        record_episodes(policy(), "CartPole-v1", files, max_steps=10)
    complete = sorted(path.name for path in tmp_path.iterdir())
    assert complete, "the episodes before the failure are kept"
    assert len(complete) < 20
    drawn.clear()
    with pytest.warns(VideoWarning, match="graphics card") as caught:
        done = record_episodes(policy(), "CartPole-v1", files, max_steps=10, tolerant=True)
    assert len(caught) == 1
    assert [episode.file.name for episode in done] == sorted(complete, key=lambda n: int(n[:-4]))
    assert sorted(path.name for path in tmp_path.iterdir()) == complete, "no half of a file"


@needs_video
def test_case_40_a_full_disk_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FailedError, match="could not be recorded"):
        record_episodes(policy(), "CartPole-v1", [tmp_path / "file" / "x.mp4"], max_steps=5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["random"], ["--env"]),
        (["random", "--env", "CartPole-v1", "--episodes", "0"], ["episodes=0"]),
        (["random", "--env", "CartPole-v1", "--max-steps", "0"], ["max_steps=0"]),
        (["random", "--env", "CartPole-v1", "--seed", "-1"], ["seed=-1"]),
        (["random", "--env", "CartPole-v1", "--out", "/proc/x.mp4"], ["--out"]),
        (["absent.zip"], ["absent.zip"]),
    ],
)
def test_what_record_refuses(rlzoo: Callable, arguments: list[str], words: list[str]) -> None:
    found = rlzoo("record", *arguments)
    assert found.refused, found
    assert all(word in found.err for word in words)
