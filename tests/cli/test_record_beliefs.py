"""Pictures of an ``obs-dropout`` run: at the end of ``rlzoo train``, and by ``rlzoo record``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rlzoo.cli.main import main
from rlzoo.runs import pictures
from rlzoo.runs.recorded import VideoWarning

PENDULUM = ("--env", "Pendulum-v1", "--set=world_model=residual")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the defaults, but shorter: it draws at its end."""
    path = tmp_path_factory.mktemp("beliefs") / "run"
    code = main(
        ["train", "obs-dropout", "--steps", "4000", "--eval-episodes", "2", "--set=pop_size=4",
         "--set=n_eval_episodes=1", "--set=zero_policy=false", "--run-dir", str(path)]
    )  # fmt: skip
    assert code == 0
    return path


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_run_without_options_leaves_curve_and_animation(run: Path) -> None:
    names = {path.name for path in (run / "pictures").iterdir()}
    assert names == {f"episode_0{pictures.suffix()}", "episode_0.png"}
    assert size(run / "pictures" / "episode_0.png") == (1200, 700)
    assert (run / "curve.png").is_file()
    assert any("tfevents" in path.name for path in run.iterdir())


def test_record_draws_beliefs(rlzoo: Callable, run: Path, tmp_path: Path) -> None:
    found = rlzoo("record", run, "--out", "x.gif", "--max-steps", 101, "--json")
    assert found.code == 0, found.err
    (video,) = json.loads(found.out)["videos"]
    assert (video["file"], video["filmstrip"], video["length"]) == ("x.gif", "x.png", 101)
    assert video["cut"]
    with Image.open(tmp_path / "x.gif") as film:
        assert (film.n_frames, film.size) == (26, (600, 400))  # every fourth of 101 steps
    assert size(tmp_path / "x.png") == (1200, 700)
    evaluated = json.loads(rlzoo("record", run, "--out", "y.gif", "--max-steps", 101, "--json").out)
    assert evaluated["videos"][0]["return"] == video["return"]
    assert (tmp_path / "y.gif").read_bytes() == (tmp_path / "x.gif").read_bytes()
    refused = rlzoo("record", run, "--out", "x.gif")
    assert refused.refused
    assert "--overwrite" in refused.err


def test_record_writes_to_videos_of_the_run(rlzoo: Callable, run: Path) -> None:
    found = rlzoo("record", run, "--max-steps", 20, "--episodes", 2)
    assert found.code == 0, found.err
    names = {path.name for path in (run / "videos").iterdir()}
    end = pictures.suffix()
    assert names == {
        f"model_seed0_0{end}", f"model_seed0_1{end}", "model_seed0_0.png", "model_seed0_1.png",
    }  # fmt: skip


def test_plain_is_the_video_of_the_environment(rlzoo: Callable, run: Path, tmp_path: Path) -> None:
    found = rlzoo("record", run, "--plain", "--max-steps", 5, "--out", "p.mp4")
    if importlib.util.find_spec("moviepy") is None:
        assert found.refused
        assert "rlzoo[video]" in found.err
        return
    assert found.code == 0, found.err
    assert [path.name for path in tmp_path.iterdir()] == ["p.mp4"]


def test_other_tasks_are_lines(rlzoo: Callable, tmp_path: Path) -> None:
    trained = rlzoo(
        "train", "obs-dropout", *PENDULUM, "--steps", 800, "--eval-episodes", 1,
        "--set=pop_size=2", "--set=n_eval_episodes=1", "--run-dir", "run",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "What it believed: run/pictures/episode_0" in trained.out
    found = rlzoo("record", "run", "--out", "z.gif", "--max-steps", 12)
    assert found.code == 0, found.err
    with Image.open(tmp_path / "z.gif") as film:
        assert film.n_frames == 12
        assert size(tmp_path / "z.png") == film.size


def test_agents_that_see_are_refused(rlzoo: Callable, tmp_path: Path) -> None:
    found = rlzoo("train", "sac", "--env", "Pendulum-v1", "--set=run.pictures=true",
                  "--run-dir", "run")  # fmt: skip
    assert found.code == 2
    assert "believes what it sees" in found.err
    assert "obs-dropout" in found.err
    assert not (tmp_path / "run").exists()


def test_a_picture_that_fails_costs_a_warning(
    rlzoo: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(pictures, "write_film", broken)
    with pytest.warns(VideoWarning, match="the disk is full"):
        found = rlzoo(
            "train", "obs-dropout", "--steps", 1000, "--eval-episodes", 1, "--set=pop_size=2",
            "--set=n_eval_episodes=1", "--run-dir", "run",
        )  # fmt: skip
    assert found.code == 0, found.err
    assert (tmp_path / "run" / "result.json").is_file()
