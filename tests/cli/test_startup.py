"""What a user meets first: help, version, typing errors. As subprocesses, where that matters."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rlzoo as package
from rlzoo.cli.main import app
from rlzoo.runs import AGENTS

COMMANDS = (
    "train",
    "resume",
    "leaderboard",
    "eval",
    "collect",
    "dataset",
    "config",
    "benchmark",
    "tune",
    "record",
    "report",
    "inspect",
    "list",
    "doctor",
    "demo",
    "encoder",
)


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlzoo.cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"], ["trian"]])
def test_torch_is_not_imported(arguments: list[str]) -> None:
    code = (
        "import sys; from rlzoo.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'gymnasium', 'numpy', 'stable_baselines3'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_names_every_command() -> None:
    done = process("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


def test_the_table_of_commands_is_complete() -> None:
    names = {c.name for c in app.registered_commands} | {g.name for g in app.registered_groups}
    assert names == set(COMMANDS)


def test_case_01_unknown_agent_is_refused_in_three_lines_without_traceback() -> None:
    done = process("train", "bera")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 3
    assert "Did you mean 'bear'" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("position", ["first", "last"])
def test_debug_shows_the_traceback_wherever_it_stands(rlzoo: Callable, position: str) -> None:
    arguments = ["train", "bera"]
    arguments.insert(0 if position == "first" else 2, "--debug")
    found = rlzoo(*arguments)
    assert found.code == 2
    assert "Traceback" in found.err
    assert "Did you mean 'bear'" in found.err


def test_version(rlzoo: Callable) -> None:
    assert rlzoo("--version") == (0, f"rlzoo {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["train"], ["agent"]),
        (["train", "bear", "--stpes", "3"], ["--stpes", "--steps"]),
        (["train", "bear", "--steps", "many"], ["--steps"]),
        (["train", "bear", "--seed", "1.5"], ["--seed"]),
        (["train", "bear", "--threads", "0"], ["--threads"]),
        (["dataset", "chekc"], ["chekc"]),
    ],
)
def test_usage_errors_are_two_lines(
    rlzoo: Callable, arguments: list[str], words: list[str]
) -> None:
    found = rlzoo(*arguments)
    assert found.refused
    assert all(word in found.err.lower() for word in words)
    assert "--help" in found.err.splitlines()[-1]


def test_an_unexpected_error_is_said_in_short_and_exits_1(
    rlzoo: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of a kind that nobody foresaw")

    monkeypatch.setattr("rlzoo.runs.doctor.examine", broken)
    found = rlzoo("doctor")
    assert found.code == 1
    assert "ZeroDivisionError: of a kind that nobody foresaw" in found.err
    assert "--debug" in found.err
    assert "Traceback" not in found.err


def test_ctrl_c_exits_130(rlzoo: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlzoo.runs.doctor.examine", interrupted)
    assert rlzoo("doctor") == (130, "", "Interrupted.\n")


def test_ctrl_c_during_training_exits_130_without_traceback(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rlzoo.cli.main", "train", "ppo", "--env", "CartPole-v1",
         "--steps", "100000000", "--run-dir", str(tmp_path / "run")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell that starts the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("training ppo"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Stopped at step" in err
    assert "rlzoo resume" in err
    assert "Traceback" not in err
    assert out == ""


def test_list_has_every_agent_with_its_presets(rlzoo: Callable) -> None:
    found = rlzoo("list")
    assert found.code == 0
    rows = {line.split()[0]: line for line in found.out.splitlines() if line}
    assert set(AGENTS) < set(rows)
    assert "cpu, d4rl, neurips2019" in found.out
    assert "1906.00949" in found.out
