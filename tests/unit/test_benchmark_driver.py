"""The driver: what is run, what is recorded, what is shown. Tiny real cells where cells run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from benchmark_testing import counts, lines, write_suite

from rlzoo.benchmark import execute
from rlzoo.benchmark.driver import RESULTS, BenchmarkRequest, Summary, make_plan, run
from rlzoo.benchmark.estimate import Estimator, Tracker, duration
from rlzoo.benchmark.job import FAILED, Event, Job, OnEvent, Outcome, facts_of, read_json
from rlzoo.benchmark.local import LocalExecutor
from rlzoo.benchmark.progress import Bar, JsonLines, Quiet
from rlzoo.benchmark.suite import Cell
from rlzoo.benchmark.worker import Worker
from rlzoo.cli.main import main
from rlzoo.core.safe_files import write_json_atomic
from rlzoo.errors import RefusedError
from rlzoo.report import records
from rlzoo.report.records import Record
from rlzoo.runs.progress import Silent

RESULT = {
    "total_timesteps": 200, "wall_seconds": 10.0, "steps_per_second": 30.0, "curve": [[200, 1.5]],
    "final": {"return_mean": 1.5, "return_std": 0.5, "episodes": 2, "normalized": None},
}  # fmt: skip


class Instant:
    """An executor for the driver's own logic: cells end at once, as ``outcomes`` says."""

    slots = 2

    def __init__(self, outcome: Callable[[Cell], Outcome] | None = None) -> None:
        self.outcome = outcome or (lambda _: Outcome("ok", dict(RESULT)))
        self.ran: list[tuple[str, int]] = []

    def close(self) -> None:
        pass

    def run(self, jobs: Sequence[Job], on_event: OnEvent, stopping: Callable[[], bool]) -> None:
        for job in jobs:
            self.ran.append((job.cell.agent, job.cell.seed))
            on_event(Event("started", job, "here"))
            on_event(Event("ended", job, outcome=self.outcome(job.cell)))


@pytest.fixture
def request_(tmp_path: Path) -> BenchmarkRequest:
    """Two agents with two seeds."""
    suite = write_suite(tmp_path / "tiny.yaml", seeds=(0, 1))
    return BenchmarkRequest(str(suite), out=tmp_path / "out")


def again(request: BenchmarkRequest, executor: Instant | None = None) -> list[tuple[str, int]]:
    """Run, and return what ran."""
    executor = executor or Instant()
    run(request, executor, Quiet())
    return executor.ran


def out_of(request: BenchmarkRequest) -> Path:
    assert request.out is not None
    return request.out


# ---------------------------------------------------------------------------- what is run


def test_every_cell_runs_once_and_nothing_runs_twice(request_: BenchmarkRequest) -> None:
    everything = [("ppo", 0), ("td3", 0), ("ppo", 1), ("td3", 1)]
    assert again(request_) == everything
    assert again(request_) == []
    assert counts(out_of(request_)) == dict.fromkeys(everything, 1)
    record = lines(out_of(request_))[0]
    assert record["run_dir"] == "results/ppo/CartPole-v1/seed_0"
    assert record["final"]["return_mean"] == 1.5


def test_failed_and_stopped_cells_run_again(request_: BenchmarkRequest) -> None:
    outcomes = {("ppo", 1): Outcome("failed", error="no luck"), ("td3", 1): Outcome("stopped")}
    executor = Instant(
        lambda cell: outcomes.get((cell.agent, cell.seed), Outcome("ok", dict(RESULT)))
    )
    summary = run(request_, executor, Quiet())
    assert (summary.done, len(summary.failed), summary.missing) == (2, 1, 1)
    assert summary.exit_code == 1
    assert summary.failed[0].error == "no luck"
    assert counts(out_of(request_), "failed") == {("ppo", 1): 1}
    assert [make_plan(request_).status(cell) for cell in make_plan(request_).cells] == [
        "done", "done", "failed", "missing",
    ]  # fmt: skip
    assert again(request_) == [("ppo", 1), ("td3", 1)]
    assert run(request_, Instant(), Quiet()) == Summary(4, (), 0)


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        (Summary(2, (), 0), 0),
        (Summary(1, (), 1), 1),
        (Summary(1, (), 1, 2), 130),
        (Summary(1, (), 1, 15), 143),
    ],
)
def test_exit_codes(summary: Summary, code: int) -> None:
    assert summary.exit_code == code


