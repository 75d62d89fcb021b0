"""Records: what is written is what is read, which line counts, results of other libraries."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rlzoo
from rlzoo.errors import RefusedError
from rlzoo.report.records import Record, append, from_result, import_records, latest, read, to_line

RESULTS = Path(rlzoo.__file__).parents[1] / "benchmarks" / "results"

FULL = Record(
    suite="mujoco",
    size="small",
    agent="bear",
    preset="cpu",
    env="ALE/Ünïcode v5",
    seed=3,
    status="ok",
    error="two\nlines \N{LINE SEPARATOR} and more",
    dataset="rlzoo/hopper/medium-v0",
    dataset_fingerprint="69cb",
    total_timesteps=20_000,
    final={"return_mean": 1275.5, "return_std": 88.25, "episodes": 10, "normalized": None},
    best={"return_mean": 1516.0, "return_std": 8.0, "episodes": 10, "normalized": 4.0, "step": 9},
    curve=((10, 1.5), (20, -2.25)),
    evaluation={"episodes": 100, "epsilon": 0.001},
    metrics={"gap": 0.1, "success_rate": 1.0},
    metric_curves={"gap": ((10, 0.5), (20, 0.1))},
    wall_seconds=10.125,
    steps_per_second=20.5,
    device="cpu",
    machine={"cores": 2, "processor": "x"},
    versions={"torch": "2.13.0"},
    commit="a3d5",
    command="rlzoo train 'a b'",
    run_dir="runs/ä b",
    source="rlzoo",
    date="2026-01-02T03:04:05+00:00",
)


def record(status: str = "ok", seed: int = 0, **changes: Any) -> Record:
    return Record("s", "smoke", "sac", "default", "Pendulum-v1", seed, status, **changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- lines


def test_every_field_comes_back(tmp_path: Path) -> None:
    defaults = {item.name: item.default for item in dataclasses.fields(Record)}
    unchanged = [name for name, value in defaults.items() if getattr(FULL, name) == value]
    assert unchanged == ["source"]  # otherwise this test would not see a lost field
    path = tmp_path / "not there yet" / "results.jsonl"
    append(path, FULL)
    append(path, record("failed", error="killed by signal 9", source="other"))
    found = read(path)
    assert found.problems == []
    assert found.records == [
        FULL,
        record("failed", error="killed by signal 9", source="other"),
    ]
    assert FULL.key == ("mujoco", "small", "bear", "cpu", "ALE/Ünïcode v5", 3)


def test_lines_are_standard_json_in_ascii(tmp_path: Path) -> None:
    line = to_line(FULL)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    content = json.loads(line, parse_constant=pytest.fail)
    assert (content["format"], content["version"]) == ("rlzoo-record", 1)
    assert content["curve"] == [[10, 1.5], [20, -2.25]]


def test_what_is_not_finite_is_null_in_the_file_and_missing_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    odd = record(
        final={"return_mean": math.nan, "return_std": math.inf, "episodes": 10},
        curve=((1, math.nan), (2, 3.0)),
        metrics={"gap": math.nan, "rate": 0.5},
        wall_seconds=-math.inf,
        machine={"memory": math.nan},
    )
    append(path, odd)
    json.loads(path.read_text(), parse_constant=pytest.fail)
    back = read(path).records[0]
    assert back.final == {"return_mean": None, "return_std": None, "episodes": 10}
    assert math.isnan(back.curve[0][1])
    assert back.curve[1] == (2, 3.0)
    assert back.metrics == {"rate": 0.5}
    assert back.wall_seconds is None


def test_numpy_numbers_become_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append(path, record(seed=np.int64(4), metrics={"gap": np.float32(0.5)}))  # type: ignore[arg-type]
    back = read(path).records[0]
    assert (back.seed, type(back.seed), back.metrics) == (4, int, {"gap": 0.5})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": "0"}, "seed must be a whole number|seed must be a number"),
        ({"seed": True}, "seed"),
        ({"seed": 1 << 63}, "seed"),
        ({"status": "done"}, "status"),
        ({"agent": ""}, "agent"),
        ({"env": "a\x1b[2J"}, "env must be a text of printable"),
        ({"curve": ((1, 2, 3),)}, "curve"),
        ({"final": {"return_mean": "5"}}, "final"),
        ({"machine": {"x": object()}}, "object"),
        ({"error": "x" * (1 << 24)}, "bytes"),
    ],
)
def test_what_nobody_could_read_is_refused_before_it_is_written(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = tmp_path / "results.jsonl"
    with pytest.raises(RefusedError, match=told):
        append(path, dataclasses.replace(FULL, **changes))
    assert not path.exists()


def test_several_files_are_read_in_their_order_and_absent_ones_are_empty(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    append(first, record(seed=1))
    append(second, record(seed=2))
    append(first, record(seed=3))
    found = read([second, str(first), tmp_path / "none.jsonl"])
    assert [item.seed for item in found.records] == [2, 1, 3]
    assert found.problems == []
    assert read(tmp_path / "none.jsonl").records == []
    assert len(read(tmp_path).problems) == 1  # a folder


def test_unknown_keys_do_not_matter_and_newer_versions_are_told(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    content = json.loads(to_line(FULL))
    lines = [{**content, "temperature": 1}, {**content, "version": 2}, {**content, "format": "x"}]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = read(path)
    assert found.records == [FULL]
    assert [problem.split(": ")[0] for problem in found.problems] == [f"{path}:2", f"{path}:3"]
    assert "version 2 is newer" in found.problems[0]


def test_a_thousand_records_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    curve = tuple((step, float(step)) for step in range(200))
    path.write_bytes(b"".join(to_line(record(seed=seed, curve=curve)) for seed in range(1000)))
    assert [found.seed for found in read(path).records] == list(range(1000))


# ------------------------------------------------------------------------------- which one counts


def test_the_last_line_counts_but_no_failure_replaces_a_result() -> None:
    ok_1, ok_2 = record(commit="1"), record(commit="2")
    bad_1, bad_2 = record("failed", error="1"), record("failed", error="2")
    for lines, chosen in [
        ([ok_1, ok_2], ok_2),
        ([bad_1, bad_2], bad_2),
        ([ok_1, bad_1], ok_1),
        ([bad_1, ok_1], ok_1),
        ([bad_1, ok_1, bad_2], ok_1),
        ([ok_1, bad_1, ok_2, bad_2], ok_2),
    ]:
        assert latest(lines) == {chosen.key: chosen}


def test_every_part_of_the_key_makes_another_cell() -> None:
    others = [
        dataclasses.replace(FULL, **{name: value})
        for name, value in {
            "suite": "x", "size": "x", "agent": "x", "preset": "x", "env": "x", "seed": 9,
        }.items()
    ]  # fmt: skip
    assert len(latest([FULL, *others])) == 7
    for order in itertools.islice(itertools.permutations([FULL, *others]), 0, 5000, 500):
        assert list(latest(order)) == sorted(item.key for item in order)


# ------------------------------------------------------------------------------- results of runs


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.name)
def test_results_of_real_runs_become_records(path: Path, tmp_path: Path) -> None:
    result = json.loads(path.read_text())
    made = from_result(result, "mujoco", "small", run_dir="runs/x", metrics={"gap": 1})
    for name in ("agent", "preset", "env", "seed", "final", "best", "commit", "command", "machine"):
        assert getattr(made, name) == result[name]
    assert [list(point) for point in made.curve] == result["curve"]
    assert (made.suite, made.size, made.status, made.source) == ("mujoco", "small", "ok", "rlzoo")
    assert (made.run_dir, made.metrics) == ("runs/x", {"gap": 1.0})
    assert made.date is not None
    assert made.date.endswith("+00:00")
    append(tmp_path / "results.jsonl", made)
    assert read(tmp_path / "results.jsonl").records == [made]


def test_results_that_cannot_be_recorded_are_refused() -> None:
    result = json.loads(next(RESULTS.rglob("*.json")).read_text())
    with pytest.raises(RefusedError, match="seed is missing"):
        from_result({**result, "seed": None}, "mujoco", "small")
    with pytest.raises(RefusedError, match="curve"):
        from_result({**result, "curve": 3}, "mujoco", "small")
    with pytest.raises(TypeError, match="no field 'metric'"):
        from_result(result, "mujoco", "small", metric={})
    # What a manifest says about its run is no part of the record.
    assert from_result({**result, "status": "finished"}, "mujoco", "small").status == "ok"
    assert from_result(result, "mujoco", "small", seed=np.int64(7)).seed == 7


# ------------------------------------------------------------------------------- other libraries


def table(folder: Path, text: str, name: str = "cleanrl.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_of_final_returns_is_imported(tmp_path: Path) -> None:
    text = "\ufeffagent, env ,seed,return_mean,return_std,metrics.gap,comment\n"
    text += 'sac,Hopper-v4,0,1e3,5.5,0.25,"a,b"\n\nsac,Hopper-v4,1.0, 900 ,,,\n'
    first, second = import_records(table(tmp_path, text), suite="mujoco", size="paper")
    assert first.key == ("mujoco", "paper", "sac (cleanrl)", "default", "Hopper-v4", 0)
    assert (first.source, first.status, first.curve) == ("cleanrl", "ok", ())
    assert first.final == {"return_mean": 1000.0, "return_std": 5.5}
    assert first.metrics == {"gap": 0.25}
    assert (second.seed, second.final, second.metrics) == (1, {"return_mean": 900}, {})
    append(tmp_path / "results.jsonl", first)
    assert read(tmp_path / "results.jsonl").records == [first]


def test_rows_with_steps_become_a_curve(tmp_path: Path) -> None:
    text = "agent,env,seed,return_mean,step,source\n"
    text += "sac,E,0,7,300,lib\nsac,E,0,9,200,lib\nsac,E,1,1,100,lib\nsac,E,0,2,100,lib\n"
    first, second = import_records(table(tmp_path, text))
    assert first.agent == "sac (lib)"
    assert first.curve == ((100, 2.0), (200, 9.0), (300, 7.0))
    assert first.final == {"return_mean": 7}
    assert first.best == {"return_mean": 9, "step": 200}
    assert first.total_timesteps == 300
    assert second.curve == ((100, 1.0),)
    assert second.seed == 1


def test_json_lines_are_imported_with_and_without_a_format(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    append(path, FULL)
    with open(path, "a") as file:
        file.write(
            '{"agent": "ppo", "env": "E", "seed": 0, "return_mean": 5, "source": "d3rlpy"}\n'
        )
        file.write('{"agent": "ppo", "env": "E", "seed": 1, "status": "failed", "error": "x"}\n')
    own, foreign, failed = import_records(path)
    assert own == FULL
    assert (foreign.agent, foreign.source, foreign.suite) == ("ppo (d3rlpy)", "d3rlpy", "imported")
    assert foreign.final == {"return_mean": 5}
    assert (failed.agent, failed.status, failed.error) == ("ppo (other)", "failed", "x")


HEADER = "agent,env,seed,return_mean,step\n"


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "no column agent, only none"),
        ("agent,env,sede,return_mean\n", 1, "no column seed, only agent, env, sede"),
        ("agent;env;seed;return_mean\n", 1, "no column agent"),
        ("agent,env,seed,return_mean,seed\n", 1, "a column is there twice"),
        (HEADER + "a,E,0,1,1\na,E,0,1,1\n", 3, "there already"),
        (HEADER + "a,E,0,1,\na,E,0,1,1\n", 3, "there already"),
        (HEADER + "a,E,0,1,1\na,E,x,1,2\n", 3, "seed 'x' is not a number"),
        (HEADER + "a,E,0.5,1,1\n", 2, "seed must be a whole number"),
        (HEADER + "a,E,0,1,0.5\n", 2, "must be a whole number"),
        (HEADER + "a,E,0,,1\n", 2, "return_mean is missing"),
        (HEADER + "a,E,0,nan,1\n", 2, "return_mean is missing or not finite"),
        (HEADER + ",E,0,1,1\n", 2, "agent is missing"),
        (HEADER + "a,E,0,1,5,1\n", 2, "more cells than columns"),
        (HEADER + 'a,E,0,"1,1\n', 1, "unexpected end of data"),
    ],
)
def test_a_csv_is_imported_whole_or_refused_with_its_line(
    tmp_path: Path, text: str, line: int, told: str
) -> None:
    path = table(tmp_path, text)
    with pytest.raises(RefusedError) as caught:
        import_records(path)
    message = str(caught.value).splitlines()
    assert message[0].startswith(f"{path}:{line}: ")
    assert told in message[0]
    assert len(message) <= 3


@pytest.mark.parametrize("content", [b"\x80abc", b"[1]\n", b"{}\n", b'{"agent": "a"', b"\x00" * 9])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_other_files_are_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=rf"{name}:1: "):
        import_records(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(RefusedError, match="cannot be read"):
            import_records(path)


@pytest.mark.parametrize("env", ["ALE/Pong-v5", "PongNoFrameskip-v4", "ale_py:ALE/Pong-v5"])
def test_ids_of_one_environment_are_one_cell(tmp_path: Path, env: str) -> None:
    ours = dataclasses.replace(record(), env=env)
    assert (ours.env, ours.key[4]) == ("ALE/Pong-v5", "ALE/Pong-v5")
    append(tmp_path / "r.jsonl", ours)
    assert read(tmp_path / "r.jsonl").records == [ours]
    assert len(latest([ours, dataclasses.replace(record(), env="ALE/Pong-v5")])) == 1
