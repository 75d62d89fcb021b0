"""Faults in checkpoints that share files of a replay buffer, by their number in the list."""

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

import rlzoo
from rlzoo.core import checkpoint
from rlzoo.core.checkpoint import DamagedError, NotPublishedError
from rlzoo.core.replay_files import ReplayFiles

BOX = spaces.Box(-1, 1, (3,), np.float32)
SIZE = 300


def make():
    return ReplayBuffer(SIZE, BOX, BOX, device="cpu")


def add(buffer, first, last):
    """Add rows that say which they are."""
    for row in range(first, last):
        numbers = np.full((1, 3), row, np.float32)
        buffer.add(numbers, numbers + 1, numbers, np.array([row]), np.array([row % 7 == 0]), [{}])


def save(files, folder, buffer, added, **options):
    parts, links = files.parts(buffer, added)
    path = checkpoint.publish(folder, added, parts, links=links, **options)
    files.committed(path)
    return path


def check(folder):
    """The newest checkpoint must be intact, and hold what was in the buffer at its step."""
    found, message = checkpoint.latest(folder)
    assert found is not None
    assert message == ""
    assert_restores(found)
    return found.step


def assert_restores(found):
    buffer, expected = make(), make()
    ReplayFiles().restore(buffer, found)
    add(expected, 0, found.step)
    assert (buffer.pos, buffer.full) == (expected.pos, expected.full)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        assert getattr(buffer, name).tobytes() == getattr(expected, name).tobytes(), name


@pytest.fixture
def run(tmp_path):
    """Checkpoints of 50, 100 and 150 rows; the first links nothing, the last two files."""
    buffer, files = make(), ReplayFiles()
    for step in (50, 100, 150):
        add(buffer, step - 50, step)
        save(files, tmp_path, buffer, step, keep_last=None)
    return tmp_path, buffer, files


def chunks(path):
    return sorted(path.glob("replay-*.safetensors"))


def damaged(folder, step, name):
    with pytest.raises(DamagedError, match=f"Checkpoint ckpt-{step} is damaged: ") as caught:
        checkpoint.load(folder / f"ckpt-{step}")
    assert len(str(caught.value).splitlines()) <= 3
    assert name in str(caught.value)
    return str(caught.value)


def test_case_25_truncated_chunk(run):
    folder, _, _ = run
    assert len(chunks(folder / "ckpt-150")) == 3
    for chunk in chunks(folder / "ckpt-150"):
        whole = chunk.read_bytes()
        for size in {*range(0, len(whole), 997), len(whole) - 1}:
            os.truncate(chunk, size)
            message = damaged(folder, 150, chunk.name)
            assert f"part {chunk.name}, expected {len(whole)} bytes, found {size}" in message
            chunk.write_bytes(whole)
    assert check(folder) == 150


def test_case_25_missing_chunk(run):
    folder, _, _ = run
    for chunk in chunks(folder / "ckpt-150"):
        whole = chunk.read_bytes()
        chunk.unlink()
        damaged(folder, 150, chunk.name)
        # The other names of the file are not touched: the earlier checkpoints are complete.
        found, message = checkpoint.latest(folder)
        assert found.step == 100
        assert "ckpt-150 is damaged" in message
        assert_restores(found)
        chunk.write_bytes(whole)


def test_case_26_flipped_bit_in_a_linked_chunk(run):
    """One file on the disk: every checkpoint that links it notices, the others are intact."""
    folder, _, _ = run
    flips = random.Random(0)
    links = [chunk for chunk in chunks(folder / "ckpt-150") if chunk.stat().st_nlink > 1]
    assert [chunk.stat().st_nlink for chunk in links] == [3, 2]
    for chunk, users in zip(links, [(50, 100, 150), (100, 150)], strict=True):
        whole = chunk.read_bytes()
        for _ in range(40):
            changed = bytearray(whole)
            changed[flips.randrange(len(whole))] ^= 1 << flips.randrange(8)
            chunk.write_bytes(changed)
            for step in users:
                assert "does not match its checksum" in damaged(folder, step, chunk.name)
            if 50 not in users:
                assert checkpoint.latest(folder)[0].step == 50
        chunk.write_bytes(whole)
    assert check(folder) == 150


def test_case_26_a_linked_chunk_that_was_cut_is_written_again(run):
    folder, buffer, files = run
    os.truncate(chunks(folder / "ckpt-150")[0], 100)
    add(buffer, 150, 160)
    save(files, folder, buffer, 160, keep_last=None)
    assert check(folder) == 160
    damaged(folder, 150, "replay-00000001")


@pytest.mark.parametrize("size", [0, 500, 2000])
def test_case_17_disk_full_while_a_chunk_is_written(run, size):
    folder, buffer, files = run
    add(buffer, 150, 250)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(NotPublishedError):
            save(files, folder, buffer, 250, keep_last=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert check(folder) == 150
    assert len(list(folder.iterdir())) == 3
    add(buffer, 250, 400)
    save(files, folder, buffer, 400, keep_last=1)
    assert check(folder) == 400


# --- 19: SIGKILL ----------------------------------------------------------------------------------
# In a fresh interpreter (this file run as a script): see test_core_faults.py.


def die_at_operation(folder, count):
    left = [count]
    kinds = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree"}

    def hook(event, args):
        if event in kinds and args and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def sweep(folder):
    """Kill a save just before its 1st, 2nd, 3rd … change to the disk, until it gets through."""
    buffer, files = make(), ReplayFiles()
    for first, step in ((0, 100), (100, 200), (200, 350)):
        add(buffer, first, step)
        save(files, folder, buffer, step, keep_last=2)
    for count in range(1, 1000):
        pid = os.fork()
        if pid == 0:
            found = checkpoint.latest(folder)[0]
            buffer, files = make(), ReplayFiles()
            files.restore(buffer, found)
            add(buffer, found.step, found.step + 20)
            die_at_operation(folder, count)
            save(files, folder, buffer, found.step + 20, keep_last=2)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        last = check(folder)
        if code == 0:
            assert last > 350
            return count - 1
        assert code == -signal.SIGKILL
    raise AssertionError("never finished")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_case_19_killed_while_saving_a_buffer(tmp_path):
    env = os.environ | {
        "PYTHONPATH": str(Path(rlzoo.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 12  # a sweep that never interrupted anything would prove nothing


if __name__ == "__main__":
    print(sweep(Path(sys.argv[1])))
