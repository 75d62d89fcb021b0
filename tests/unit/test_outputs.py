"""The logs of a run: what SB3 would write, and one clean curve after every kind of interruption."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import (
    FormatUnsupportedError,
    HParam,
    Image,
    Logger,
    Video,
    configure,
)
from tensorboard import context
from tensorboard.backend.event_processing import event_accumulator as legacy
from tensorboard.backend.event_processing import plugin_event_accumulator as plugin
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.data import server_ingester
from tensorboard.util import grpc_util

from rlzoo.runs.outputs import CSV_NAME, STEP, flush, run_logger

Curve = list[tuple[int, float]]
Reader = Callable[[str], Curve]


def fail(line: str) -> None:
    raise AssertionError(line)


def log(logger: Logger, step: int, **values: Any) -> None:
    for key, value in values.items():
        logger.record(key, value)
    logger.record(STEP, step, exclude="tensorboard")
    logger.dump(step)


def first_run(folder: Path, steps: tuple[int, ...] = (10, 20, 30, 40, 50)) -> None:
    logger = run_logger(folder, fail)
    for step in steps:
        log(logger, step, a=step, b=-step)
    logger.close()


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / CSV_NAME, newline="") as file:
        return list(csv.DictReader(file, strict=True))


def csv_curve(folder: Path, key: str = "a") -> Curve:
    return [(int(row[STEP]), float(row[key])) for row in rows(folder) if row[key]]


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def events(folder: Path) -> list[Event]:
    return [
        Event.FromString(data)
        for path in event_files(folder)
        for data in RawEventFileLoader(str(path)).Load()
    ]


def summaries(folder: Path) -> list[tuple[int, str]]:
    """Step and contents of every summary, the time of writing left out."""
    return [(event.step, str(event.summary)) for event in events(folder) if event.summary.value]


# The ways in which TensorBoard reads a folder; each returns a function that looks again.


def accumulator(folder: Path) -> Reader:
    reader = legacy.EventAccumulator(str(folder))

    def look(tag: str) -> Curve:
        reader.Reload()
        known = tag in reader.Tags()["scalars"]
        return [(e.step, e.value) for e in reader.Scalars(tag)] if known else []

    return look


def tensors(reader: plugin.EventAccumulator, tag: str) -> Curve:
    known = tag in reader.Tags()["tensors"]
    return [(e.step, e.tensor_proto.float_val[0]) for e in reader.Tensors(tag)] if known else []


def one_file_at_a_time(folder: Path) -> Reader:
    """As ``tensorboard --load_fast=false``: the multiplexer over a directory watcher."""
    reader = EventMultiplexer(size_guidance={"tensors": 1000})

    def look(tag: str) -> Curve:
        reader.AddRunsFromDirectory(str(folder))
        reader.Reload()
        return tensors(reader.GetAccumulator("."), tag)

    return look


def all_files(folder: Path) -> Reader:
    """As ``tensorboard --load_fast=false --reload_multifile=true``."""
    reader = plugin.EventAccumulator(
        str(folder), {"tensors": 1000}, event_file_active_filter=lambda _: True
    )
    return lambda tag: tensors(reader.Reload(), tag)


READERS = [accumulator, one_file_at_a_time, all_files]


def fresh(folder: Path, tag: str = "a") -> Curve:
    """The curve that a reader sees which is started now; all of them see the same."""
    first, *others = (reader(folder)(tag) for reader in READERS)
    assert all(other == first for other in others)
    return first


def line(*steps: float) -> Curve:
    return [(int(step), float(step)) for step in steps]


# A new run.


def everything(logger: Logger) -> None:
    for step in (1, 2):
        only_events = ("csv",)
        logger.record("hparams", HParam({"lr": 0.1, "n": "x"}, {"a": 0}), exclude=only_events)
        logger.record("picture", Image(torch.zeros(3, 2, 2), "CHW"), exclude=only_events)
        logger.record("film", torch.arange(5.0), exclude=only_events)
        log(logger, step, a=step / 3, text='two "lines"\nof, text', exact=np.float32(0.1))
    log(logger, 3, later=True)
    logger.close()


def test_the_files_are_those_of_sb3(tmp_path: Path) -> None:
    everything(run_logger(tmp_path / "ours", fail))
    everything(configure(str(tmp_path / "sb3"), ["csv", "tensorboard"]))
    ours, sb3 = tmp_path / "ours", tmp_path / "sb3"
    for folder in (ours, sb3):
        (event_file,) = event_files(folder)
        assert set(folder.iterdir()) == {folder / CSV_NAME, event_file}
    assert len(summaries(ours)) == 2 * (3 + 2 + 3) + 1
    # The hyperparameters have the time in them.
    assert [pair for pair in summaries(ours) if "hparams" not in pair[1]] == [
        pair for pair in summaries(sb3) if "hparams" not in pair[1]
    ]
    assert events(ours)[0].file_version == events(sb3)[0].file_version
    columns = ("a", "text", "exact", "later", STEP)
    assert [tuple(row[column] for column in columns) for row in rows(ours)] == [
        (str(1 / 3), 'two "lines"\nof, text', "0.1", "", "1"),
        (str(2 / 3), 'two "lines"\nof, text', "0.1", "", "2"),
        ("", "", "", "True", "3"),
    ]
    header = (sb3 / CSV_NAME).read_text().splitlines()[0]
    assert set(header.split(",")) == set(rows(ours)[0])


def test_new_columns_come_in_a_fixed_order(tmp_path: Path) -> None:
    logger = run_logger(tmp_path, fail)
    log(logger, 1, b=1, c=1)
    log(logger, 2, z=1, a=1)
    assert (tmp_path / CSV_NAME).read_text() == f"b,c,{STEP},a,z\n1,1,1,,\n,,2,1,1\n"


def test_every_row_has_its_step(tmp_path: Path) -> None:
    logger = run_logger(tmp_path, fail)
    logger.record("a", 1)
    logger.dump(7)
    logger.dump(8)  # nothing was recorded
    assert [row[STEP] for row in rows(tmp_path)] == ["7"]
    assert logger.name_to_value == {}


def test_old_logs_of_a_new_run_are_emptied_as_sb3_does(tmp_path: Path) -> None:
    (tmp_path / CSV_NAME).write_text("old\n1\n")
    first_run(tmp_path)
    assert csv_curve(tmp_path) == line(10, 20, 30, 40, 50)


def test_what_csv_cannot_hold_is_refused_as_by_sb3(tmp_path: Path) -> None:
    logger = run_logger(tmp_path, fail)
    log(logger, 1, a=1)
    logger.record("film", Video(torch.zeros(1, 1, 1, 1, 1), 1))
    with pytest.raises(FormatUnsupportedError):
        logger.dump(2)
    assert csv_curve(tmp_path) == [(1, 1)]


def test_no_thread_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    first_run(tmp_path)
    assert threading.active_count() == before


def test_closing_and_flushing_again_is_fine(tmp_path: Path) -> None:
    logger = run_logger(tmp_path, fail)
    flush(logger)
    log(logger, 1, a=1)
    for _ in range(2):
        flush(logger)
        logger.close()
    assert fresh(tmp_path) == csv_curve(tmp_path) == line(1)
    flush(Logger(None, []))


# A run that goes on.


@pytest.mark.parametrize(
    ("after", "kept"),
    [(0, ()), (5, ()), (10, (10,)), (25, (10, 20)), (50, (10, 20, 30, 40, 50)),
     (99, (10, 20, 30, 40, 50))],
)  # fmt: skip
def test_later_steps_vanish(tmp_path: Path, after: int, kept: tuple[int, ...]) -> None:
    first_run(tmp_path)
    logger = run_logger(tmp_path, fail, after=after)
    assert csv_curve(tmp_path) == fresh(tmp_path) == line(*kept)
    log(logger, after + 3, a=after + 3)
    assert csv_curve(tmp_path) == fresh(tmp_path) == line(*kept, after + 3)
    assert [step for step, _ in fresh(tmp_path, "b")] == list(kept)


def test_going_on_where_there_is_nothing(tmp_path: Path) -> None:
    logger = run_logger(tmp_path / "new", fail, after=10)
    log(logger, 11, a=11)
    assert csv_curve(tmp_path / "new") == fresh(tmp_path / "new") == line(11)


def test_going_on_again_and_again(tmp_path: Path) -> None:
    first_run(tmp_path)
    for after, step in [(35, 37), (37, 44), (30, 31), (30, 36), (36, 90)]:
        log(run_logger(tmp_path, fail, after=after), step, a=step)
        assert csv_curve(tmp_path)[-1] == fresh(tmp_path)[-1] == (step, step)
    assert csv_curve(tmp_path) == fresh(tmp_path) == line(10, 20, 30, 36, 90)
    # The one that is written to, and the one before it, emptied.
    assert [path.stat().st_size > 0 for path in event_files(tmp_path)] == [False, True]


def test_new_columns_after_going_on(tmp_path: Path) -> None:
    first_run(tmp_path)
    logger = run_logger(tmp_path, fail, after=20)
    log(logger, 21, a=21, c=1)
    log(logger, 22, d='"')
    assert (tmp_path / CSV_NAME).read_text() == (
        f'a,b,{STEP},c,d\n10,-10,10,,\n20,-20,20,,\n21,,21,1,\n,,22,,""""\n'
    )


