"""Case 39 and kills: failing cells, a killed driver, a killed worker, Ctrl-C, unusable folders."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from benchmark_testing import (
    ALWAYS_FAILS,
    Driver,
    counts,
    has_checkpoint,
    lines,
    pid_of,
    started,
    write_suite,
)

from rlzoo.cli.main import main
from rlzoo.core.safe_files import is_alive

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

# Long enough to be in the middle of it, short enough to wait for.
LONG = 1500


def wait_for_checkpoint(run: Path) -> None:
    deadline = time.monotonic() + 300
    while not has_checkpoint(run):
        assert time.monotonic() < deadline, f"{run} has no checkpoint"
        time.sleep(0.02)


def td3_folder(out: Path, seed: int = 0) -> Path:
    return out / "results" / "td3" / "Pendulum-v1" / f"seed_{seed}"


def log_of(run: Path) -> str:
    return run.with_name(run.name + ".log").read_text()


def test_case_39_a_cell_that_always_fails_says_why_and_the_others_finish(tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path / "s.yaml", more=ALWAYS_FAILS), tmp_path / "out"
    code, events, _ = Driver(suite, "--out", out).end()
    assert code == 1
    assert counts(out) == {("ppo", 0): 1, ("td3", 0): 1}
    (failed,) = (record for record in lines(out) if record["status"] == "failed")
    assert failed["agent"] == "dqn"
    assert "Box" in failed["error"]
    assert "exit code 2" in failed["error"]
    assert [e["status"] for e in events if e["event"] == "ended"].count("failed") == 1

    code, events, _ = Driver(suite, "--out", out).end()
    assert code == 1
    assert started(events) == [("dqn", 0)]
    assert counts(out) == {("ppo", 0): 1, ("td3", 0): 1}

    code, events, _ = Driver(suite, "--out", out, "--agents", "ppo,td3").end()
    assert code == 0
    assert started(events) == []


def test_a_killed_driver_loses_nothing_and_finished_cells_stay(tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path / "s.yaml", td3_steps=LONG), tmp_path / "out"
    driver = Driver(suite, "--out", out, "--jobs", "1")
    driver.until(event="ended", agent="ppo")
    worker = pid_of(driver.until(event="started", agent="td3"))
    wait_for_checkpoint(td3_folder(out))
    driver.kill()
    before = {path: path.stat().st_mtime_ns for path in (out / "results" / "ppo").rglob("*")}

    # At once: the orphan may still be writing its checkpoint.
    code, events, err = Driver(suite, "--out", out).end()
    assert code == 0, err
    assert started(events) == [("td3", 0)]
    assert counts(out) == {("ppo", 0): 1, ("td3", 0): 1}
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert "goes on from step" in log_of(td3_folder(out))
    deadline = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker of the killed driver runs for ever"
        time.sleep(0.1)


def test_a_run_that_ended_without_its_driver_is_recorded_and_not_repeated(tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path / "s.yaml"), tmp_path / "out"
    assert Driver(suite, "--out", out, "--agents", "ppo").end()[0] == 0
    (out / "results.jsonl").write_text((out / "results.jsonl").read_text()[:100])  # half a line
    code, events, _ = Driver(suite, "--out", out, "--agents", "ppo").end()
    assert code == 0
    assert started(events) == []
    assert any("results.jsonl:1" in event.get("text", "") for event in events)
    half, whole = (out / "results.jsonl").read_text().splitlines()
    assert len(half) == 100
    assert '"status": "ok"' in whole


def test_a_killed_worker_is_a_failed_cell_that_goes_on_next_time(tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path / "s.yaml", td3_steps=LONG), tmp_path / "out"
    driver = Driver(suite, "--out", out, "--jobs", "2")
    worker = pid_of(driver.until(event="started", agent="td3"))
    wait_for_checkpoint(td3_folder(out))
    os.kill(worker, signal.SIGKILL)
    code, _, _ = driver.end()
    assert code == 1
    assert counts(out) == {("ppo", 0): 1}
    (failed,) = (record for record in lines(out) if record["status"] == "failed")
    assert failed["agent"] == "td3"
    assert "killed by SIGKILL" in failed["error"]
    assert "training td3" in failed["error"]

    code, events, err = Driver(suite, "--out", out).end()
    assert code == 0, err
    assert started(events) == [("td3", 0)]
    assert counts(out) == {("ppo", 0): 1, ("td3", 0): 1}
    assert "goes on from step" in log_of(td3_folder(out))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_checkpoints_and_records_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    suite = write_suite(tmp_path / "s.yaml", seeds=(0, 1), td3_steps=LONG)
    out = tmp_path / "out"
    driver = Driver(suite, "--out", out, "--agents", "td3", "--jobs", "1")
    driver.until(event="started", agent="td3")
    wait_for_checkpoint(td3_folder(out))
    driver.process.send_signal(number)
    found, events, err = driver.end()
    assert found == code
    assert "Traceback" not in err
    assert {event["status"] for event in events if event["event"] == "ended"} == {"stopped"}
    assert not (out / "results.jsonl").exists()
    assert not td3_folder(out, seed=1).exists()
    assert '"stopped"' in (td3_folder(out) / "manifest.json").read_text()

    if number == signal.SIGINT:
        found, events, err = Driver(suite, "--out", out, "--agents", "td3", "--seeds", "0").end()
        assert found == 0, err
        assert counts(out) == {("td3", 0): 1}
        assert "goes on from step" in log_of(td3_folder(out))


def test_two_drivers_never_share_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = write_suite(tmp_path / "s.yaml", td3_steps=LONG), tmp_path / "out"
    driver = Driver(suite, "--out", out, "--agents", "td3")
    driver.until(event="started")
    assert main(["benchmark", str(suite), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert f"in use by process {driver.process.pid}" in message
    assert "--out" in message
    assert "--run-dir" not in message
    driver.process.terminate()
    assert driver.end()[0] == 143


@pytest.mark.parametrize("kind", ["file", "proc", "long", "read-only"])
def test_an_unusable_folder_is_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir(mode=0o500)
    if kind == "read-only" and os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    places = {
        "file": tmp_path / "file" / "out",
        "proc": Path("/proc/rlzoo-benchmark"),
        "long": tmp_path / ("x" * 300),
        "read-only": tmp_path / "locked" / "out",
    }
    suite = write_suite(tmp_path / "s.yaml")
    assert main(["benchmark", str(suite), "--out", str(places[kind])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot be used" in err
    assert len(err.strip().splitlines()) <= 3