def test_a_cell_that_the_suite_has_changed_is_run_again(
    request_: BenchmarkRequest, tmp_path: Path
) -> None:
    assert len(again(request_)) == 4
    plan = make_plan(request_)
    for cell in plan.cells:
        write_json_atomic(plan.job(cell).cell_file, facts_of(cell))
    assert again(request_) == []
    write_suite(tmp_path / "tiny.yaml", seeds=(0, 1), td3_steps=100)
    assert again(request_) == [("td3", 0), ("td3", 1)]


def test_a_record_of_a_shorter_run_does_not_count(
    request_: BenchmarkRequest, tmp_path: Path
) -> None:
    assert len(again(request_)) == 4
    write_suite(tmp_path / "tiny.yaml", seeds=(0, 1), td3_steps=300)
    assert again(request_) == [("td3", 0), ("td3", 1)]


def test_records_of_others_do_not_count(request_: BenchmarkRequest) -> None:
    cell = make_plan(request_).cells[0]
    other = Record(
        cell.suite, cell.size, cell.agent, cell.preset, cell.env, cell.seed, "ok",
        final={"return_mean": 9.0}, source="another library",
    )  # fmt: skip
    records.append(out_of(request_) / RESULTS, other)
    assert len(again(request_)) == 4


def test_a_result_that_nobody_recorded_is_recorded(request_: BenchmarkRequest) -> None:
    plan = make_plan(request_)
    first, second = plan.cells[:2]
    for cell, steps in ((first, 200), (second, 100)):  # the second is from before it was longer
        write_json_atomic(plan.job(cell).cell_file, facts_of(cell))
        result = {**RESULT, "total_timesteps": steps}
        write_json_atomic(plan.job(cell).run_dir / "result.json", result)
    assert again(request_) == [("td3", 0), ("ppo", 1), ("td3", 1)]
    assert counts(out_of(request_))["ppo", 0] == 1


def test_a_missing_data_set_fails_its_cells_only(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "s.yaml", more="  bear: {envs: [Pendulum-v1]}")
    text = suite.read_text().replace("Pendulum-v1: {}", "Pendulum-v1: {dataset: rlzoo/no/such-v0}")
    suite.write_text(text)
    executor = Instant()
    request = BenchmarkRequest(str(suite), out=tmp_path / "out")
    summary = run(request, executor, Quiet())
    assert executor.ran == [("ppo", 0), ("td3", 0)]
    (failed,) = summary.failed
    assert failed.agent == "bear"
    assert str(failed.error).startswith("data set rlzoo/no/such-v0: ")


