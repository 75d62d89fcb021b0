"""Faults of the logs: a full disk, a limit on the size of files, a folder that is gone."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlzoo.runs.outputs import CSV_NAME, STEP, flush, run_logger

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def log(logger: Logger, step: int, **values: Any) -> None:
    for key, value in values.items():
        logger.record(key, value)
    logger.record(STEP, step, exclude="tensorboard")
    logger.dump(step)


def csv_steps(folder: Path) -> list[int]:
    with open(folder / CSV_NAME, newline="") as file:
        assert file.read()[-1:] == "\n"
        file.seek(0)
        return [int(row[STEP]) for row in csv.DictReader(file, strict=True)]


def curve(folder: Path, tag: str = "a") -> list[int]:
    reader = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    known = tag in reader.Tags()["scalars"]
    return [event.step for event in reader.Scalars(tag)] if known else []


def run_limited(code: str, folder: Path, *arguments: object) -> list[str]:
    """Run ``code`` in a process of its own; return its warnings. Nothing else may be printed.

    ``limit(n)`` is there: no file may have more than n bytes from then on. The kernel writes what
    fits, so the first write that fails has put half of a record into the file, as on a full disk.
    """
    start = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from rlzoo.runs.outputs import STEP, flush, run_logger\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "folder = Path(sys.argv[1])\n"
        "def limit(n):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (n, resource.RLIM_INFINITY))\n"
        "def log(logger, steps, *keys):\n"
        "    for step in steps:\n"
        "        for key in keys:\n"
        "            logger.record(key, step)\n"
        "        logger.record(STEP, step, exclude='tensorboard')\n"
        "        logger.dump(step)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", start + code, str(folder), *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


@needs_full_device
@pytest.mark.parametrize("after", [None, 5])
def test_case_18_disk_full_while_writing_csv(tmp_path: Path, after: int | None) -> None:
    (tmp_path / CSV_NAME).symlink_to(FULL)
    told: list[str] = []
    logger = run_logger(tmp_path, told.append, after)
    for step in range(6, 10):
        log(logger, step, a=step, **{f"new{step}": 1})
        flush(logger)
    assert len(told) == 1
    assert f"{tmp_path / CSV_NAME} cannot be written: No space left on device" in told[0]
    assert "\n" not in told[0]
    assert curve(tmp_path) == [6, 7, 8, 9]
    # Another disk: the same logger goes on there.
    (tmp_path / CSV_NAME).unlink()
    log(logger, 10, a=10)
    assert csv_steps(tmp_path) == [10]
    assert len(told) == 1


@needs_full_device
def test_case_18_a_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / CSV_NAME).symlink_to(FULL)
    told: list[str] = []
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, device="cpu")
    model.set_logger(run_logger(tmp_path, told.append))
    model.learn(64)
    model.logger.close()
    assert model.num_timesteps == 64
    assert len(told) == 1
    assert curve(tmp_path, "time/fps") == [16, 32, 48, 64]


@posix
@pytest.mark.parametrize("size", [150, 400, 700])
def test_case_18_whole_rows_and_events_when_space_comes_back(tmp_path: Path, size: int) -> None:
    told = run_limited(
        "logger = run_logger(folder, print)\n"
        "limit(int(sys.argv[2]))\n"
        "log(logger, range(100), 'a')\n"
        "log(logger, range(100, 150), 'a', 'new')\n"  # The file would have to be replaced.
        "flush(logger)\n"
        "limit(resource.RLIM_INFINITY)\n"
        "log(logger, range(150, 200), 'a', 'new')\n"
        "logger.close()\n",
        tmp_path, size,
    )  # fmt: skip
    assert sorted(line.split(" cannot")[0].rsplit("/")[-1][:12] for line in told) == [
        "events.out.t", CSV_NAME,
    ]  # fmt: skip
    assert all(": File too large. " in line for line in told)
    for steps in (csv_steps(tmp_path), curve(tmp_path)):
        kept = len(steps) - 50
        assert 0 < kept <= 100
        assert steps == [*range(kept), *range(150, 200)]
    assert curve(tmp_path, "new") == [*range(150, 200)]


@posix
@pytest.mark.parametrize("ending", ["logger.close()", "flush(logger)", ""])
def test_case_18_the_process_ends_well_without_space(tmp_path: Path, ending: str) -> None:
    told = run_limited(
        f"logger = run_logger(folder, print)\nlimit(300)\nlog(logger, range(99), 'a')\n{ending}",
        tmp_path,
    )
    assert len(told) == 2
    assert csv_steps(tmp_path) == [*range(len(csv_steps(tmp_path)))]
    # What a run that goes on makes of it.
    run_logger(tmp_path, told.append, after=2)
    assert csv_steps(tmp_path) == curve(tmp_path) == [0, 1, 2]
    assert len(told) == 2


@posix
def test_case_18_no_space_from_the_first_byte(tmp_path: Path) -> None:
    told = run_limited(
        "limit(0)\n"
        "logger = run_logger(folder, print)\n"
        "log(logger, range(5), 'a')\n"
        "limit(resource.RLIM_INFINITY)\n"
        "log(logger, range(5, 9), 'a')\n",
        tmp_path,
    )
    assert len(told) == 2
    assert csv_steps(tmp_path) == curve(tmp_path) == [5, 6, 7, 8]


@posix
def test_case_18_no_space_to_cut_the_logs_of_a_run_that_goes_on(tmp_path: Path) -> None:
    told: list[str] = []
    logger = run_logger(tmp_path, told.append)
    for step in range(40):
        logger.record("long", "x" * 20, exclude="tensorboard")
        log(logger, step, a=step)
    # Room for the head of an event file and two events, not for 21 events or rows.
    told += run_limited(
        "limit(250)\n"
        "logger = run_logger(folder, print, after=20)\n"
        "log(logger, range(21, 23), 'a')\n"
        "print(len((folder / 'progress.csv').read_text().splitlines()))\n"
        "limit(resource.RLIM_INFINITY)\n"
        "log(logger, range(23, 26), 'a')\n",
        tmp_path,
    )
    assert [line for line in told if "cannot be written" not in line] == [str(1 + 21)]
    assert len(told) == 2 + 1
    assert curve(tmp_path) == [*range(26)]  # As TensorBoard reads it: the old file has 40 events.
    assert csv_steps(tmp_path) == [*range(21), 23, 24, 25]
    run_logger(tmp_path, told.append, after=24)
    assert curve(tmp_path) == [*range(25)]
    assert csv_steps(tmp_path) == [*range(21), 23, 24]
    assert len(told) == 2 + 1


def test_case_18_folder_that_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    told: list[str] = []
    logger = run_logger(folder, told.append)
    log(logger, 1, a=1)
    shutil.rmtree(folder)
    for step in (2, 3):
        log(logger, step, a=step, **{f"new{step}": 1})
        flush(logger)
    assert not folder.exists()
    assert [f"{folder}/" in line and "it was removed" in line for line in told] == [True, True]
    folder.mkdir()
    log(logger, 4, a=4)
    assert csv_steps(folder) == curve(folder) == [4]
    shutil.rmtree(folder)
    logger.close()
    logger.close()
    assert len(told) == 2


def test_case_18_one_file_that_is_removed(tmp_path: Path) -> None:
    told: list[str] = []
    logger = run_logger(tmp_path, told.append)
    log(logger, 1, a=1)
    (tmp_path / CSV_NAME).unlink()
    log(logger, 2, a=2)
    log(logger, 3, a=3)
    assert curve(tmp_path) == [1, 2, 3]
    assert csv_steps(tmp_path) == [3]
    assert len(told) == 1


def test_case_18_folder_that_is_moved_keeps_its_logs(tmp_path: Path) -> None:
    logger = run_logger(tmp_path / "run", lambda line: pytest.fail(line))
    log(logger, 1, a=1)
    (tmp_path / "run").rename(tmp_path / "moved")
    log(logger, 2, a=2)
    assert csv_steps(tmp_path / "moved") == curve(tmp_path / "moved") == [1, 2]
