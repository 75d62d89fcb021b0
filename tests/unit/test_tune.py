"""Studies: real trainings of a few dozen steps, continued, stopped, killed, shared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlzoo.cli.main import main
from rlzoo.errors import FailedError, RefusedError
from rlzoo.runs.progress import Silent
from rlzoo.runs.signals import StoppedError
from rlzoo.runs.train import TrainRequest, train
from rlzoo.tune import trial as trials
from rlzoo.tune.tune import TuneRequest, TuneResult, tune

SPACE = (
    "learning_rate: {type: float, low: 1e-4, high: 1e-2, log: true}\n"
    "n_epochs: {type: int, low: 1, high: 3}\n"
    "policy_kwargs.net_arch: {type: choice, values: [[4], {pi: [4], vf: [8]}]}\n"
)
OPTIONS = ("n_steps=32", "batch_size=32", "n_envs=1")

optuna_only = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("optuna") is None,
    reason="Optuna is not installed: pip install 'rlzoo[tune]'",
)


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[..., TuneRequest]:
    """Return ``make(study="study", steps=96, **fields)``."""
    space = tmp_path / "space.yaml"
    space.write_text(SPACE)

    def make(study: str = "study", steps: int = 96, **fields: Any) -> TuneRequest:
        training = TrainRequest(
            "ppo", "CartPole-v1", steps=steps, eval_freq=32, eval_episodes=1, overrides=OPTIONS
        )
        return TuneRequest(training, tmp_path / study, space=space, **{"trials": 3, **fields})

    return make


def command(request: TuneRequest) -> list[str]:
    """Return the command line of a request, in a process of its own."""
    training = request.request
    return [
        sys.executable, "-m", "rlzoo.cli.main", "tune", "ppo", "--env", "CartPole-v1",
        "--trials", str(request.trials), "--jobs", str(request.jobs), "--study",
        str(request.study), "--space", str(request.space), "--steps", str(training.steps),
        "--eval-freq", "32", "--eval-episodes", "1", "--pruner", request.pruner,
        *(f"--set={text}" for text in training.overrides),
    ]  # fmt: skip


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end
        time.sleep(0.05)


def states(result: TuneResult) -> list[str]:
    return [row.state for row in result.rows]


def comparable(result: TuneResult) -> list[tuple]:
    return [(row.state, row.value, row.settings, row.seed) for row in result.rows]


# --- without Optuna ------------------------------------------------------------------------------


def test_without_optuna_the_command_to_install_it_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "ppo"]) == 2
    assert "pip install 'rlzoo[tune]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- one process ---------------------------------------------------------------------------------


@optuna_only
def test_a_study_and_its_continuation(request_of: Callable[..., TuneRequest]) -> None:
    first = tune(request_of())
    assert states(first) == ["complete"] * 3
    assert first.best.value == max(row.value for row in first.rows)
    for row in first.rows:
        record = json.loads((row.folder / "result.json").read_text())
        assert record["seed"] == row.seed == row.number
        last = record["curve"][-1][1]
        assert row.value == (record["final"]["return_mean"] + last) / 2
        config = (row.folder / "config.yaml").read_text()
        assert f"learning_rate: {json.dumps(row.settings['learning_rate'])}" in config
        assert json.loads((row.folder / "trial.json").read_text())["value"] == row.value
        assert not (row.folder / "checkpoints").exists()
    longer = tune(request_of(trials=4))
    assert comparable(longer)[:3] == comparable(first)
    assert len(longer.rows) == 4
    at_once = tune(request_of("other", trials=4))
    assert comparable(at_once) == comparable(longer), "stopping in between changes nothing"
    assert comparable(tune(request_of(trials=2))) == comparable(longer), "there are enough"


@optuna_only
def test_the_best_settings_train_as_the_trial_did(
    request_of: Callable[..., TuneRequest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tune(request_of(out=tmp_path / "best.yaml"))
    text = result.config.read_text()
    assert f"# tuned, trial {result.best.number}" in text
    assert "# constructor" not in text
    monkeypatch.chdir(tmp_path)
    code = main(["train", "ppo", "--config", "best.yaml", "--seed", str(result.best.seed),
                 "--run-dir", "again"])  # fmt: skip
    assert code == 0
    curves = [
        json.loads((folder / "result.json").read_text())["curve"]
        for folder in (tmp_path / "again", result.best.folder)
    ]
    assert curves[0] == curves[1]


@optuna_only
def test_the_command_prints_the_table_and_what_to_do_next(
    request_of: Callable[..., TuneRequest], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(command(request_of(trials=2))[3:]) == 0
    out = capsys.readouterr().out
    assert "learning_rate" in out
    assert "Trials: 2 complete" in out
    assert f"rlzoo train ppo --config {tmp_path / 'study' / 'best.yaml'}" in out
    assert main(["report", str(tmp_path / "study" / "trials")]) == 0


@optuna_only
def test_bad_trials_are_pruned(
    request_of: Callable[..., TuneRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sixth trial on, every evaluation but the last is told as a very bad one."""
    count = 0

    def worse(request: TrainRequest, progress: Any, on_evaluation: Any) -> Any:
        nonlocal count
        count += 1
        loss = 1e6 if count > 5 else 0.0
        return train(request, progress, lambda step, mean: on_evaluation(step, mean - loss))

    monkeypatch.setattr(trials, "train", worse)
    result = tune(request_of(trials=7, steps=128))
    assert states(result) == ["complete"] * 5 + ["pruned"] * 2
    assert result.rows[5].value < -1e5
    assert not (result.rows[5].folder / "result.json").exists()
    count = 0
    assert "pruned" not in states(tune(request_of("off", trials=7, steps=128, pruner="none")))


