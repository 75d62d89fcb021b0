"""``rlzoo train``: the run folder, repeatability, and what is refused before anything starts."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlzoo.config import load_yaml

FIELDS = {
    "agent", "preset", "env", "seed", "dataset", "dataset_fingerprint", "encoder_sha256",
    "total_timesteps", "final", "best", "curve", "wall_seconds", "checkpoint_seconds",
    "steps_per_second", "device", "versions", "commit", "command", "machine",
    "evaluation", "metrics", "metric_curves", "splits",
}  # fmt: skip


def tensors(run: Path) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(run / "model.zip") as archive, archive.open("policy.pth") as file:
        return dict(torch.load(file, weights_only=True))


def same(a: Path, b: Path) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def record(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


@pytest.fixture
def again(rlzoo: Callable, small_data: str, tmp_path: Path, tiny_bear: tuple[str, ...]) -> Callable:
    """Train like ``bear_run``; later options win over earlier ones."""

    def train(name: str, *more: str) -> Path:
        found = rlzoo(
            "train", "bear", "--dataset", small_data, "--steps", 200, "--eval-freq", 80,
            "--eval-episodes", 2, "--seed", 5, "--run-dir", name, *tiny_bear, *more,
        )  # fmt: skip
        assert found.code == 0, found.err
        return tmp_path / name

    return train


def test_the_run_folder_is_complete(bear_run: Path) -> None:
    names = {path.name for path in bear_run.iterdir() if "tfevents" not in path.name}
    assert names == {
        "config.yaml", "manifest.json", "model.zip", "best_model.zip", "progress.csv",
        "result.json", "curve.png", "checkpoints",
    }  # fmt: skip
    assert any("tfevents" in path.name for path in bear_run.iterdir())
    assert json.loads((bear_run / "manifest.json").read_text())["status"] == "finished"
    assert (bear_run / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_result_json_has_every_field(bear_run: Path, small_data: str) -> None:
    found = record(bear_run)
    assert set(found) == FIELDS
    assert (found["agent"], found["env"], found["preset"]) == ("bear", "Hopper-v4", "cpu")
    assert (found["seed"], found["total_timesteps"]) == (5, 200)
    assert found["dataset"] == small_data
    assert len(found["dataset_fingerprint"]) == 64
    assert [step for step, _ in found["curve"]] == [80, 160, 200]
    assert set(found["final"]) == {"return_mean", "return_std", "episodes", "normalized"}
    assert set(found["best"]) == {*found["final"], "step"}
    assert found["final"]["episodes"] == 2
    assert found["best"]["return_mean"] == max(mean for _, mean in found["curve"])
    assert found["wall_seconds"] > 0
    assert found["steps_per_second"] > 0


def test_progress_csv_has_the_evaluations(bear_run: Path) -> None:
    with open(bear_run / "progress.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("eval/mean_reward")]
    curve = record(bear_run)["curve"]
    assert [float(r["eval/mean_reward"]) for r in rows] == pytest.approx([m for _, m in curve])


def test_the_same_command_gives_the_same_weights_and_curve(again: Callable, bear_run: Path) -> None:
    repeated = again("repeated")
    assert same(repeated, bear_run)
    for key in ("curve", "final", "best", "dataset_fingerprint"):
        assert record(repeated)[key] == record(bear_run)[key]
    other = again("other", "--seed", "6")
    assert not same(other, bear_run)


def test_evaluating_more_often_does_not_change_the_training(
    again: Callable, bear_run: Path
) -> None:
    often = again("often", "--eval-freq", "25")
    assert len(record(often)["curve"]) == 8
    assert same(often, bear_run)
    assert record(often)["final"] == record(bear_run)["final"]


def test_config_yaml_of_a_run_repeats_it(rlzoo: Callable, bear_run: Path, tmp_path: Path) -> None:
    shutil.copy(bear_run / "config.yaml", tmp_path / "again.yaml")
    found = rlzoo("train", "bear", "--config", "again.yaml", "--seed", 5, "--run-dir", "r")
    assert found.code == 0, found.err
    assert same(tmp_path / "r", bear_run)


def test_options_win_over_files_and_reach_config_yaml(bear_run: Path) -> None:
    values, _ = load_yaml(bear_run / "config.yaml")
    assert values["env"] == "Hopper-v4"
    assert values["all"]["run"]["steps"] == 200
    assert values["all"]["run"]["eval_episodes"] == 2
    assert values["all"]["agent"]["batch_size"] == 16


def test_an_online_agent_says_what_to_do_next(rlzoo: Callable, tmp_path: Path) -> None:
    found = rlzoo(
        "train", "sac", "--env", "Pendulum-v1", "--steps", 300, "--eval-episodes", 1,
        "--set", "policy_kwargs.net_arch=[8]", "--set", "batch_size=16",
    )  # fmt: skip
    assert found.code == 0, found.err
    run = Path("runs/Pendulum-v1/sac/default_seed0_1")
    assert f"rlzoo eval {run}/model.zip" in found.out.splitlines()
    assert "tensorboard --logdir runs" in found.out.splitlines()
    made = record(tmp_path / run)
    assert made["total_timesteps"] == 300
    assert made["dataset"] is None
    assert made["dataset_fingerprint"] is None
    assert made["command"].startswith("rlzoo train sac --env Pendulum-v1 --steps 300 ")
    assert "'policy_kwargs.net_arch=[8]'" in made["command"]
    assert "300/300" in found.err
    assert (tmp_path / run / "curve.png").is_file()


def test_default_run_folders_are_numbered(rlzoo: Callable, tmp_path: Path) -> None:
    for _ in range(2):
        found = rlzoo(
            "train", "ppo", "--env", "CartPole-v1", "--steps", 32, "--eval-episodes", 1,
            "--set=n_steps=32", "--set=batch_size=32", "--set=n_envs=1", "--set=n_epochs=1",
        )  # fmt: skip
        assert found.code == 0, found.err
    parent = tmp_path / "runs" / "CartPole-v1" / "ppo"
    assert [path.name.rsplit("_", 1)[1] for path in sorted(parent.iterdir())] == ["1", "2"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bear", "--env", "Hoper-v4"], ["Hoper-v4", "Hopper-v4"]),
        (["bear", "--env", "CartPole-v1"], ["bear accepts: Box", "dqn"]),
        (["dqn", "--env", "Hopper-v4"], ["dqn accepts: Discrete", "sac"]),
        (["bear", "--set", "gama=0.9"], ["gama", "gamma"]),
        (["bear", "--set", "gamma=1.5"], ["gamma", "[0, 1]"]),
        (["bear", "--steps", "-5"], ["steps", "-5"]),
        (["bear", "--preset", "d4rk"], ["d4rk", "d4rl"]),
        (["bear", "--config", "absent.yaml"], ["absent.yaml"]),
        (["bear", "--dataset", "rlzoo/hopper/mediun-v0"], ["rlzoo/hopper/medium-v0"]),
        (["bear", "--dataset", "absent.hdf5"], ["absent.hdf5"]),
        (["sac", "--dataset", "rlzoo/hopper/random-1k-v0"], ["sac", "bear"]),
        (["bear", "--env", "Pendulum-v1"], ["Pendulum-v1", "--dataset"]),
    ],
)
def test_what_is_refused_leaves_no_run_behind(
    rlzoo: Callable, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    found = rlzoo("train", *arguments, "--run-dir", "run")
    last = "\n".join(found.err.splitlines()[-3:])  # a line about the choices may come before
    assert found.code == 2
    assert all(word in last for word in words), found.err
    assert not (tmp_path / "run").exists()


def test_data_of_another_environment_are_refused(
    rlzoo: Callable, small_data: str, tmp_path: Path
) -> None:
    found = rlzoo(
        "train", "bear", "--env", "HalfCheetah-v4", "--dataset", small_data, "--run-dir", "run"
    )
    assert found.code == 2
    assert small_data in found.err
    assert not (tmp_path / "run").exists()
