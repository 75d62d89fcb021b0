"""The leaderboard as a table: what counts, what is missing, and the texts made of it."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from leaderboard_samples import CHEETAH, HOPPER, record, two_agents

from rlzoo.errors import RefusedError
from rlzoo.report.leaderboard import build, find_results
from rlzoo.report.leaderboard_plots import ALL, bands, draw, value_name
from rlzoo.report.leaderboard_table import Cell, SuiteFacts, Table, tabulate
from rlzoo.report.leaderboard_text import overview, to_csv, to_dict, to_json_text, to_markdown
from rlzoo.report.records import Record
from rlzoo.report.reference import published

NORMALIZED = {"mujoco": SuiteFacts("Batch RL", "normalized", target=100.0)}


def table_of(records: list[Record], facts: dict[str, SuiteFacts] = NORMALIZED) -> Table:
    (table,) = tabulate(records, facts)
    return table


def cell_of(table: Table, name: str, env: str) -> Cell:
    row = next(row for row in table.rows if row.name == name)
    return next(cell for cell in row.cells if cell.env == env)


def test_means_deviations_and_order() -> None:
    table = table_of(two_agents())
    assert table.names == ["bear", "td3"]
    cell = cell_of(table, "bear", HOPPER)
    assert cell.estimate is not None
    assert cell.estimate.value == pytest.approx(41.0)
    assert cell.sd == pytest.approx(1.0)
    assert cell.n == 3
    bear = table.rows[0].statistics
    assert bear["mean"].value == pytest.approx(41.0)
    assert bear["IQM"].n == 6
    assert bear["optimality gap"].value == pytest.approx(59.0)


def test_order_of_records_does_not_matter() -> None:
    records = two_agents()
    shuffled = random.Random(0).sample(records, len(records))
    assert to_json_text(tabulate(shuffled, NORMALIZED)) == to_json_text(
        tabulate(records, NORMALIZED)
    )


def test_a_later_result_replaces_a_failure_but_not_the_other_way_round() -> None:
    ok, failed = record("bear", HOPPER, 0, 500.0), record("bear", HOPPER, 0, None)
    for records in ([failed, ok], [ok, failed]):
        cell = cell_of(table_of(records), "bear", HOPPER)
        assert (cell.scores, cell.failed) == ({0: 50.0}, {})


def test_one_run_has_no_interval_and_says_so() -> None:
    table = table_of([record("bear", HOPPER, 0, 500.0)])
    cell = cell_of(table, "bear", HOPPER)
    assert cell.estimate is not None
    assert cell.estimate.low is None
    assert cell.sd is None
    columns, rows = overview(table)
    assert rows[0][columns.index(HOPPER)] == "50.0 (n=1)"
    assert rows[0][columns.index("IQM [95 %]")] == "50.0"
    assert "n=1" in " ".join(table.notes)


def test_equal_scores_have_an_interval_of_no_width() -> None:
    records = [record(a, HOPPER, seed, 500.0) for a in ("bear", "td3") for seed in range(3)]
    table = table_of(records)
    for row in table.rows:
        assert row.statistics["IQM"].low == row.statistics["IQM"].high == pytest.approx(50.0)
    columns, rows = overview(table)
    assert rows[0][columns.index(HOPPER)] == "50.0 +- 0.0 (n=3)"
    with np.errstate(all="raise"):
        assert draw(table, bands(table))["profile"].startswith(b"\x89PNG")


def test_failed_cells_are_shown_with_their_reason() -> None:
    table = table_of(two_agents())
    columns, rows = overview(table)
    assert rows[1][columns.index(CHEETAH)] == "20.5 +- 0.7 (n=2, 1 failed)"
    assert "td3, HalfCheetah-v4, seed 2 failed: worker died: signal 9" in table.notes


def test_a_cell_in_which_all_runs_failed_has_no_number() -> None:
    records = [record("bear", HOPPER, 0), record("bear", CHEETAH, 0, None)]
    table = table_of(records)
    columns, rows = overview(table)
    assert rows[0][columns.index(CHEETAH)] == "failed"
    assert "bear: numbers over 1 of 2 environments only." in table.notes


def test_agents_with_fewer_environments_come_last_and_say_so() -> None:
    runs = [record("a", HOPPER, 0, 900.0), record("b", HOPPER, 0), record("b", CHEETAH, 0, 1.0)]
    table = table_of(runs)
    assert table.names == ["b", "a"]
    columns, rows = overview(table)
    assert [row[columns.index("envs")] for row in rows] == ["2 of 2", "1 of 2"]


def test_only_failures_still_make_a_leaderboard(tmp_path: Path) -> None:
    built = build([record("bear", HOPPER, 0, None)], tmp_path, NORMALIZED)
    assert "failed" in (tmp_path / "leaderboard.md").read_text()
    assert built.tables[0].rows[0].statistics == {}


def test_planned_cells_without_a_record_are_missing() -> None:
    planned = tuple(
        ("mujoco", "smoke", agent, "cpu", env, seed)
        for agent in ("bear", "bcq")
        for env in (CHEETAH, HOPPER)
        for seed in range(3)
    )
    records = [record("bear", HOPPER, 0), record("bear", HOPPER, 1), record("td3", CHEETAH, 0)]
    facts = {"mujoco": SuiteFacts("", "normalized", planned)}
    table = table_of(records, facts)
    assert table.envs == (CHEETAH, HOPPER)  # in the order of the suite
    columns, rows = overview(table)
    texts = {row[0]: row for row in rows}
    assert texts["bear"][columns.index(HOPPER)] == "100.0 +- 0.0 (n=2, 1 missing)"
    assert texts["bear"][columns.index(CHEETAH)] == "missing"
    assert "bear, Hopper-v4: no score of seed 2 yet." in table.notes
    assert "In the suite, not run yet: bcq (cpu)." in table.notes


def test_a_run_without_the_compared_number_is_missing_not_zero() -> None:
    facts = {"goals": SuiteFacts("", "metrics.success_rate")}
    runs = [
        record("sac", "Reach-v1", 0, suite="goals", metrics={"success_rate": 0.5}),
        record("sac", "Reach-v1", 1, suite="goals"),
    ]
    cell = cell_of(table_of(runs, facts), "sac", "Reach-v1")
    assert cell.scores == {0: 0.5}
    assert cell.missing == (1,)


def test_returns_of_several_environments_are_not_averaged() -> None:
    table = table_of(two_agents(), {})
    assert all(row.statistics == {} for row in table.rows)
    assert "no common scale" in table.notes[0]
    one = table_of([r for r in two_agents() if r.env == HOPPER], {})
    assert one.rows[0].statistics["mean"].value == pytest.approx(410.0)


def test_presets_and_sources_are_rows_of_their_own() -> None:
    records = [
        record("bear", HOPPER, 0, 300.0),
        record("bear", HOPPER, 0, 200.0, preset="d4rl"),
        record("bear", HOPPER, 0, 100.0, source="d3rlpy", preset="default"),
    ]
    table = table_of(records)
    assert table.names == ["bear (cpu)", "bear (d4rl)", "bear [d3rlpy]"]
    assert [row.source for row in table.rows] == ["rlzoo", "rlzoo", "d3rlpy"]
    assert [row.n_envs for row in table.rows] == [1, 1, 1]


def test_sizes_and_suites_are_tables_of_their_own() -> None:
    records = [record("bear", HOPPER, 0, size=size) for size in ("small", "smoke")]
    records.append(record("sac", "Pendulum-v1", 0, suite="control"))
    found = [(table.suite, table.size) for table in tabulate(records, NORMALIZED)]
    assert found == [("control", "smoke"), ("mujoco", "small"), ("mujoco", "smoke")]


def test_published_numbers_stand_beside_with_a_verdict() -> None:
    dataset = "rlzoo/hopper/medium-v0"
    reference = published("mujoco", "bear", HOPPER, "normalized", dataset)
    assert reference is not None
    low, high = reference.interval
    for value, word in ((low - 5, "below"), (reference.value, "inside"), (high + 5, "above")):
        records = [
            record("bear", HOPPER, seed, 10 * value, dataset=dataset, total_timesteps=500_000)
            for seed in range(2)
        ]
        table = table_of(records)
        cell = cell_of(table, "bear", HOPPER)
        assert cell.reference is not None
        assert (cell.verdict, cell.reference.agent) == (word, "bear")
        text = to_markdown([table])
        assert f"1 {word}" in text
        assert cell.reference.source in text.replace("\\|", "|")


def test_an_agent_that_nobody_published_has_no_verdict() -> None:
    table = table_of([record("nobody", HOPPER, 0)])
    assert cell_of(table, "nobody", HOPPER).verdict == "no reference"
    assert "no reference" in to_markdown([table])


def test_many_environments_become_rows() -> None:
    envs = [f"Game{n}-v5" for n in range(9)]
    table = table_of([record("dqn", env, 0, suite="atari") for env in envs], {})
    assert not set(envs) & set(overview(table)[0])
    assert re.search(r"^\| Game8-v5 \| 1,000.0 \(n=1\) \|$", to_markdown([table]), re.M)


def test_csv_has_every_cell_and_json_every_score() -> None:
    tables = tabulate(two_agents(), NORMALIZED)
    rows = list(csv.DictReader(io.StringIO(to_csv(tables))))
    cells = {(row["agent"], row["env"]): row for row in rows if row["env"]}
    assert len(cells) == 4
    failing = cells["td3", CHEETAH]
    assert (failing["n"], failing["failed"], failing["errors"]) == (
        "2",
        "1",
        "worker died: signal 9",
    )
    assert float(cells["bear", HOPPER]["value"]) == pytest.approx(41.0)
    assert {row["statistic"] for row in rows if not row["env"]} >= {"IQM", "mean", "median"}
    content = json.loads(to_json_text(tables))
    assert content == json.loads(json.dumps(to_dict(tables), allow_nan=False, default=float))
    assert content["tables"][0]["agents"][0]["cells"][0]["scores"].keys() == {"0", "1", "2"}


def test_curves_have_bands_over_the_steps_that_all_runs_have() -> None:
    records = [
        replace(record("bear", env, seed, 100.0 * (seed + 1)), curve=((0, 0.0), (100 + seed, 1.0)))
        for env in (HOPPER, CHEETAH)
        for seed in range(3)
    ]
    found = bands(table_of(records))
    assert set(found) == {HOPPER, CHEETAH, ALL}
    line = found[HOPPER]["bear"]
    assert line.x[-1] == 100
    assert line.low is not None
    assert line.high is not None
    assert all(lo <= v <= hi for lo, v, hi in zip(line.low, line.value, line.high, strict=True))


def test_curves_of_a_suite_whose_score_is_a_metric_show_the_metric() -> None:
    facts = {"mujoco": SuiteFacts("", "metrics.reached")}
    runs = [
        record(
            "bear", HOPPER, seed, metrics={"reached": 0.5},
            metric_curves={"reached": ((100, 0.25 * seed), (200, 0.5)), "other": ((100, 9.0),)},
        )
        for seed in range(3)
    ]  # fmt: skip
    table = table_of(runs, facts)
    (line,) = bands(table)[HOPPER].values()
    assert (line.x, line.value) == ([100, 200], [0.25, 0.5])
    assert value_name(table) == "reached"
    without = [replace(run, metric_curves={}) for run in runs]
    table = table_of(without, facts)
    (line,) = bands(table)[HOPPER].values()
    assert line.x == [100, 200, 300]
    assert value_name(table) == "undiscounted return"


def test_figures_are_drawn_for_what_there_is() -> None:
    table = table_of(two_agents())
    drawn = draw(table, bands(table))
    assert {"intervals", "environments", "profile", "improvement", f"curves/{HOPPER}"} <= set(drawn)
    assert all(png.startswith(b"\x89PNG") for png in drawn.values())
    alone = table_of([record("bear", HOPPER, 0)])
    assert "improvement" not in draw(alone, bands(alone))


def test_names_that_markdown_and_files_do_not_like(tmp_path: Path) -> None:
    env = "../../evil|<script>é env"
    build([record("a b/c", env, 0, suite="own", size="x/y")], tmp_path / "b", {})
    everything = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")]
    assert all(re.fullmatch(r"[A-Za-z0-9._=/-]+", name) for name in everything)
    assert "evil\\|" in (tmp_path / "b/leaderboard.md").read_text()


def test_results_are_found_below_a_folder_but_not_in_runs(tmp_path: Path) -> None:
    for place in ("mujoco/smoke", "control/small", "mujoco/smoke/results/bear"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "results.jsonl").touch()
    found = [path.parent.relative_to(tmp_path).as_posix() for path in find_results(tmp_path)]
    assert found == ["control/small", "mujoco/smoke"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError, match="no benchmark results"):
        find_results(tmp_path / "empty")
    with pytest.raises(RefusedError, match="not a folder"):
        find_results(tmp_path / "nowhere")