def test_rows_without_a_step_go_with_the_one_before(tmp_path: Path) -> None:
    (tmp_path / CSV_NAME).write_text(f"a,{STEP}\n1,10\n2,\n3,30\n4,\n5,20\n")
    run_logger(tmp_path, fail, after=25)
    assert [row["a"] for row in rows(tmp_path)] == ["1", "2", "5"]


@pytest.mark.parametrize("content", ["", "\n", "a", "a,b\n1,2\n", "\x00" * 50, "\udcff\n\udcff"])
def test_odd_csv_files_do_not_stop_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / CSV_NAME).write_bytes(content.encode(errors="surrogateescape"))
    logger = run_logger(tmp_path, fail, after=5)
    log(logger, 6, a=6)
    text = (tmp_path / CSV_NAME).read_bytes().decode(errors="surrogateescape")
    assert text.endswith("\n")
    assert list(csv.DictReader(text.splitlines()))[-1][STEP] == "6"


def test_every_kind_of_event_survives(tmp_path: Path) -> None:
    logger = run_logger(tmp_path, fail)
    everything(logger)
    stop = Event(step=2, session_log=SessionLog(status=SessionLog.STOP, msg="x"))
    logger.output_formats[1].writer._get_file_writer().add_event(stop)
    before = [event for event in events(tmp_path) if event.step <= 2]
    run_logger(tmp_path, fail, after=2)
    after = events(tmp_path)
    # The head: the version, and the starts which make TensorBoard forget what it has read.
    head, starts, rest = after[0], after[1:3], after[3:]
    assert head.file_version == "brain.Event:2"
    assert head.wall_time == before[0].wall_time
    assert [(e.session_log.status, e.step) for e in starts] == [(SessionLog.START, 0)] * 2
    assert rest == before[1:]
    values = [value for event in rest for value in event.summary.value]
    kinds = {value.WhichOneof("value") for value in values}
    assert kinds == {"simple_value", "tensor", "image", "histo", None}  # None: hyperparameters
    assert {value.metadata.plugin_data.plugin_name for value in values} == {"", "hparams", "text"}
    assert stop in rest


