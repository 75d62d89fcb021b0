"""Seconds and bytes that a checkpoint of a full-size replay buffer takes.

SAC's ``ReplayBuffer`` with 1 M transitions of the size of HalfCheetah (17 numbers of float64 per
observation, 6 per action): the first checkpoint, then one after each 10 k and each 100 k rows, with
everything flushed to the disk; reading it back with all sums verified; against SB3's own
``save_to_pkl`` and ``load_from_pkl`` of the same buffer, which flush nothing.

    python benchmarks/speed/checkpoint.py [--rows 1000000] [--rounds 5] [--folder .]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from rlzoo.core import checkpoint
from rlzoo.core.replay_files import ReplayFiles, row_arrays

TARGET = 10.0  # seconds of an increment of 100 k rows: "seconds, not minutes"
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (17,), np.float64)
ACTIONS = spaces.Box(-1, 1, (6,), np.float32)


class Run:
    """A run that does nothing but fill its buffer and write checkpoints.

    Args:
        folder: Where the checkpoints go.
        rows: Size of the buffer; it is full at the start.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.added, self.files = folder, 0, ReplayFiles()
        self.buffer = empty(rows)
        self.generator = np.random.default_rng(0)
        self.add(rows)

    def add(self, rows: int) -> None:
        """Do what as many calls of ``add`` do, without the minutes that these take."""
        buffer = self.buffer
        for first in range(0, rows, 1000):  # in pieces, so that the peak of memory is not here
            places = (buffer.pos + np.arange(first, min(first + 1000, rows))) % buffer.buffer_size
            for array in row_arrays(buffer).values():
                array[places] = self.generator.standard_normal((len(places), *array.shape[1:]))
        self.added += rows
        buffer.full = buffer.full or buffer.pos + rows >= buffer.buffer_size
        buffer.pos = (buffer.pos + rows) % buffer.buffer_size

    def save(self) -> None:
        """Write one checkpoint, keep two."""
        parts, links = self.files.parts(self.buffer, self.added)
        path = checkpoint.publish(self.folder, self.added, parts, keep_last=2, links=links)
        self.files.committed(path)

    def restore(self) -> None:
        """Read and verify the newest checkpoint into a fresh buffer."""
        fresh = empty(self.buffer.buffer_size)
        ReplayFiles().restore(fresh, checkpoint.load(self.folder / f"ckpt-{self.added}"))
        if not np.array_equal(fresh.observations, self.buffer.observations):
            raise SystemExit("What was read differs from what was written.")


def empty(rows: int) -> ReplayBuffer:
    """Return a buffer without rows."""
    return ReplayBuffer(rows, OBSERVATIONS, ACTIONS, device="cpu")


def disk_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder; one that has several names counts once."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({stat.st_ino: stat.st_size for stat in stats}.values())


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def increments(run: Run, rows: int, rounds: int) -> tuple[list[float], list[int]]:
    """Return seconds, and bytes of files that were not there before, of some checkpoints."""
    seconds, written = [], []
    for _ in range(rounds):
        run.add(rows)
        before = {path.stat().st_ino for path in run.folder.rglob("*")}
        seconds.append(timed(run.save))
        newest = max(run.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        stats = [path.stat() for path in newest.iterdir()]
        written.append(sum(stat.st_size for stat in stats if stat.st_ino not in before))
    return seconds, written


def line(what: str, seconds: list[float], size: float, note: str = "") -> None:
    """Print a row of the table."""
    spread = f"{min(seconds):.2f}-{max(seconds):.2f}" if len(seconds) > 1 else ""
    print(f"{what:34} {statistics.median(seconds):8.2f} {spread:>12} {size / 1e6:10.1f}  {note}")


def peak_mib() -> float:
    """Return the most memory that this process ever had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="size of the buffer")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints of each kind")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write (and clean up)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        run, pickled = Run(Path(name) / "checkpoints", arguments.rows), Path(name) / "buffer.pkl"
        size = sum(array.nbytes for array in row_arrays(run.buffer).values())
        print(f"Buffer: {arguments.rows} rows, {size / 1e6:.0f} MB\n")
        print(f"{'':34} {'seconds':>8} {'range':>12} {'MB written':>10}")
        before = peak_mib()
        line("first checkpoint", [timed(run.save)], disk_bytes(run.folder))
        extra = peak_mib() - before
        worst = 0.0
        for rows in (10_000, 100_000):
            seconds, written = increments(run, rows, arguments.rounds)
            worst = max(worst, *seconds)
            line(f"checkpoint after {rows} more rows", seconds, statistics.median(written))
        on_disk = disk_bytes(run.folder)
        line("verify and restore", [timed(run.restore) for _ in range(3)], 0)
        line(
            "SB3 save_to_pkl",
            [timed(lambda: save_to_pkl(pickled, run.buffer)) for _ in range(arguments.rounds)],
            pickled.stat().st_size,
            "not flushed",
        )
        line("SB3 load_from_pkl", [timed(lambda: load_from_pkl(pickled)) for _ in range(3)], 0)
    print(f"\nOn the disk with two checkpoints: {on_disk / size:.2f} buffers")
    print(f"Memory of the first checkpoint beside the buffer: {extra:.0f} MiB")
    verdict = "reached" if worst <= TARGET else "missed"
    print(f"Slowest increment: {worst:.2f} s; target {TARGET:.0f} s: {verdict}")


if __name__ == "__main__":
    main()
