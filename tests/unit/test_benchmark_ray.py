"""Ray: a real cluster of two nodes on this machine, one of which is killed in the middle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmark_testing import Driver, counts, has_checkpoint, write_suite

from rlzoo.benchmark.driver import BenchmarkRequest, make_plan, run
from rlzoo.benchmark.job import Event
from rlzoo.benchmark.progress import Quiet
from rlzoo.benchmark.suite import Cell
from rlzoo.errors import RefusedError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlzoo[ray]'")

from ray.cluster_utils import Cluster  # noqa: E402

from rlzoo.benchmark.ray_cluster import RayExecutor  # noqa: E402

STORE = 80 * 1024 * 1024
LONG = 1500


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one core each."""
    head = {
        "num_cpus": 1,
        "object_store_memory": STORE,
        "include_dashboard": False,
        # A lost node is noticed after seconds and not after half a minute.
        "_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="No Ray cluster answers"):
        RayExecutor(tmp_path, address)


class Watcher(Quiet):
    """Notes where cells start."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[int, str]] = []

    def started(self, cell: Cell, where: str) -> None:
        self.places.append((cell.seed, where))


def test_the_command_line_runs_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    suite, out = write_suite(tmp_path / "s.yaml"), tmp_path / "out"
    code, events, err = Driver(
        suite, "--out", out, "--executor", "ray", "--address", cluster.address, "--agents", "ppo"
    ).end()
    assert code == 0, err
    assert counts(out) == {("ppo", 0): 1}
    (started,) = (event for event in events if event["event"] == "started")
    assert started["where"].startswith("node ")
    assert not (out / "driver.token").exists()


def test_a_failing_cell_is_recorded_with_why_and_not_retried(cluster: Any, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "s.yaml", more="  dqn: {envs: [Pendulum-v1]}")
    out = tmp_path / "out"
    watcher, executor = Watcher(), RayExecutor(out)
    request = BenchmarkRequest(str(suite), agents=["dqn"], out=out)
    summary = run(request, executor, watcher)
    assert summary.exit_code == 1
    assert len(watcher.places) == 1
    assert "exit code 2" in str(summary.failed[0].error)


def test_output_of_a_node_that_does_not_share_the_folder_is_sent(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the token a task takes its folder for another one than the driver's.
    monkeypatch.setattr("rlzoo.benchmark.ray_cluster.write_json_atomic", lambda *_: None)
    suite = write_suite(tmp_path / "s.yaml")
    plan = make_plan(BenchmarkRequest(str(suite), agents=["ppo"], out=tmp_path / "out"))
    events: list[Event] = []
    RayExecutor(plan.out).run([plan.job(plan.cells[0])], events.append, lambda: False)
    assert [event.kind for event in events if event.kind != "output"] == ["started", "ended"]
    text = "".join(event.text for event in events if event.kind == "output")
    assert "training ppo: 200 environment steps" in text


def test_stopping_leaves_checkpoints_and_what_waits_does_not_start(
    cluster: Any, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "s.yaml", seeds=(0, 1, 2), td3_steps=100_000)
    plan = make_plan(BenchmarkRequest(str(suite), agents=["td3"], out=tmp_path / "out"))
    jobs = [plan.job(cell) for cell in plan.cells]
    events: list[Event] = []
    runs = [job.run_dir for job in jobs]

    def one_has_a_checkpoint() -> bool:
        return any(has_checkpoint(path) for path in runs)

    RayExecutor(plan.out).run(jobs, events.append, one_has_a_checkpoint)
    ended = [event for event in events if event.kind == "ended"]
    assert sorted(event.job.cell.seed for event in ended if event.job) == [0, 1, 2]
    assert {event.outcome.status for event in ended if event.outcome} == {"stopped"}
    # Ray decides which two of the three run.
    begun = [path for path in runs if has_checkpoint(path)]
    assert all('"stopped"' in (path / "manifest.json").read_text() for path in begun)
    assert sum(path.exists() for path in runs) <= 2


def test_a_killed_node_costs_no_cell_and_each_is_recorded_once(
    cluster: Any, tmp_path: Path
) -> None:
    suite = write_suite(tmp_path / "s.yaml", seeds=(0, 1), td3_steps=LONG)
    out, watcher = tmp_path / "out", Watcher()
    (node,) = cluster.worker_nodes

    def kill() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            seeds = [seed for seed, where in list(watcher.places) if node.node_id[:8] in where]
            runs = [out / "results" / "td3" / "Pendulum-v1" / f"seed_{seed}" for seed in seeds]
            if any(has_checkpoint(run) for run in runs):
                cluster.remove_node(node, allow_graceful=False)
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    request = BenchmarkRequest(str(suite), agents=["td3"], out=out)
    summary = run(request, RayExecutor(out), watcher)
    killer.join()
    assert not list(cluster.worker_nodes)
    assert summary.exit_code == 0
    assert counts(out) == {("td3", 0): 1, ("td3", 1): 1}
    seeds = [seed for seed, _ in watcher.places]
    again = [seed for seed in (0, 1) if seeds.count(seed) > 1]
    assert len(again) == 1, watcher.places
    log = (out / "results" / "td3" / "Pendulum-v1" / f"seed_{again[0]}.log").read_text()
    # Where Ray takes its time to end a process, it may have reached the end.
    assert "goes on from step" in log or "has already finished" in log, log