def test_hparams_are_still_there_before_the_first_step(tmp_path: Path) -> None:
    everything(run_logger(tmp_path, fail))
    run_logger(tmp_path, fail, after=0)
    names = [value.tag for e in events(tmp_path) for value in e.summary.value]
    assert len([name for name in names if name.startswith("_hparams_/")]) == 6
    assert len(names) == 6


# A TensorBoard that is open all the time.


@pytest.mark.parametrize("make", READERS)
@pytest.mark.parametrize("writer", ["ours", "sb3"])
def test_an_open_tensorboard_forgets_what_vanished(
    tmp_path: Path, make: Callable[[Path], Reader], writer: str
) -> None:
    sb3 = configure(str(tmp_path), ["csv", "tensorboard"]) if writer == "sb3" else None
    logger = sb3 or run_logger(tmp_path, fail)
    look, behind = make(tmp_path), make(tmp_path)
    for step in (10, 20, 30, 40):
        log(logger, step, a=step)
        if step == 10:
            assert behind("a") == line(10)
    logger.close()
    assert look("a") == line(10, 20, 30, 40)
    logger = run_logger(tmp_path, fail, after=25)
    assert look("a") == line(10, 20)
    log(logger, 35, a=35)
    assert look("a") == behind("a") == line(10, 20, 35)
    log(logger, 45, a=45)
    log(run_logger(tmp_path, fail, after=35), 36, a=36)
    assert look("a") == behind("a") == line(10, 20, 35, 36)
    log(run_logger(tmp_path, fail, after=5), 6, a=6)
    assert look("a") == line(6)