@optuna_only
@pytest.mark.parametrize("pruner", ["hyperband", "none"])
def test_other_pruners_work(request_of: Callable[..., TuneRequest], pruner: str) -> None:
    assert len(tune(request_of(pruner=pruner)).rows) == 3


@optuna_only
def test_a_failed_trial_is_noted_and_the_study_goes_on(
    request_of: Callable[..., TuneRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(request: TrainRequest, *more: Any) -> Any:
        if request.seed == 1:
            raise ValueError("no such\nthing")
        return train(request, *more)

    monkeypatch.setattr(trials, "train", fail_once)
    result = tune(request_of())
    assert states(result) == ["complete", "failed", "complete"]
    assert result.rows[1].error == "ValueError: no such thing"


@optuna_only
def test_a_study_without_hope_ends(
    request_of: Callable[..., TuneRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise FailedError("The loss is not finite.")

    monkeypatch.setattr(trials, "train", fail)
    with pytest.raises(FailedError, match=r"5 of 5 failed.*The loss is not finite"):
        tune(request_of(trials=100))


@optuna_only
def test_a_return_that_is_not_finite_is_a_failure(
    request_of: Callable[..., TuneRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "objective", lambda *_: float("nan"))
    with pytest.raises(FailedError, match="its final return is nan"):
        tune(request_of(trials=1))


@optuna_only
def test_no_trial_begins_after_the_timeout(request_of: Callable[..., TuneRequest]) -> None:
    assert len(tune(request_of(trials=1)).rows) == 1
    assert len(tune(request_of(trials=5, timeout=1e-6)).rows) == 1


@optuna_only
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 64}, "run.steps: 96 -> 64"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"env_id": "Acrobot-v1"}, "CartPole-v1"),
        ({"overrides": (*OPTIONS, "gamma=0.5")}, "agent.gamma"),
        ({"overrides": (*OPTIONS, "n_epochs=2")}, "space"),
    ],
)
def test_another_study_in_the_folder_is_refused(
    request_of: Callable[..., TuneRequest], change: dict, words: str
) -> None:
    request = request_of(trials=1)
    tune(request)
    with pytest.raises(RefusedError) as error:
        tune(replace(request, request=replace(request.request, **change)))
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 3


@optuna_only
@pytest.mark.parametrize(
    "change",
    [{"trials": 0}, {"jobs": 0}, {"timeout": 0.0}, {"timeout": float("nan")}, {"pruner": "medain"}],
)
def test_odd_requests_are_refused(request_of: Callable[..., TuneRequest], change: dict) -> None:
    request = request_of(**change)
    with pytest.raises(RefusedError):
        tune(request)
    assert not request.study.exists()


