"""Case 39: files of records that were killed, shared, cut, filled with garbage, on full disks."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rlzoo
from rlzoo.report import records
from rlzoo.report.records import Record, append, latest, read, to_line

fcntl = pytest.importorskip("fcntl")
ROOT = str(Path(rlzoo.__file__).parents[1])

# Stays alive and forks a writer for every number that it is sent: importing takes the longest.
WRITERS = """
import os, sys
from rlzoo.report.records import Record, append

path, size = sys.argv[1], int(sys.argv[2])

def write(seed, count):
    record = Record("s", "smoke", "sac", "default", "E", seed, "ok", error="x" * size)
    for number in range(count):
        append(path, Record(**{**vars(record), "total_timesteps": number}))
        os.write(1, b"%d %d\\n" % (seed, number))

for line in sys.stdin:
    seed, count = map(int, line.split())
    pid = os.fork()
    if pid == 0:
        write(seed, count)
        os._exit(0)
    os.write(1, b"pid %d\\n" % pid)
"""


def record(seed: int = 0, **changes: Any) -> Record:
    return Record("s", "smoke", "sac", "default", "E", seed, "ok", **changes)


class Writers:
    """Real processes that append; each says which of its records are on the disk."""

    def __init__(self, path: Path, size: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", WRITERS, str(path), str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        self.told: list[tuple[int, int]] = []

    def line(self) -> list[str]:
        assert self.process.stdout is not None
        words = self.process.stdout.readline().decode().split()
        if len(words) == 2 and words[0] != "pid":
            self.told.append((int(words[0]), int(words[1])))
        return words

    def start(self, seed: int, count: int) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed} {count}\n".encode())
        self.process.stdin.flush()
        while (words := self.line())[0] != "pid":
            pass
        return int(words[1])

    def close(self) -> None:
        """Wait until all writers have ended, and take what they said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        while self.line():
            pass
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait()


