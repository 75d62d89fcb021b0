"""``rlzoo eval``, ``inspect``, ``config``, ``doctor`` and ``demo``."""

from __future__ import annotations

import base64
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from rlzoo.data.behaviours import available
from rlzoo.runs import get_agent
from rlzoo.runs.train import TrainRequest, settings_of


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A model that stock SB3 saved."""
    path = tmp_path / "foreign.zip"
    PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu", seed=0).save(path)
    return path


@pytest.fixture
def poisoned(bear_run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model of rlzoo with one more pickle in it, and the file that must not appear."""
    canary, path = tmp_path / "canary", tmp_path / "poisoned.zip"
    with zipfile.ZipFile(bear_run / "model.zip") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                data = json.loads(content)
                payload = base64.b64encode(pickle.dumps(Canary(canary))).decode()
                data["surprise"] = {":type:": "x", ":serialized:": payload}
                content = json.dumps(data).encode()
            new.writestr(name, content)
    return path, canary


def as_json(found: tuple) -> dict:
    assert found.code == 0, found.err
    return json.loads(found.out)


def test_eval_takes_the_environment_of_the_run(rlzoo: Callable, bear_run: Path) -> None:
    for spec in (bear_run, bear_run / "model.zip", bear_run / "model"):
        found = as_json(rlzoo("eval", spec, "--episodes", 2, "--json"))
        assert found["env"] == "Hopper-v4"
        assert found["episodes"] == 2
        assert found["normalized"] is not None
    table = rlzoo("eval", bear_run, "--episodes", 2).out
    assert f"{found['return_mean']:,.1f} +- {found['return_std']:,.1f}" in table


def test_eval_is_repeatable_sampled_or_not(rlzoo: Callable, bear_run: Path) -> None:
    def mean(*more: object) -> float:
        found = as_json(rlzoo("eval", bear_run, "--episodes", 2, "--json", *more))
        return found["return_mean"]

    assert mean() == mean()
    assert mean("--stochastic") == mean("--stochastic")
    assert mean("--stochastic") != mean()
    assert mean("--seed", 1) != mean()


def test_eval_of_random_actions(rlzoo: Callable) -> None:
    arguments = ("eval", "hopper/random", "--episodes", 3, "--json")
    first = as_json(rlzoo(*arguments))
    assert first["env"] == "Hopper-v4"
    assert first == as_json(rlzoo(*arguments))
    pole = as_json(rlzoo("eval", "random", "--env", "CartPole-v1", "--json"))
    assert pole["normalized"] is None
    assert 10 <= pole["return_mean"] < 60


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["random"], ["--env"]),
        (["absent.zip"], ["absent.zip"]),
        (["hopper/exprt"], ["hopper/expert"]),
        (["."], ["model.zip"]),
        (["random", "--env", "Hoper-v4"], ["Hopper-v4"]),
        (["random", "--env", "Hopper-v4", "--episodes", "0"], ["episodes=0"]),
        (["random", "--env", "Hopper-v4", "--seed", "-2"], ["seed=-2"]),
    ],
)
def test_what_eval_refuses(rlzoo: Callable, arguments: list[str], words: list[str]) -> None:
    found = rlzoo("eval", *arguments)
    assert found.refused
    assert all(word in found.err for word in words)


def test_case_27_eval_in_an_environment_with_other_spaces(rlzoo: Callable, bear_run: Path) -> None:
    found = rlzoo("eval", bear_run, "--env", "Pendulum-v1")
    assert found.refused
    assert "Box(11,)" in found.err
    assert "Box(3,)" in found.err


def test_a_foreign_model_needs_trust_and_the_name_of_its_agent(
    rlzoo: Callable, foreign: Path
) -> None:
    arguments = ("eval", foreign, "--env", "CartPole-v1", "--episodes", 1, "--json")
    refused = rlzoo(*arguments)
    assert refused.refused
    assert "--trust" in refused.err
    assert rlzoo(*arguments, "--trust").refused
    assert as_json(rlzoo(*arguments, "--trust", "--agent", "ppo"))["episodes"] == 1


def test_case_29_no_command_runs_a_pickle(
    rlzoo: Callable, poisoned: tuple[Path, Path], tmp_path: Path
) -> None:
    path, canary = poisoned
    shown = rlzoo("inspect", path)
    assert shown.code == 0
    assert (
        next(line for line in shown.out.splitlines() if line.startswith("surprise"))
        .split()[1]
        .endswith("Path.touch,")
    )
    assert rlzoo("eval", path, "--env", "Hopper-v4", "--episodes", 1).code == 0
    collected = rlzoo(
        "collect", "--env", "Hopper-v4", "--policy", path, "--size", 10, "--out", "x.hdf5"
    )
    assert collected.code == 0, collected.err
    assert not canary.exists()
    rlzoo("eval", path, "--env", "Hopper-v4", "--episodes", 1, "--trust", "--agent", "bear")
    assert canary.exists(), "the canary works"


