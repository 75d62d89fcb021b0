"""The TensorBoard folder, read back with TensorBoard's own readers and plugins."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from leaderboard_samples import CHEETAH, HOPPER, record, two_agents
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
)

from rlzoo.cli.main import main
from rlzoo.errors import RefusedError
from rlzoo.report.leaderboard import build
from rlzoo.report.leaderboard_table import SuiteFacts
from rlzoo.report.records import Record, append
from rlzoo.report.tensorboard_server import TensorBoard, free_port, is_local
from rlzoo.report.tensorboard_view import safe_part

FACTS = {"mujoco": SuiteFacts("Batch RL", "normalized", target=100.0)}
ALL_STATUSES = [
    api_pb2.STATUS_UNKNOWN,
    api_pb2.STATUS_SUCCESS,
    api_pb2.STATUS_FAILURE,
    api_pb2.STATUS_RUNNING,
]


def read(view: Path) -> EventMultiplexer:
    reader = EventMultiplexer(tensor_size_guidance={"scalars": 0}).AddRunsFromDirectory(str(view))
    reader.Reload()
    return reader


def scalars(reader: EventMultiplexer, run: str, tag: str) -> dict[int, float]:
    return {e.step: e.tensor_proto.float_val[0] for e in reader.Tensors(run, tag)}


def tags_of(view: Path) -> dict[str, list[str]]:
    reader = read(view)
    return {run: sorted(reader.GetAccumulator(run).Tags()["tensors"]) for run in reader.Runs()}


def hparams_page(view: Path) -> tuple[Any, list[Any]]:
    """Experiment and sessions as the HPARAMS page gets them."""
    provider = MultiplexerDataProvider(read(view), str(view))
    context = backend_context.Context(TBContext(data_provider=provider))
    request = RequestContext()
    wanted = api_pb2.GetExperimentRequest()
    experiment = get_experiment.Handler(request, context, "", wanted).run()
    columns = [api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos]
    query = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=ALL_STATUSES, col_params=columns, slice_size=1000
    )
    groups = list_session_groups.Handler(request, context, "", query).run()
    return experiment, list(groups.session_groups)


def test_hparams_show_the_union_of_all_columns_and_one_session_per_run(tmp_path: Path) -> None:
    records = [
        *two_agents(),
        record("sac", "Pendulum-v1", 0, metrics={"gap": 1.5}, commit="abc", dataset="d"),
    ]
    view = build(records, tmp_path, FACTS).view
    experiment, sessions = hparams_page(view)
    assert {info.name for info in experiment.hparam_infos} == {
        *("agent", "env", "seed", "status", "suite", "size", "preset", "source", "device"),
        *("steps", "commit", "dataset"),
    }
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert set(metrics) == {
        *("final/return", "final/normalised", "final/gap", "best/return"),
        *("paper/value", "paper/verdict", "speed/steps_per_second", "speed/wall_seconds"),
    }
    assert len(sessions) == len(records)
    by_name = {group.name: group for group in sessions}
    session = by_name["bear/Hopper-v4/seed_1"]
    assert session.hparams["agent"].string_value == "bear"
    assert session.hparams["seed"].number_value == 1
    values = {value.name.tag: value.value for value in session.metric_values}
    assert values["final/return"] == pytest.approx(410.0)
    assert values["final/normalised"] == pytest.approx(41.0)
    gap = {v.name.tag: v.value for v in by_name["sac/Pendulum-v1/seed_0"].metric_values}
    assert gap["final/gap"] == pytest.approx(1.5)
    failed = by_name["td3/HalfCheetah-v4/seed_2"]
    assert failed.sessions[0].status == api_pb2.STATUS_FAILURE
    assert session.sessions[0].status == api_pb2.STATUS_SUCCESS


def test_published_numbers_are_columns_and_lines(tmp_path: Path) -> None:
    records = [record("bear", HOPPER, seed, dataset="rlzoo/hopper/medium-v0") for seed in range(2)]
    view = build(records, tmp_path, FACTS).view
    experiment, sessions = hparams_page(view)
    assert {"paper/value", "paper/verdict"} <= {m.name.tag for m in experiment.metric_infos}
    values = {value.name.tag: value.value for value in sessions[0].metric_values}
    line = scalars(read(view), "_leaderboard/bear-published", "Hopper-v4/iqm")
    assert set(line) == {100, 300}
    assert list(line.values()) == pytest.approx([values["paper/value"]] * 2)


def test_bands_are_runs_and_the_layout_names_their_tags(tmp_path: Path) -> None:
    view = build(two_agents(), tmp_path, FACTS).view
    reader = read(view)
    layout = layout_pb2.Layout.FromString(
        reader.Tensors("_leaderboard", "custom_scalars__config__")[0].tensor_proto.string_val[0]
    )
    (category,) = layout.category
    charts = {chart.title: chart.margin.series[0] for chart in category.chart}
    assert set(charts) == {HOPPER, CHEETAH, "all environments"}
    series = charts[HOPPER]
    for agent, middle in (("bear", 410.0), ("td3", 210.0)):
        found = scalars(reader, f"_leaderboard/{agent}", series.value)
        low = scalars(reader, f"_leaderboard/{agent}", series.lower)
        high = scalars(reader, f"_leaderboard/{agent}", series.upper)
        assert sorted(found) == [100, 200, 300]
        assert all(low[step] <= found[step] <= high[step] for step in found)
        assert low[300] < found[300] < high[300]
        curve = scalars(reader, f"{agent}/{HOPPER}/seed_1", "curve/normalised score")
        assert curve.keys() == found.keys()
        assert found[300] == pytest.approx(curve[300])  # the middle one of three
        assert middle > 0


def test_one_run_has_a_curve_without_width(tmp_path: Path) -> None:
    reader = read(build([record("bear", HOPPER, 0)], tmp_path, FACTS).view)
    tags = [f"{HOPPER}/{part}" for part in ("iqm", "low", "high")]
    middle, low, high = (scalars(reader, "_leaderboard/bear", tag) for tag in tags)
    assert middle == low == high


def test_text_and_figures_are_in_one_run(tmp_path: Path) -> None:
    reader = read(build(two_agents(), tmp_path, FACTS).view)
    text = reader.Tensors("_leaderboard", "leaderboard/text_summary")[0].tensor_proto
    assert "| bear | rlzoo |" in text.string_val[0].decode()
    assert "worker died: signal 9" in text.string_val[0].decode()
    images = [
        tag
        for tag, facts in reader.AllSummaryMetadata()["_leaderboard"].items()
        if facts.plugin_data.plugin_name == "images"
    ]
    assert {"intervals", "profile", "improvement", f"curves/{HOPPER}"} <= set(images)
    width, height, png = reader.Tensors("_leaderboard", "profile")[0].tensor_proto.string_val
    assert (int(width), int(height), png[:4]) == (770, 462, b"\x89PNG")


def test_building_twice_gives_the_same_and_removes_what_is_gone(tmp_path: Path) -> None:
    view = build(two_agents(), tmp_path, FACTS).view
    before = tags_of(view)
    names = {path.name for path in view.rglob("events*")}
    build(two_agents(), tmp_path, FACTS)
    assert tags_of(view) == before
    assert len(hparams_page(view)[1]) == len(two_agents())
    # A TensorBoard that runs only sees files with newer names.
    assert min(path.name for path in view.rglob("events*")) > max(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["tb", "figures", "leaderboard.md", "leaderboard.csv", "leaderboard.json"]
    )
    build([r for r in two_agents() if r.agent == "bear"], tmp_path, FACTS)
    assert not any(run.startswith("td3") for run in tags_of(view))


def test_several_benchmarks_in_one_folder_keep_their_names_apart(tmp_path: Path) -> None:
    records = [record("bear", HOPPER, 0, size=size) for size in ("smoke", "small")]
    view = build(records, tmp_path, FACTS).view
    assert {group.name for group in hparams_page(view)[1]} == {
        "mujoco-smoke/bear/Hopper-v4/seed_0",
        "mujoco-small/bear/Hopper-v4/seed_0",
    }
    assert "mujoco-small/leaderboard/text_summary" in tags_of(view)["_leaderboard"]


def test_names_that_become_equal_stay_two_sessions(tmp_path: Path) -> None:
    records = [record("bear", env, 0, suite="own") for env in ("My Env", "My/Env", "../Env")]
    view = build(records, tmp_path, {}).view
    names = {group.name for group in hparams_page(view)[1]}
    assert names == {f"bear/{env}/seed_0" for env in ("My-Env", "My-Env=2", "Env")}


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("Hopper-v4", "Hopper-v4"),
        ("a b/ü", "a-b"),
        ("..", "unnamed"),
        (".hid", "hid"),
        ("", "unnamed"),
    ],
)
def test_names_of_runs(name: str, safe: str) -> None:
    assert safe_part(name) == safe


@pytest.mark.parametrize("name", ["tb", "figures"])
def test_a_folder_of_somebody_else_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("precious")
    with pytest.raises(RefusedError, match="not made by rlzoo"):
        build(two_agents(), tmp_path, FACTS)
    assert (tmp_path / name / "mine.txt").read_text() == "precious"


def test_what_a_killed_build_left_is_cleaned_up(tmp_path: Path) -> None:
    view = build(two_agents(), tmp_path, FACTS).view
    view.rename(tmp_path / "tb.old-999999999")  # killed between the two renames
    (tmp_path / "tb.tmp-999999999-0").mkdir()
    build(two_agents(), tmp_path, FACTS)
    assert not [path for path in tmp_path.iterdir() if "999999999" in path.name]
    assert (view / "GENERATED.txt").exists()


# ------------------------------------------------------------------------------- serving


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_which_addresses_are_local(host: str, local: bool) -> None:
    assert is_local(host) is local


def write(folder: Path, records: list[Record]) -> None:
    for item in records:
        append(folder / "results.jsonl", item)


def test_a_taken_port_is_refused_before_anything_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, two_agents())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code = main(["leaderboard", "serve", str(tmp_path), "--port", str(port)])
    assert code == 2
    assert f"Port {port} of localhost is taken" in capsys.readouterr().err
    assert not (tmp_path / "tb").exists()


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"Cannot listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", 0)


def listening_addresses(port: int) -> set[str]:
    """Addresses in hexadecimal on which this machine listens to a port (Linux)."""
    rows = [
        line.split()[1:4]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {
        local.split(":")[0]
        for local, _, state in rows
        if state == "0A" and int(local.split(":")[1], 16) == port
    }


def wait_for(what: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError("waited in vain")


def test_serve_shows_the_folder_follows_a_rebuild_and_ends_with_its_tensorboard(
    tmp_path: Path,
) -> None:
    write(tmp_path, [record("bear", HOPPER, 0)])
    port = free_port("localhost", 0)
    command = [sys.executable, "-m", "rlzoo.cli.main", "leaderboard", "serve", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert f"http://localhost:{port}/" in process.stdout.readline()
        assert wait_for(lambda: sessions_of(port)) == {"bear/Hopper-v4/seed_0"}
        write(tmp_path, [record("td3", HOPPER, 0, metrics={"gap": 1.0})])
        assert main(["leaderboard", "build", str(tmp_path)]) == 0
        wait_for(lambda: "final/gap" in metrics_of(port))
        assert sessions_of(port) == {"bear/Hopper-v4/seed_0", "td3/Hopper-v4/seed_0"}
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert process.returncode == 143
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))  # nobody was left behind


def test_only_this_machine_is_served_by_default(tmp_path: Path) -> None:
    view = build([record("bear", HOPPER, 0)], tmp_path, FACTS).view
    with TensorBoard(view, port=0) as server:
        assert server.url == f"http://localhost:{server.port}/"
        if os.path.exists("/proc/net/tcp"):
            loopback = {"0100007F", "00000000000000000000000001000000"}
            assert listening_addresses(server.port) <= loopback


def ask(port: int, path: str, body: str) -> Any:
    import json

    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    try:
        connection.request(
            "POST", f"/data/plugin/hparams/{path}", body, {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return json.load(answer) if answer.status == 200 else {}
    except OSError:  # starts again
        return {}
    finally:
        connection.close()


def metrics_of(port: int) -> set[str]:
    found = ask(port, "experiment", '{"experimentName": ""}')
    return {info["name"]["tag"] for info in found.get("metricInfos", [])}


def sessions_of(port: int) -> set[str]:
    query = (
        '{"experimentName": "", "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS"],'
        ' "startIndex": 0, "sliceSize": 100}'
    )
    groups = ask(port, "session_groups", query).get("sessionGroups", [])
    return {group["name"] for group in groups}


# ------------------------------------------------------------------------------- commands


def test_build_and_show_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, two_agents())
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write('{"format": "rlzoo-rec')  # half a line
    assert main(["leaderboard", "build", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "Built from 12 results" in captured.out
    assert "results.jsonl:13" in captured.err
    assert main(["leaderboard", "show", str(tmp_path)]) == 0
    assert "worker died" in capsys.readouterr().out
    for option, start in (("--csv", "suite,size"), ("--json", "{"), ("--markdown", "## ")):
        assert main(["leaderboard", "show", str(tmp_path), option]) == 0
        assert capsys.readouterr().out.startswith(start)
    assert main(["leaderboard", "show", str(tmp_path), "--csv", "--json"]) == 2


def test_records_of_another_library_stand_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, two_agents())
    other = tmp_path / "other.jsonl"
    append(other, record("cql", HOPPER, 0, 900.0, source="d3rlpy"))
    scores = tmp_path / "other.csv"
    scores.write_text("agent,env,seed,return_mean\ntd3plusbc,Hopper-v4,0,1500\n")
    options = ["--import", str(other), "--import", str(scores)]
    assert main(["leaderboard", "show", str(tmp_path), *options]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"cql.*d3rlpy.* 90\.0 \(n=1\)", shown)
    assert re.search(r"td3plusbc.*other.* 46\.7 \(n=1\)", shown)  # normalised here


def test_a_folder_without_results_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", "build", str(tmp_path)]) == 2
    assert "rlzoo benchmark" in capsys.readouterr().err
