"""Faults of runs, through the command line: the device, the seed, the run folder."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rlzoo.cli.main import main
from rlzoo.errors import RefusedError
from rlzoo.runs import directory
from rlzoo.runs.directory import LOCK, RunDirectory

SHORT = (
    "train", "ppo", "--env", "CartPole-v1", "--steps", "16", "--eval-episodes", "1",
    "--set=n_steps=16", "--set=batch_size=16", "--set=n_epochs=1", "--set=n_envs=1",
)  # fmt: skip


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., str]:
    """Return ``refused(*options) -> message``: a short training that is refused in three lines."""
    monkeypatch.chdir(tmp_path)

    def run(*options: object) -> str:
        capsys.readouterr()
        code = main([*SHORT, *(str(option) for option in options)])
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert 1 <= len(err.strip().splitlines()) <= 3, err
        assert "Traceback" not in err
        return err

    return run


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def lock(folder: Path, pid: int, host: str | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"pid": pid, "host": host or socket.gethostname()}
    (folder / LOCK).write_text(json.dumps(owner))


@pytest.mark.parametrize("device", ["cuda:7", "cuda:x", "gpu", "tpu"])
def test_case_12_device_that_is_not_there(refused: Callable, device: str, tmp_path: Path) -> None:
    message = refused("--device", device)
    assert device in message
    assert "Available: cpu" in message
    assert "--device auto" in message
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_case_12_cuda_without_a_gpu(refused: Callable) -> None:
    assert "'cuda'" in refused("--device", "cuda")


def test_case_12_auto_says_what_it_took(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--device", "auto"]) == 0
    taken = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"device {taken}" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", str(2**32), "10" * 30, "1.5", "abc", ""])
def test_case_13_seeds_that_are_refused(refused: Callable, seed: str, tmp_path: Path) -> None:
    assert "seed" in refused("--seed", seed)
    assert not any(tmp_path.iterdir())


def test_case_13_the_largest_seed_is_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*SHORT, "--seed", str(2**32 - 1)]) == 0


def test_case_14_folder_that_is_not_empty(refused: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    message = refused("--run-dir", folder)
    assert "not empty" in message
    assert "--run-dir" in message
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_case_14_a_second_run_never_mixes_with_the_first(refused: Callable, tmp_path: Path) -> None:
    assert main([*SHORT, "--run-dir", "run"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    refused("--run-dir", "run")
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_case_14_an_empty_folder_is_fine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    assert main([*SHORT, "--run-dir", "run"]) == 0
    assert not (tmp_path / "run" / LOCK).exists()


def test_case_15_folder_in_use_names_process_and_host(refused: Callable, tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "run"):
        message = refused("--run-dir", "run")
        assert f"process {os.getpid()} on {socket.gethostname()}" in message
        assert (tmp_path / "run" / LOCK).exists()


def test_case_15_without_locks_of_the_system_the_process_decides(
    refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(directory, "fcntl", None)
    lock(tmp_path / "run", os.getppid())
    assert f"process {os.getppid()} on {socket.gethostname()}" in refused("--run-dir", "run")


def test_case_15_a_number_that_another_process_has_by_now_is_no_obstacle(tmp_path: Path) -> None:
    lock(tmp_path, os.getppid())
    with RunDirectory.create(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_case_15_lock_of_another_machine_is_respected(refused: Callable, tmp_path: Path) -> None:
    lock(tmp_path / "run", dead_pid(), host="elsewhere")
    assert "elsewhere" in refused("--run-dir", "run")


def test_case_15_stale_lock_of_a_dead_process_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lock(tmp_path / "run", dead_pid())
    assert main([*SHORT, "--run-dir", "run"]) == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "host": 1}'])
def test_case_15_damaged_lock_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text)
    with RunDirectory.create(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_case_15_two_processes_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rlzoo.runs.directory import RunDirectory\n"
        "with RunDirectory.create(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(RefusedError, match=f"in use by process {process.pid} "):
            RunDirectory.create(tmp_path / "run")
        process.communicate()
    assert process.returncode == 0
    with RunDirectory.create(tmp_path / "run"):
        pass


def test_case_16_path_too_long(refused: Callable) -> None:
    message = refused("--run-dir", "x" * 300)
    assert "File name too long" in message
    assert all(len(line) < 250 for line in message.splitlines())


def test_case_16_folder_below_a_file(refused: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be used" in refused("--run-dir", tmp_path / "file" / "run")
    assert "cannot be used" in refused("--run-dir", tmp_path / "file")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_case_16_file_system_that_cannot_be_written(refused: Callable) -> None:
    assert "cannot be used" in refused("--run-dir", "/proc/rlzoo-run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_case_16_folder_without_permission(refused: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    assert "Permission denied" in refused("--run-dir", folder / "run")


# --- 40: videos -----------------------------------------------------------------------------------


def test_case_40_a_video_that_cannot_be_made_is_refused_before_training(
    refused: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "moviepy", None)
    assert "rlzoo[video]" in refused("--run-dir", "run", "--video")
    assert not (tmp_path / "run").exists()