@pytest.fixture
def data_server() -> Iterator[Callable[[Path], Reader]]:
    """What ``tensorboard`` starts by default where its wheel has it: a server of its own."""
    ingesters = []

    def start(folder: Path) -> Reader:
        try:
            binary = server_ingester.get_server_binary()
        except server_ingester.NoDataServerError as error:
            pytest.skip(str(error))
        ingester = server_ingester.SubprocessServerDataIngester(
            binary, str(folder), reload_interval=1,
            channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        )  # fmt: skip
        ingester.start()
        ingesters.append(ingester)

        def look(tag: str) -> Curve:
            runs = ingester.data_provider.read_scalars(
                context.RequestContext(), experiment_id="", plugin_name="scalars", downsample=1000
            )
            found = [series[tag] for series in runs.values() if tag in series]
            return [(point.step, point.value) for point in found[0]] if found else []

        return look

    yield start
    for ingester in ingesters:
        ingester._stdin_handle.close()


def test_the_data_server_of_tensorboard_forgets_too(
    tmp_path: Path, data_server: Callable[[Path], Reader]
) -> None:
    def soon(expected: Curve) -> None:
        end = time.monotonic() + 20
        while look("a") != expected and time.monotonic() < end:
            time.sleep(0.1)
        assert look("a") == expected

    first_run(tmp_path)
    look = data_server(tmp_path)
    soon(line(10, 20, 30, 40, 50))
    logger = run_logger(tmp_path, fail, after=25)
    soon(line(10, 20))
    log(logger, 35, a=35)
    soon(line(10, 20, 35))
    log(run_logger(tmp_path, fail, after=20), 21, a=21)
    soon(line(10, 20, 21))


@pytest.mark.parametrize("make", READERS)
def test_the_clock_was_set_back(tmp_path: Path, make: Callable[[Path], Reader]) -> None:
    first_run(tmp_path)
    (path,) = event_files(tmp_path)
    path.rename(path.with_name("events.out.tfevents.9000000000.host.1.0"))
    look = make(tmp_path)
    assert look("a") == line(10, 20, 30, 40, 50)
    log(run_logger(tmp_path, fail, after=30), 31, a=31)
    assert look("a") == fresh(tmp_path) == line(10, 20, 30, 31)


# Interruptions.


def test_half_a_csv_row_is_dropped(tmp_path: Path) -> None:
    logger = run_logger(tmp_path / "run", fail)
    ends = []  # of the whole rows
    for step, text in [(10, "one\ntwo"), (20, '"three"\nfour\n')]:
        log(logger, step, a=step, text=text)
        ends.append((tmp_path / "run" / CSV_NAME).stat().st_size)
    content = (tmp_path / "run" / CSV_NAME).read_bytes()
    for end in range(len(content) + 1):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / CSV_NAME).write_bytes(content[:end])
        log(run_logger(folder, fail, after=20), 30, a=30)
        whole = [step for step, last in zip((10, 20), ends, strict=True) if last <= end]
        assert csv_curve(folder) == line(*whole, 30)


