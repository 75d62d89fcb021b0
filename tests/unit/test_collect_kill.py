"""A collection that is killed, again and again, ends with the bytes of one that was not."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

import rlzoo
from rlzoo.data import shards
from rlzoo.data.collect import collect

SCRIPT = """
import functools, sys
import gymnasium as gym
from rlzoo.data import collect, shards

shards.FLUSH_ROWS = 150  # workers import this file too
collect.PROGRESS_SECONDS = 0.0

if __name__ == "__main__":
    collect.collect(
        functools.partial(gym.make, "Hopper-v4", disable_env_checker=True), "random", 6000, seed=7,
        n_envs=9, workers=int(sys.argv[2]), work_dir=sys.argv[1],
        progress=lambda done, total: print(done, flush=True),
    )
    print("finished", flush=True)
"""


def kill_after(rows: int, script: Path, folder: Path, workers: int = 1) -> int:
    """Collect, send SIGKILL once so many rows are there, and return how many were at the start."""
    root = str(Path(rlzoo.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(folder), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    told: list[str] = []
    for line in process.stdout or ():
        told.append(line.strip())
        if not told[-1].isdecimal() or int(told[-1]) >= rows:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends only when the workers, which hold the pipe too, have ended
    if not told or "finished" in told or process.returncode != -signal.SIGKILL:
        pytest.fail(f"not killed in the middle: {told[-1:]}, {process.returncode}")
    return int(told[0])


def test_sigkill_does_not_change_a_byte(tmp_path: Path) -> None:
    make_env = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)
    script, folder = tmp_path / "collect_it.py", tmp_path / "killed"
    script.write_text(SCRIPT)
    assert kill_after(900, script, folder) == 0
    second = kill_after(2_500, script, folder, workers=2)
    assert 300 < second < 1_800
    third = kill_after(4_000, script, folder)
    assert second < third < 6_000
    done: list[int] = []
    resumed = collect(
        make_env, "random", 6_000, 7, 9, work_dir=folder, progress=lambda n, _: done.append(n)
    )
    assert third < done[0] < 6_000
    whole = collect(make_env, "random", 6_000, 7, 9)
    assert resumed.fingerprint == whole.fingerprint
    assert resumed.metadata == whole.metadata
    shards.discard(folder)
    assert not folder.exists()