def test_a_full_disk_costs_a_record_that_the_next_call_makes(
    request_: BenchmarkRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def finish(cell: Cell) -> Outcome:
        job = make_plan(request_).job(cell)
        write_json_atomic(job.cell_file, facts_of(cell))
        write_json_atomic(job.run_dir / "result.json", RESULT)
        return Outcome("ok", dict(RESULT))

    with monkeypatch.context() as patch:
        patch.setattr(records, "append", full)
        summary = run(request_, Instant(finish), Quiet())
    assert summary.exit_code == 1
    assert "No space left" in str(summary.failed[0].error)
    assert again(request_) == []
    assert sum(counts(out_of(request_)).values()) == 4


def test_a_result_that_is_no_record_is_a_failure(request_: BenchmarkRequest) -> None:
    summary = run(request_, Instant(lambda _: Outcome("ok", {"curve": "no"})), Quiet())
    assert len(summary.failed) == 4
    assert "cannot be recorded" in str(summary.failed[0].error)


def test_no_resume_refuses_a_folder_with_records(request_: BenchmarkRequest) -> None:
    fresh = replace(request_, resume=False)
    assert len(again(fresh)) == 4
    with pytest.raises(RefusedError, match="records already"):
        make_plan(fresh)


# ------------------------------------------------------------------------- how long it takes


def cell_of(agent: str = "ppo", env: str = "A-v0", steps: int = 100, seed: int = 0) -> Cell:
    return Cell("s", "smoke", agent, "default", env, seed, None, steps, 10, 1)


def record_of(agent: str, env: str, steps: int, seconds: float, status: Any = "ok") -> Record:
    return Record(
        "s", "smoke", agent, "default", env, 0, status, total_timesteps=steps, wall_seconds=seconds
    )


def test_seconds_come_from_the_cells_that_are_most_alike() -> None:
    estimator = Estimator(
        [record_of("ppo", "A-v0", 100, 20.0), record_of("ppo", "B-v0", 100, 40.0),
         record_of("ppo", "A-v0", 10, 1e9, "failed")]
    )  # fmt: skip
    assert estimator.seconds(cell_of(steps=1000)) == pytest.approx(200.0)
    assert estimator.seconds(cell_of(env="B-v0", steps=50)) == pytest.approx(20.0)
    assert estimator.seconds(cell_of(env="C-v0", steps=10)) == pytest.approx(3.0)
    assert estimator.seconds(cell_of(agent="td3")) is None


def test_remaining_time_divides_by_slots_and_guesses_what_is_unknown() -> None:
    cells = [cell_of(seed=0), cell_of(seed=1), cell_of("td3", seed=0), cell_of("td3", seed=1)]
    tracker = Tracker(cells, [], Estimator(), slots=2)
    assert tracker.remaining() is None
    tracker.started(cells[0])
    assert len(tracker.running) == 1
    tracker.ended(cells[0], record_of("ppo", "A-v0", 100, 30.0))
    # 30 s of ppo, twice the same guess for td3, two at a time.
    assert tracker.remaining() == pytest.approx(45.0)
    tracker.started(cells[1])
    tracker.ended(cells[1], None)  # stopped: it waits again
    assert tracker.remaining() == pytest.approx(45.0)
    for cell in cells[1:]:
        tracker.ended(cell, record_of(cell.agent, "A-v0", 100, 30.0))
    assert tracker.remaining() == 0.0
    assert len(tracker.done) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "unknown"), (0, "0 s"), (89, "89 s"), (95, "2 min"), (7100, "118 min"),
     (7300, "2 h 02 min"), (190_000, "2 d 4 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_dry_run_writes_nothing_and_knows_times_of_other_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path / "tiny.yaml", seeds=(0, 1))
    out = tmp_path / "bench" / "smoke"
    options = ["benchmark", str(suite), "--out", str(out), "--dry-run", "--jobs", "1"]
    assert main(options) == 0
    shown = capsys.readouterr().out
    assert shown.count("unknown") == 5
    assert "4 cells, 0 done, 4 to run: unknown with 1 at a time" in shown
    assert not out.exists()
    for agent, env in (("ppo", "CartPole-v1"), ("td3", "Pendulum-v1")):
        known = Record("tiny", "paper", agent, "default", env, 7, "ok",
                       total_timesteps=1000, wall_seconds=100.0)  # fmt: skip
        records.append(out.parent / "paper" / RESULTS, known)
    assert main([*options, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["seconds"] for event in events] == [20.0] * 4
    assert {event["status"] for event in events} == {"missing"}
    assert main(options) == 0
    assert "4 to run: 80 s with 1 at a time" in capsys.readouterr().out


# ------------------------------------------------------------------------------- real cells


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Suite and output folder of one real run of both agents on two pretended GPUs."""
    folder = tmp_path_factory.mktemp("benchmark")
    suite, out = write_suite(folder / "tiny.yaml"), folder / "out"
    request = BenchmarkRequest(str(suite), out=out)
    summary = run(request, LocalExecutor(jobs=2, threads=1, gpus=("7", "8")), Watcher(folder))
    assert summary.exit_code == 0, summary
    return suite, out


class Watcher(Quiet):
    """Writes down the environment of each worker."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def started(self, cell: Cell, where: str) -> None:
        pid = int(re.findall(r"\d+", where)[0])
        environment = Path(f"/proc/{pid}/environ")
        if environment.exists():
            words = environment.read_bytes().decode().split("\0")
            facts = dict(word.split("=", 1) for word in words if "=" in word)
            write_json_atomic(self.folder / f"{cell.agent}.json", {**facts, "where": where})


def test_workers_share_neither_threads_nor_gpus(finished: tuple[Path, Path]) -> None:
    folder = finished[1].parent
    if not (folder / "ppo.json").exists():
        pytest.skip("needs /proc")
    facts = [json.loads((folder / f"{agent}.json").read_text()) for agent in ("ppo", "td3")]
    assert [fact["CUDA_VISIBLE_DEVICES"] for fact in facts] == ["7", "8"]
    assert {fact["OMP_NUM_THREADS"] for fact in facts} == {"1"}
    assert {fact["MKL_NUM_THREADS"] for fact in facts} == {"1"}
    assert [fact["where"].split(", ")[1] for fact in facts] == ["GPU 7", "GPU 8"]


def test_a_run_folder_is_an_ordinary_one_and_its_record_repeats_it(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    out = finished[1]
    assert counts(out) == {("ppo", 0): 1, ("td3", 0): 1}
    record = next(record for record in lines(out) if record["agent"] == "ppo")
    folder = out / record["run_dir"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [
        "seed_0", "seed_0.cell.json", "seed_0.log",
    ]  # fmt: skip
    assert (folder / "model.zip").is_file()
    assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
    assert "training ppo" in (out / "results/ppo/CartPole-v1/seed_0.log").read_text()

    arguments = shlex.split(record["command"])[1:]
    assert main([*arguments, "--run-dir", str(tmp_path / "run")]) == 0
    repeated = json.loads((tmp_path / "run" / "result.json").read_text())
    for name in ("curve", "total_timesteps", "agent", "env", "preset", "seed"):
        assert repeated[name] == record[name]
    assert repeated["final"] == record["final"]


def test_the_command_says_that_all_is_done(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = finished
    assert main(["benchmark", str(suite), "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"2 done, 0 failed. Records: {out / RESULTS}" in shown.out
    assert "2 cells: 2 done, 0 running" in shown.err


def test_json_has_one_object_per_event(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    suite, out = finished
    assert main(["benchmark", str(suite), "--out", str(out), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["begin", "end"]
    assert events[0]["done"] == 2


def test_a_job_goes_on_or_starts_again_and_never_mixes(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    suite, _ = finished
    plan = make_plan(BenchmarkRequest(str(suite), agents=["ppo"], out=tmp_path))
    job = plan.job(plan.cells[0])
    # Killed before the manifest: nothing was trained, so nothing is asked.
    job.run_dir.mkdir(parents=True)
    (job.run_dir / "config.yaml").write_text("half")
    assert execute.run_job(job, Silent())["total_timesteps"] >= 200
    # Once more: it has finished.
    before = (job.run_dir / "model.zip").stat().st_mtime_ns
    assert execute.run_job(job, Silent())["total_timesteps"] >= 200
    assert (job.run_dir / "model.zip").stat().st_mtime_ns == before
    # Another cell with the same folder.
    longer = replace(job, cell=replace(job.cell, steps=300))
    assert execute.run_job(longer, Silent())["total_timesteps"] >= 300
    old = job.run_dir.with_name("seed_0.old-1")
    assert json.loads((old / "result.json").read_text())["total_timesteps"] < 300
    # A run that has not finished, and cannot go on as what it was.
    (longer.run_dir / "result.json").unlink()
    settings = (longer.run_dir / "config.yaml").read_text()
    assert "n_steps: 32" in settings
    (longer.run_dir / "config.yaml").write_text(settings.replace("n_steps: 32", "n_steps: 16"))
    assert execute.run_job(longer, Silent())["total_timesteps"] >= 300
    assert job.run_dir.with_name("seed_0.old-2").is_dir()
    assert "n_steps: 32" in (longer.run_dir / "config.yaml").read_text()


def test_a_run_that_cannot_even_start_again_stays_where_it_is(tmp_path: Path) -> None:
    cell = replace(cell_of(env="CartPole-v1"), agent="no-such-agent")
    job = Job(cell, tmp_path / "run")
    job.run_dir.mkdir()
    for name in ("config.yaml", "manifest.json", "precious.txt"):
        (job.run_dir / name).write_text("x")
    with pytest.raises(RefusedError, match="no-such-agent"):
        execute.run_job(job, Silent())
    assert (job.run_dir / "precious.txt").read_text() == "x"
    assert not list(tmp_path.glob("*.old-*"))


def test_foreign_files_in_a_run_folder_are_never_removed(tmp_path: Path) -> None:
    job = Job(cell_of(env="CartPole-v1"), tmp_path / "run")
    job.run_dir.mkdir()
    (job.run_dir / "notes.txt").write_text("mine")
    with pytest.raises(RefusedError, match="not empty"):
        execute.run_job(job, Silent())
    assert (job.run_dir / "notes.txt").read_text() == "mine"


# ----------------------------------------------------------------------------- small parts


def test_a_job_survives_json() -> None:
    cell = replace(cell_of(env="A/b-v0"), dataset="x/y-v0", overrides=("a=[1, 2]", "b='q'"))
    job = Job(cell, Path("/some where/run"), "cuda", 3)
    assert Job.from_json(job.to_json()) == job
    words = shlex.split(job.command)
    assert words[:3] == ["rlzoo", "train", "ppo"]
    assert "--set=b='q'" in words
    assert words[words.index("--dataset") + 1] == "x/y-v0"


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"run_dir": "x", "cell": {}, "device": "cpu", "threads": 1}']
)
def test_what_is_no_job_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Job.from_json(text)
    (tmp_path / "job.json").write_text(text)
    assert execute.main([str(tmp_path / "job.json")]) == 2
    assert FAILED in capsys.readouterr().err


def test_a_worker_says_why_it_failed(tmp_path: Path) -> None:
    job = Job(cell_of(agent="ppo", env="NoSuchEnv-v0"), tmp_path / "deep" / "run")
    worker = Worker(job)
    while (outcome := worker.poll()) is None:
        worker._process.wait()
    assert outcome.status == "failed"
    assert "NoSuchEnv-v0" in str(outcome.error)
    assert str(outcome.error).endswith("(exit code 2)")
    assert FAILED.encode() in worker.output()


def test_a_worker_that_cannot_start_is_a_failed_cell(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job = Job(cell_of(), tmp_path / "file" / "run")
    events: list[Event] = []
    LocalExecutor(jobs=1).run([job], events.append, lambda: False)
    (event,) = events
    assert event.outcome is not None
    assert event.outcome.status == "failed"
    assert "not started" in str(event.outcome.error)


def test_processes_divide_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlzoo.benchmark.local.usable_cores", lambda: 8)
    found = {jobs: LocalExecutor(jobs).threads for jobs in (None, 1, 3, 8, 20)}
    assert found == {None: 1, 1: 8, 3: 2, 8: 1, 20: 1}
    assert LocalExecutor(gpus=("0", "1")).slots == 2
    for bad in ({"jobs": 0}, {"threads": 0}):
        with pytest.raises(RefusedError, match="out of range"):
            LocalExecutor(**bad)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "0,x"], "--seeds '0,x'"),
        (["--seeds", "-1"], "seed"),
        (["--agents", ","], "--agents"),
        (["--agents", "pop"], "Did you mean 'ppo'?"),
        (["--size", "smok"], "Did you mean 'smoke'?"),
        (["--address", "auto"], "--executor ray"),
        (["--executor", "ray", "--gpus", "0,1"], "GPUs per cell"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path / "tiny.yaml")
    assert main(["benchmark", str(suite), "--out", str(tmp_path / "out"), *options]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_that_is_not_installed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path / "tiny.yaml")
    assert main(["benchmark", str(suite), "--out", str(tmp_path / "o"), "--executor", "ray"]) == 2
    assert "rlzoo[ray]" in capsys.readouterr().err


def test_observers_say_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    cell = cell_of()
    failed = replace(record_of("ppo", "A-v0", 1, 1.0, "failed"), error="[red]why[/red]")
    for observer in (Quiet(), Bar(), JsonLines()):
        tracker = Tracker([cell], [], Estimator(), 1)
        observer.begin(tracker)
        tracker.started(cell)
        observer.started(cell, "here")
        tracker.ended(cell, failed)
        observer.ended(cell, failed)
        observer.finish()
        shown = capsys.readouterr()
        assert "[red]why[/red]" in shown.out + shown.err
    last = [json.loads(line) for line in shown.out.splitlines()]
    assert [event["event"] for event in last] == ["begin", "started", "ended", "end"]
    assert last[2]["record"]["error"] == "[red]why[/red]"
    assert last[2]["cell"]["overrides"] == list(asdict(cell)["overrides"])
    assert last[3]["failed"] == 1


def test_read_json_of_anything(tmp_path: Path) -> None:
    (tmp_path / "half.json").write_text('{"a": ')
    assert read_json(tmp_path / "half.json") is None
    assert read_json(tmp_path / "missing.json") is None