@pytest.mark.parametrize("options", [(), ("-O",)], ids=["", "-O"])
def test_39_fifty_kills_cost_no_record_that_was_written(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path, rng = tmp_path / "results.jsonl", random.Random(5)
    # Long lines, so that some kills hit a write.
    writers = Writers(path, 400_000, *options)
    for seed in range(50):
        pid = writers.start(seed, 100_000)
        while not writers.told or writers.told[-1][0] != seed:
            writers.line()
        time.sleep(rng.uniform(0, 0.02))
        os.kill(pid, signal.SIGKILL)
    writers.close()
    found = read(path)
    there = {(item.seed, item.total_timesteps) for item in found.records}
    assert set(writers.told) <= there
    # A kill between the write and the report may leave one more of each writer, never another.
    assert len(there) == len(found.records) <= len(writers.told) + 50
    assert {seed for seed, _ in there} == set(range(50))
    # Half a line at most for each kill, and it is alone on its line.
    assert len(found.problems) <= 50
    assert all("not a whole line of JSON" in problem for problem in found.problems)
    print(f"{len(found.records)} records, {len(found.problems)} half lines")
    append(path, record(99))
    assert len(read(path).records) == len(found.records) + 1
    path.unlink()  # tens of megabytes


def test_39_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(to_line(record(7))[:-20])  # a kill before
    writers = Writers(path, 20_000)
    for seed in (0, 1, 2):
        writers.start(seed, 100)
    writers.close()
    found = read(path)
    expected = {(seed, number) for seed in (0, 1, 2) for number in range(100)}
    assert len(found.records) == 300
    assert {(item.seed, item.total_timesteps) for item in found.records} == expected
    seeds = [item.seed for item in found.records]
    assert sorted(seeds) != seeds, "the processes wrote one after the other"
    assert len(found.problems) == 1
    assert f"{path}:1:" in found.problems[0]


def test_39_a_line_that_is_being_written_is_not_ended_by_another_writer(tmp_path: Path) -> None:
    path, line = tmp_path / "results.jsonl", to_line(record(1))
    with open(path, "ab", buffering=0) as slow:
        fcntl.flock(slow, fcntl.LOCK_EX)
        slow.write(line[:50])
        other = threading.Thread(target=append, args=(path, record(2)))
        other.start()
        time.sleep(0.3)
        assert other.is_alive()
        slow.write(line[50:])
    other.join(timeout=30)
    found = read(path)
    assert [item.seed for item in found.records] == [1, 2]
    assert found.problems == []


def test_39_without_locks_lines_are_still_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for seed in range(3):
        append(tmp_path / "results.jsonl", record(seed))
    monkeypatch.setattr(records, "fcntl", None)
    append(tmp_path / "results.jsonl", record(3))
    assert [item.seed for item in read(tmp_path / "results.jsonl").records] == [0, 1, 2, 3]
    # Another process adds a line after this one has looked at the end.
    write = records._write

    def late(descriptor: int, data: bytes) -> None:
        with open(tmp_path / "results.jsonl", "ab") as file:
            file.write(to_line(record(4)))
        write(descriptor, data)

    monkeypatch.setattr(records, "_write", late)
    append(tmp_path / "results.jsonl", record(5))
    assert [item.seed for item in read(tmp_path / "results.jsonl").records] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("free", [0, 1, 100])
def test_a_full_disk_leaves_the_lines_that_were_there(tmp_path: Path, free: int) -> None:
    path = tmp_path / "results.jsonl"
    append(path, record(1))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + free, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(path, record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    append(path, record(2))
    assert [item.seed for item in read(path).records] == [1, 2]


# ------------------------------------------------------------------------------- damaged files


def test_39_a_file_that_is_cut_anywhere_keeps_its_whole_lines(tmp_path: Path) -> None:
    lines = [to_line(record(seed)) for seed in range(3)]
    content, path = b"".join(lines), tmp_path / "results.jsonl"
    ends = [sum(map(len, lines[: n + 1])) for n in range(3)]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        # A line counts from its closing brace on.
        whole = sum(end - 1 <= size for end in ends)
        found = read(path)
        assert [item.seed for item in found.records] == list(range(whole))
        is_half = size not in (0, *ends) and size + 1 not in ends
        assert len(found.problems) == is_half
        assert all("its end is missing; skipped" in problem for problem in found.problems)
        if size % 10 == 0 or not is_half:
            append(path, record(9))
            found = read(path)
            assert [item.seed for item in found.records] == [*range(whole), 9]
            assert len(found.problems) == is_half


def test_39_flipped_bits_never_stop_a_reader(tmp_path: Path) -> None:
    content = bytearray(b"".join(to_line(record(seed, curve=((1, 2.0),))) for seed in range(3)))
    path, rng = tmp_path / "results.jsonl", random.Random(0)
    for _ in range(1500):
        place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        found = read(path)
        assert len(found.records) >= 1  # a flipped end of line costs two
        latest(found.records)
        content[place] ^= bit


def garbage() -> Iterator[bytes]:
    yield random.Random(0).randbytes(3000).replace(b"\n", b"")
    yield from (b"\x00" * 5000, b"\xff\xfe{}", b"null", b"7")
    yield from (b"[]", b"{}", b'"text"', b"NaN", b"[" * 200_000, b'{"a":' * 200_000, b"}" * 100)
    yield b"9" * 10_000
    yield to_line(record())[:-1] + to_line(record())
    yield to_line(record()).decode().encode("utf-16")
    yield b"\xef\xbb\xbf" + to_line(record())
    yield b'{"format": "rlzoo-record", "version": 1}'
    yield b'{"format": "rlzoo-record", "version": "1"}'
    yield b'{"format": "rlzoo-record", "version": true}'
    yield b'{"format": ["rlzoo-record"], "version": 1}'


@pytest.mark.parametrize("bad", list(garbage()), ids=lambda bad: repr(bad[:12]))
def test_39_garbage_between_records_is_skipped_and_told(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "results.jsonl"
    append(path, record(1))
    with open(path, "ab") as file:
        file.write(bad)
    append(path, record(2))
    found = read(path)
    assert [item.seed for item in found.records] == [1, 2]
    assert found.problems
    for problem in found.problems:
        assert re.fullmatch(rf"{re.escape(str(path))}:\d+: .{{5,120}}; skipped", problem)


WRONG: dict[str, list[Any]] = {
    "text": [5, 0.5, True, [], ["x"], {}, {"x": 1}],
    "name": [5, True, [], {}, "", "  ", "a\nb", "\x1b[31m", "\ud800", "\u202e"],
    "number": ["5", "", True, [], {}],
    "whole": ["5", True, 0.5, 1e300, 1 << 63, -(1 << 64), float("nan"), []],
    "numbers": ["5", 5, True, [], [1], {"return_mean": "5"}, {"return_mean": True}, {"x": [1]}],
    "metrics": ["5", 5, [], {"gap": "5"}, {"gap": {}}, {"": 1}, {"a\nb": 1}],
    "mapping": ["5", 5, True, [], [1]],
    "curve": ["5", 5, True, {}, [1], [[1]], [[1, 2, 3]], ["12"], [[0.5, 1]], [[1, "2"]], [[1, []]]],
    "curves": ["5", 5, True, [], [1], {"": []}, {"gap": 3}, {"gap": [[1]]}, {"gap": [[0.5, 1]]}],
    "status": ["OK", "", 1, True, [], {}],
}
KINDS = {
    "name": ["suite", "size", "agent", "preset", "env", "source"],
    "text": [
        "error",
        "dataset",
        "dataset_fingerprint",
        "device",
        "commit",
        "command",
        "run_dir",
        "date",
    ],
    "whole": ["seed", "total_timesteps"],
    "number": ["wall_seconds", "steps_per_second"],
    "numbers": ["final", "best"],
    "mapping": ["machine", "versions", "evaluation"],
    "curve": ["curve"],
    "metrics": ["metrics"],
    "curves": ["metric_curves"],
    "status": ["status"],
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for kind, names in KINDS.items() for name in names]
)
def test_39_wrong_types_cost_their_line_only(tmp_path: Path, name: str, kind: str) -> None:
    assert sum(map(len, KINDS.values())) == len(vars(record()))
    path, content = tmp_path / "results.jsonl", json.loads(to_line(record(1)))
    bad = [json.dumps({**content, name: value}) for value in WRONG[kind]]
    if name in ("suite", "size", "agent", "preset", "env", "seed", "status"):
        bad.append(json.dumps({**content, name: None}))
        bad.append(json.dumps({key: value for key, value in content.items() if key != name}))
    path.write_text("\n".join([json.dumps(content), *bad, json.dumps(content)]))
    found = read(path)
    assert len(found.records) == 2
    assert len(found.problems) == len(bad)
    for number, problem in enumerate(found.problems, start=2):
        assert problem.startswith(f"{path}:{number}: {name} ")


def test_39_lines_without_an_end_are_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_LINE", 2000)
    path = tmp_path / "results.jsonl"
    append(path, record(1))
    with open(path, "ab") as file:
        file.truncate(50_000_000)  # zeros that take no room, as after a power cut
    append(path, record(2))
    found = read(path)
    assert [item.seed for item in found.records] == [1, 2]
    assert [problem.split(": ")[1] for problem in found.problems] == [
        "longer than 2,000 bytes; skipped"
    ]


def test_39_names_that_no_file_can_hold_do_not_stop_anyone(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, record(1, run_dir=os.fsdecode(b"runs/\xff"), error="\ud800"))
    found = read(path)
    assert found.problems == []
    assert (found.records[0].run_dir, found.records[0].error) == ("runs/?", "?")
    found.records[0].run_dir.encode()
    append(path, found.records[0])
    assert read(path).records == found.records * 2


def test_39_duplicates_count_once(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for seed in (1, 2, 1, 1):
        append(path, record(seed))
    path.write_bytes(path.read_bytes() * 2)
    found = read([path, path])
    assert len(found.records) == 16
    assert [item.seed for item in latest(found.records).values()] == [1, 2]


def test_nothing_relies_on_assertions(tmp_path: Path) -> None:
    code = """
import sys
from rlzoo.errors import RefusedError
from rlzoo.report.records import Record, append, import_records, read
from rlzoo.report.statistics import mean, stratified_bootstrap

def refused(function, *arguments):
    try:
        function(*arguments)
    except RefusedError:
        return True
    return False

path, table = sys.argv[1] + "/results.jsonl", sys.argv[1] + "/t.csv"
append(path, Record("s", "smoke", "sac", "default", "E", 1, "ok"))
open(path, "a").write("half")
append(path, Record("s", "smoke", "sac", "default", "E", 2, "ok"))
open(table, "w").write("agent,env\\n")
found = read(path)
print(
    __debug__, len(found.records), len(found.problems),
    refused(append, path, Record("s", "smoke", "sac", "default", "E", "2", "ok")),
    refused(import_records, table), refused(stratified_bootstrap, [1.0], mean),
)
"""
    for option in ("-O", "-OO"):
        folder = tmp_path / option
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, option, "-c", code, str(folder)],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT},
        )  # fmt: skip
        assert done.stdout.split() == ["False", "2", "1", "True", "True", "True"], done.stderr