def test_an_event_file_that_was_cut_anywhere(tmp_path: Path) -> None:
    first_run(tmp_path / "run", (10, 20, 30))
    (path,) = event_files(tmp_path / "run")
    content = path.read_bytes()
    seen = set()
    for end in range(len(content)):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / path.name).write_bytes(content[:end])
        before = accumulator(folder)("a")
        log(run_logger(folder, fail, after=30), 40, a=40)
        curve = accumulator(folder)("a")
        assert curve == [*before, (40, 40.0)]
        seen.add(len(before))
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("make", READERS)
def test_a_kill_while_going_on(tmp_path: Path, make: Callable[[Path], Reader]) -> None:
    first_run(tmp_path)
    (old,) = event_files(tmp_path)
    content = old.read_bytes()
    look = make(tmp_path)
    look("a")
    run_logger(tmp_path, fail, after=20)
    old.write_bytes(content)  # As if the kill had come before the old file was emptied.
    (tmp_path / "events.tmp-1-0").write_bytes(content)
    assert look("a") == fresh(tmp_path) == line(10, 20)
    log(run_logger(tmp_path, fail, after=20), 21, a=21)
    assert look("a") == fresh(tmp_path) == line(10, 20, 21)
    assert len(events(tmp_path)) == 3 + 2 * 2 + 1  # the head, a and b twice: nothing is left twice


def test_no_half_file_has_a_name_that_tensorboard_reads(tmp_path: Path) -> None:
    first_run(tmp_path)
    opened: list[str] | None = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and opened is not None and isinstance(arguments[0], str | bytes):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    run_logger(tmp_path, fail, after=20)
    names = {Path(name).name for name in opened if name.startswith(str(tmp_path))}
    opened = None  # A hook cannot be removed.
    assert any(name.startswith("events.tmp-") for name in names)
    assert {name for name in names if "tfevents" in name} == {
        path.name for path in event_files(tmp_path)
    }


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    first_run(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    left = [tmp_path / f"{name}.tmp-{process.pid}-0" for name in (CSV_NAME, "events")]
    for path in left:
        path.write_text("half")
    run_logger(tmp_path, fail, after=20)
    assert not any(path.exists() for path in left)


ENDLESS = """
import sys
from pathlib import Path
from rlzoo.runs.outputs import STEP, run_logger
after = int(sys.argv[2])
logger = run_logger(Path(sys.argv[1]), print, after)
print("started", flush=True)
for step in range(after + 1, 10**9):
    logger.record("a", step)
    logger.record(f"new{step % 1000:03d}", step)  # every row adds a column: the file is replaced
    logger.record(STEP, step, exclude="tensorboard")
    logger.dump(step)
    print(step, flush=True)
"""


def test_sigkill_loses_nothing_that_was_logged(tmp_path: Path) -> None:
    after, pause = 0, random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-O", "-c", ENDLESS, str(tmp_path), str(after)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.05 + pause.random() / 4)
        process.kill()
        told = [int(step) for step in process.stdout.read().split()]
        process.wait()
        process.stdout.close()
        for curve in (csv_curve(tmp_path), accumulator(tmp_path)("a")):
            assert curve == line(*range(1, curve[-1][0] + 1))
            assert told[-1] <= curve[-1][0] <= told[-1] + 1
        after = told[-1] - len(told) // 2
        run_logger(tmp_path, fail, after=after)
        assert csv_curve(tmp_path) == fresh(tmp_path) == line(*range(1, after + 1))
        assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]


def test_it_works_without_assertions(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from rlzoo.runs.outputs import STEP, flush, run_logger\n"
        "for after, steps in ((None, (10, 20, 30)), (20, (21, 22))):\n"
        "    logger = run_logger(Path(sys.argv[1]), print, after)\n"
        "    for step in steps:\n"
        "        logger.record('a', step)\n"
        "        logger.record(STEP, step, exclude='tensorboard')\n"
        "        logger.dump(step)\n"
        "    flush(logger)\n"
        "    logger.close()\n"
    )
    result = subprocess.run(
        [sys.executable, "-O", "-c", code, str(tmp_path)], capture_output=True, text=True,
        env={**os.environ, "PYTHONWARNINGS": "error::ResourceWarning"}, check=True,
    )  # fmt: skip
    assert result.stdout == ""
    assert csv_curve(tmp_path) == fresh(tmp_path) == line(10, 20, 21, 22)