@optuna_only
def test_foreign_files_are_left_alone(
    request_of: Callable[..., TuneRequest], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("gamma: 0.5\n")
    with pytest.raises(RefusedError, match=r"not written by rlzoo tune"):
        tune(request_of(out=mine))
    assert mine.read_text() == "gamma: 0.5\n"
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.tex").write_text("x")
    with pytest.raises(RefusedError, match="other things"):
        tune(request_of())


@optuna_only
@pytest.mark.parametrize("agent", ["sac", "dqn"])
def test_an_agent_that_does_not_fit_is_refused_before_a_trial(
    request_of: Callable[..., TuneRequest], agent: str, tmp_path: Path
) -> None:
    env_id = {"sac": "CartPole-v1", "dqn": "Pendulum-v1"}[agent]
    request = replace(request_of(), request=TrainRequest(agent, env_id, steps=64), space=None)
    with pytest.raises(RefusedError, match="accepts"):
        tune(request)
    assert not (tmp_path / "study").exists()


# --- kills and several processes -----------------------------------------------------------------


@optuna_only
def test_a_killed_study_goes_on(request_of: Callable[..., TuneRequest], tmp_path: Path) -> None:
    request = request_of(steps=3_200, trials=2)
    log = tmp_path / "study" / "trials" / "0000" / "progress.csv"
    with subprocess.Popen(command(request), text=True, stderr=subprocess.DEVNULL) as process:
        until(lambda: log.is_file() and log.stat().st_size > 0, process)
        process.kill()
    journal = tmp_path / "study" / "journal.log"
    with open(journal, "ab") as file:
        file.write(b'{"op_code": 4, "work')  # as if it had been killed while writing
    result = tune(request)
    assert states(result) == ["interrupted", "complete", "complete"]
    assert result.rows[0].error == "its process died"
    assert result.rows[1].settings == result.rows[0].settings, "tried once more"
    assert all(json.loads(line) for line in journal.read_text().splitlines())


@optuna_only
def test_a_trial_that_kills_its_process_twice_has_failed(
    request_of: Callable[..., TuneRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os, signal, sys; from rlzoo.tune import trial; from rlzoo.cli.main import main\n"
        "trial.train = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main(sys.argv[1:])"
    )
    request = request_of(trials=2)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, *command(request)[3:]], check=False, capture_output=True
        )
        assert done.returncode == -signal.SIGKILL
    result = tune(request)
    assert states(result) == ["interrupted", "failed", "complete"]
    assert result.rows[1].error == "its process died, for the second time"


@optuna_only
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_cleanly_and_the_study_goes_on(
    request_of: Callable[..., TuneRequest], tmp_path: Path, jobs: int
) -> None:
    request = request_of(steps=16_000, trials=3, jobs=jobs)
    folder = tmp_path / "study" / "trials"
    with subprocess.Popen(command(request), text=True, stderr=subprocess.PIPE) as process:
        until(lambda: len(list(folder.glob("*/progress.csv"))) == jobs, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "continues the study" in err
    assert "Traceback" not in err
    notes = [json.loads(path.read_text()) for path in sorted(folder.glob("*/trial.json"))]
    assert [note["state"] for note in notes] == ["interrupted"] * jobs
    with pytest.raises(StoppedError) as stopped:
        tune(replace(request, jobs=1), StopAtFirstBar())
    assert stopped.value.exit_code == 130
    again = json.loads((folder / f"{jobs:04d}" / "trial.json").read_text())
    assert again["settings"] in [note["settings"] for note in notes], "they come again"


class StopAtFirstBar(Silent):
    """Presses Ctrl-C as soon as a training begins."""

    def start(self, label: str, total: int, unit: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)


@optuna_only
def test_two_processes_share_a_study(
    request_of: Callable[..., TuneRequest], tmp_path: Path
) -> None:
    request = request_of(trials=6, steps=320)
    processes = [
        subprocess.Popen(
            command(request), text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    result = tune(request)
    assert len(result.rows) == 6
    assert set(states(result)) <= {"complete", "pruned"}
    assert sorted(path.name for path in (tmp_path / "study" / "trials").iterdir()) == [
        f"{n:04d}" for n in range(6)
    ]
    ended = [sum(f"trial {n}: " in text for text in said) for n in range(6)]
    assert ended == [1] * 6, "every trial was made by one of them"


@optuna_only
def test_jobs_share_the_trials(request_of: Callable[..., TuneRequest]) -> None:
    lines: list[str] = []

    class Listening(Silent):
        def message(self, text: str) -> None:
            lines.append(text)

    result = tune(request_of(trials=4, jobs=2), Listening())
    assert len(result.rows) == 4
    assert set(states(result)) <= {"complete", "pruned"}
    assert sum(line.startswith("trial ") for line in lines) == 4