def test_inspect_says_what_is_inside(rlzoo: Callable, bear_run: Path) -> None:
    found = rlzoo("inspect", bear_run)
    assert found.code == 0
    lines = {line.split()[0]: line for line in found.out.splitlines() if line.strip()}
    assert "BEAR" in lines["class"]
    assert "Box(11,)" in lines["observations"]
    assert "Box(3,)" in lines["actions"]
    assert "num_timesteps 200" in lines["counters"]
    assert lines["loads"].endswith("without unpickling")
    assert lines["batch_size"].split() == ["batch_size", "16"]
    size = zipfile.ZipFile(bear_run / "model.zip").getinfo("policy.pth").file_size
    assert ["policy.pth", f"{size:,}"] in [line.split() for line in found.out.splitlines()]
    assert "torch._utils._rebuild_tensor_v2" in lines["policy.pth"]


def test_inspect_of_a_foreign_model_lists_its_pickles(rlzoo: Callable, foreign: Path) -> None:
    out = rlzoo("inspect", foreign).out
    assert "only by unpickling: --trust" in out
    row = next(line for line in out.splitlines() if line.startswith("policy_class"))
    assert row.split()[1] == "stable_baselines3.common.policies.ActorCriticPolicy"


def test_inspect_refuses_what_is_no_model(rlzoo: Callable, tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip at all")
    assert rlzoo("inspect", "text.zip").refused
    assert rlzoo("inspect", "absent.zip").refused


def test_config_show_prints_values_with_their_sources(rlzoo: Callable) -> None:
    found = rlzoo("config", "show", "bear", "HalfCheetah-v4", "--set", "gamma=0.9")
    assert found.code == 0
    lines = {line.split(":")[0].strip(): line for line in found.out.splitlines()}
    assert lines["gamma"].endswith("gamma: 0.9  # --set")
    assert "configs/bear/HalfCheetah-v4.yaml:" in lines["kernel"]
    assert lines["tau"].endswith("# constructor")


def test_config_show_can_be_read_back(rlzoo: Callable, tmp_path: Path) -> None:
    shown = rlzoo("config", "show", "bear", "--preset", "neurips2019").out
    (tmp_path / "shown.yaml").write_text(shown)
    spec = get_agent("bear")
    direct = settings_of(TrainRequest("bear", preset="neurips2019"), spec, "cpu")
    request = TrainRequest("bear", config_file=tmp_path / "shown.yaml")
    again = settings_of(request, spec, "cpu")
    assert again.preset == "neurips2019"
    assert again.agent_values() == direct.agent_values()
    assert again.run_settings() == direct.run_settings()


@pytest.mark.parametrize("arguments", [["bera"], ["bear", "Hoper-v4"], ["bear", "--set", "a=1"]])
def test_config_show_refuses(rlzoo: Callable, arguments: list[str]) -> None:
    assert rlzoo("config", "show", *arguments).refused


def test_doctor_finds_nothing_broken(rlzoo: Callable, minari_store: str) -> None:
    found = rlzoo("doctor")
    assert found.code == 0, found.out
    assert "MuJoCo: Hopper-v4" in found.out
    assert minari_store in found.out
    assert "BROKEN" not in found.out


def test_doctor_exits_1_when_something_is_broken(
    rlzoo: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "below"))
    found = rlzoo("doctor")
    assert found.code == 1
    broken = [line for line in found.out.splitlines() if line.startswith("BROKEN")]
    assert len(broken) == 1
    assert "Minari store" in broken[0]


@pytest.mark.skipif(("Hopper-v4", "medium") not in available(), reason="no behaviour ships")
def test_demo_at_a_size_for_tests(rlzoo: Callable, tmp_path: Path) -> None:
    found = rlzoo("demo", "--steps", 20, "--size", 2000, "--run-dir", "d")
    assert found.code == 0, found.err
    for words in ("random policy", "data (medium)", "BEAR, final policy", "updates per second"):
        assert words in found.out
    assert "tensorboard --logdir" in found.out
    result = json.loads((tmp_path / "d" / "result.json").read_text())
    assert result["dataset"] == "rlzoo/hopper/medium-2k-v0"
    assert result["preset"] == "cpu"
