"""A collection that is killed, again and again, ends with the bytes of one that was not."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rlzoo
from rlzoo.data import shards

SCRIPT = """
import functools, hashlib, sys
import gymnasium as gym
from rlzoo.data import collect, shards

shards.FLUSH_ROWS = 150  # workers import this file too
collect.PROGRESS_SECONDS = 0.0

if __name__ == "__main__":
    make_env = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)
    data = collect.collect(
        make_env, "random", 6000, seed=7, n_envs=9, workers=int(sys.argv[2]), work_dir=sys.argv[1],
        progress=lambda done, total: print(done, flush=True),
    )
    digest = hashlib.sha256()
    for name in ("observations", "actions", "rewards", "terminations", "truncations",
                 "next_observations", "episode_starts"):
        digest.update(getattr(data, name).tobytes())
    print("digest", digest.hexdigest(), flush=True)
"""


def start(script: Path, folder: Path, workers: int) -> subprocess.Popen[str]:
    root = str(Path(rlzoo.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(folder), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def run(script: Path, folder: Path, workers: int = 1) -> tuple[str, int]:
    """Return the digest, and how many rows were there at the start."""
    out, _ = start(script, folder, workers).communicate()
    lines = out.splitlines()
    return lines[-1], int(lines[0])


def kill_after(rows: int, script: Path, folder: Path, workers: int = 1) -> None:
    """Collect, and kill the process with SIGKILL once it has told of so many rows."""
    process = start(script, folder, workers)
    if process.stdout is None:
        raise RuntimeError
    for line in process.stdout:
        if line.startswith("digest"):
            pytest.fail("the collection ended before it could be killed")
        if int(line) >= rows:
            break
    process.send_signal(signal.SIGKILL)
    process.communicate()
    if process.returncode != -signal.SIGKILL:
        pytest.fail(f"ended with {process.returncode}")


def test_sigkill_does_not_change_a_byte(tmp_path: Path) -> None:
    script = tmp_path / "collect_it.py"
    script.write_text(SCRIPT)
    whole, at_start = run(script, tmp_path / "whole")
    assert at_start == 0
    folder = tmp_path / "killed"
    kill_after(900, script, folder)
    saved = sum(path.stat().st_size for path in folder.glob("*.npz"))
    assert saved > 0
    kill_after(2_500, script, folder, workers=2)  # its workers die with it
    kill_after(4_000, script, folder)
    assert sum(path.stat().st_size for path in folder.glob("*.npz")) > saved
    resumed, at_start = run(script, folder)
    assert at_start > 2_000
    assert resumed == whole
    assert whole != f"digest {hashlib.sha256().hexdigest()}"
    shards.discard(folder)
    assert not folder.exists()
