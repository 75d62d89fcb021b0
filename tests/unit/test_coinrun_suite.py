"""Suites with variants, labels and measured policies: CoinRun, MultiRoom, and their tables.

Environments need the extras: those tests say so where they are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlzoo.agents.registry import get_agent
from rlzoo.benchmark import Cell, cells, load_suite
from rlzoo.benchmark.execute import run_job
from rlzoo.benchmark.job import Job, cell_of, facts_of
from rlzoo.cli.suites import suite_facts
from rlzoo.config import config_files, resolve
from rlzoo.core.tasks.ids import base_id, canonical, family, number_of, procgen_task
from rlzoo.core.tasks.scores import normalized_score, scale_of
from rlzoo.envs import make_vec
from rlzoo.errors import RefusedError
from rlzoo.report.leaderboard_details import beside_the_score, every_run, over_axis
from rlzoo.report.leaderboard_plots import draw
from rlzoo.report.leaderboard_table import Table, tabulate
from rlzoo.report.leaderboard_text import to_dict, to_markdown
from rlzoo.report.records import Record, from_result
from rlzoo.runs.progress import Silent
from rlzoo.runs.train import TrainRequest, train

VARIANTS = ("ppo", "ppo-l2", "dropout", "dropout-sni", "ib", "ib-sni")
ROOMS = ("rlzoo/MultiRoom-N1-v0", "rlzoo/MultiRoom-N2-v0", "rlzoo/MultiRoom-N3r-v0")


def needs_coinrun() -> None:
    pytest.importorskip("envpool", reason='needs pip install "rlzoo[coinrun]"')
    try:
        make_vec("CoinRun").close()
    except RefusedError as refused:
        pytest.skip(str(refused))


def needs_multiroom() -> None:
    pytest.importorskip("minigrid", reason='needs pip install "rlzoo[minigrid]"')


def cells_of(suite: str, size: str, **only: Any) -> list[Cell]:
    return cells(load_suite(suite), size, **only)


# --- ids and configuration -----------------------------------------------------------------------


def test_ids_families_and_labels() -> None:
    ids = ("CoinRun", "procgen/maze-hard-v0", ROOMS[0], "CartPole-v1")
    assert [family(env) for env in ids] == ["procgen", "procgen", "multiroom", None]
    assert family("procgen/maze-exploration-v0") is None  # one level for training and test
    assert procgen_task("procgen/maze-hard-v0") == "MazeHard-v0"
    assert (base_id("CoinRun@50"), number_of("CoinRun@50")) == ("CoinRun", 50.0)
    assert (base_id("CoinRun"), number_of("CoinRun"), number_of("X@many")) == (
        "CoinRun",
        None,
        None,
    )
    assert canonical("PongNoFrameskip-v4@2") == "ALE/Pong-v5@2"


def test_returns_of_procgen_are_normalised_under_all_names() -> None:
    for env in ("CoinRun", "CoinRun@50", "CoinrunEasy-v0", "procgen/coinrun-hard-v0"):
        assert normalized_score(env, 7.5) == 0.5
    assert normalized_score("procgen/maze-hard-v0", 7.0) == 0.5
    assert normalized_score("procgen/maze-easy-v0", 7.5) == 0.5
    assert scale_of("procgen/maze-memory-v0") is None


@pytest.mark.parametrize("agent", ["ibac-sni", "ppo"])
@pytest.mark.parametrize("env_id", ["CoinRun", "procgen/maze-easy-v0"])
def test_games_are_evaluated_on_unseen_levels_with_drawn_actions(agent: str, env_id: str) -> None:
    assert f"configs/{agent}/procgen.yaml" in [f.name for f in config_files(agent, env_id)]
    run = resolve(get_agent(agent), env_id, device_type="cuda").run_settings()
    assert (run.eval_deterministic, run.eval_envs, run.env_kwargs) == (False, 64, {})
    assert (run.final_eval_episodes or 0) >= 1000
    assert run.eval_splits == {
        "train": {"env_kwargs": {"split": "train"}},
        "greedy": {"deterministic": True, "final_only": True},
    }
    assert resolve(get_agent(agent), "CartPole-v1").run_settings().eval_splits == {}


def test_multiroom_is_evaluated_on_fixed_levels_of_each_number_of_rooms() -> None:
    spec = get_agent("ibac-sni")
    for env_id in ROOMS:
        on_cpu, on_gpu = (resolve(spec, env_id, device_type=d) for d in ("cpu", "cuda"))
        assert (on_cpu.preset, on_gpu.preset) == ("multiroom-cpu", "multiroom")
        assert on_cpu.agent_values() == on_gpu.agent_values()
        splits = on_cpu.run_settings().eval_splits
        assert list(splits) == ["n1", "n2", "n3"]
        assert {(s["first_seed"], s["episodes"]) for s in splits.values()} == {(0, 100)}
        assert not on_cpu.run_settings().eval_deterministic
    other = resolve(spec, "rlzoo/MultiRoom-N2r-v0").run_settings().eval_splits
    assert all(split["env_kwargs"] == {"grid_size": 9} for split in other.values())


# --- suites --------------------------------------------------------------------------------------


def test_the_sizes_of_coinrun() -> None:
    paper = cells_of("coinrun", "paper", agents=["ibac-sni"])
    assert {cell.env for cell in paper} == {f"CoinRun@{n}" for n in (50, 100, 200, 500)}
    assert tuple(dict.fromkeys(cell.preset for cell in paper)) == VARIANTS
    assert len(paper) == 6 * 4 * 3
    small = cells_of("coinrun", "cpu")
    assert {(c.agent, c.preset) for c in small if not c.like} == {
        ("ibac-sni", "ppo"), ("ibac-sni", "ib-sni"),
    }  # fmt: skip
    assert {c.agent for c in small if c.like} == {"random", "right-jump"}
    assert ({c.env for c in small}, {c.seed for c in small}) == ({"CoinRun@200"}, {0, 1})


@pytest.mark.parametrize("size", ["cpu", "paper"])
def test_variants_differ_in_what_they_are_named_after_and_in_nothing_else(size: str) -> None:
    expected = {
        "ppo": ("none", 0.5), "ppo-l2": ("weight_decay", 0.5), "dropout": ("dropout", None),
        "dropout-sni": ("dropout", 0.5), "ib": ("ib", None), "ib-sni": ("ib", 0.5),
    }  # fmt: skip
    others = []
    for cell in cells_of("coinrun", size, agents=["ibac-sni"], seeds=[0]):
        found = resolve(get_agent("ibac-sni"), cell.env_id, cell.preset_to_take, cell.overrides)
        values, run = found.agent_values(), found.run_settings()
        assert (values.pop("regulariser"), values.pop("sni_lambda")) == expected[cell.preset]
        others.append(json.dumps(values, sort_keys=True, default=str))
        assert run.env_kwargs == {"num_levels": int(number_of(cell.env) or 0)}
        assert (run.final_eval_episodes, "train" in run.eval_splits) == (1024, True)
    assert len(set(others)) == 1


def test_multiroom_has_seeds_enough_for_two_modes() -> None:
    for size, envs in (("small", ROOMS), ("paper", ROOMS[2:])):
        found = cells_of("multiroom", size)
        assert {cell.env for cell in found} == set(envs)
        assert len({cell.seed for cell in found}) >= 5
        assert {cell.preset for cell in found if not cell.like} == {"ppo", "ib-sni"}
    assert load_suite("multiroom").every_run


def test_commands_repeat_the_cells() -> None:
    by_agent = {c.agent: c for c in cells_of("coinrun", "cpu", presets=["ib-sni", "default"])}
    trained, measured = (Job(by_agent[n], Path("/x")).command for n in ("ibac-sni", "right-jump"))
    assert trained.startswith("rlzoo train ibac-sni --env CoinRun --preset cpu --steps 4000000 ")
    assert trained.endswith(
        "--set=env_kwargs.num_levels=200 --set=regulariser=ib --set=sni_lambda=0.5"
    )
    assert measured == (
        "rlzoo benchmark coinrun --size cpu --agents right-jump --envs CoinRun@200 --seeds=1"
    )


def test_cells_of_other_suites_are_as_they_were() -> None:
    """What is done already is not run again by a newer version."""
    (plain, *_), (variant, *_) = cells_of("control", "smoke"), cells_of("coinrun", "smoke")
    assert not {"base", "variant", "like"} & set(facts_of(plain))
    for cell in (plain, variant, cells_of("coinrun", "smoke", agents=["random"])[0]):
        assert cell_of(json.loads(json.dumps(facts_of(cell)))) == cell


OWN = """\
suite: own
title: Own
score: return
sizes: {s: {steps: 64, eval_freq: 32, eval_episodes: 2, seeds: [0], set: [final_eval_episodes=4]}}
agents:
  ppo:
    set: [n_steps=32, batch_size=32, n_epochs=1, n_envs=1]
    variants:
      short: {preset: default, set: [gamma=0.5], published: nobody}
      long: {set: {s: [gamma=0.99]}}
  random: {like: ppo, set: [eval_envs=2]}
envs:
  CartPole-v1@5: {set: [env_kwargs.max_episode_steps=5]}
  CartPole-v1@9: {set: [env_kwargs.max_episode_steps=9]}
"""


def own(folder: Path, *replacements: tuple[str, str]) -> Path:
    text = OWN
    for before, after in replacements:
        assert before in text
        text = text.replace(before, after)
    file = folder / "own.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("random: {like: ppo, ", "random: {", r"own.yaml:11: agents.random.like is missing"),
        ("like: ppo", "like: ppq", "unknown agent 'ppq'.*ppo"),
        ("  random: {like: ppo,", "  rnadom: {like: ppo,", "unknown agent 'rnadom'.*random"),
        ("gamma=0.5]", "gamma]", "not of the form key=value"),
        ("published: nobody", "publsihed: x", "unknown key 'publsihed'.*published"),
        ("score: return", "score: return\nevery_run: 1", "every_run=1 has the wrong type"),
        ("score: return", "score: return\nmetrics: 3", "metrics=3 has the wrong type"),
        ("long: {set: {s:", "long: {set: {t:", "unknown key 't'"),
    ],
    ids=["like", "agent", "policy", "set", "key", "truth", "metrics", "size"],
)
def test_mistakes_are_refused(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(RefusedError, match=f"(?s){message}"):
        load_suite(own(tmp_path, (before, after)))


def test_a_suite_of_ones_own_is_trained_and_measured(tmp_path: Path) -> None:
    suite = load_suite(own(tmp_path))
    records = []
    for cell in cells(suite, "s"):
        job = Job(cell, cell.run_dir(tmp_path))
        result = run_job(job, Silent())
        records.append(from_result(result, "own", "s", preset=cell.preset, env=cell.env, seed=0))
        assert json.loads((job.run_dir / "result.json").read_text())["final"] == result["final"]
    found = {(r.agent, r.preset, r.env): r for r in records}
    assert len(found) == 6
    for (agent, preset, env), record in found.items():
        final = record.final or {}
        assert final["episodes"] == 4
        assert 0 < (final["return_mean"] or 0) <= (number_of(env) or 0)
        if agent == "random":
            assert (record.total_timesteps, record.curve) == (0, ())
            assert (record.evaluation or {})["policy"] == "random"
            assert record.machine
        else:
            assert ("--preset default" in (record.command or "")) == (preset == "short")
    again = run_job(Job(cells(suite, "s", agents=["random"])[0], tmp_path / "again"), Silent())
    assert again["final"] == found["random", "default", "CartPole-v1@5"].final


# --- tables --------------------------------------------------------------------------------------


def coinrun_record(preset: str, levels: int, seed: int, test: float, gap: float) -> Record:
    is_policy = preset == "default"
    metrics = {"train_return": test + gap, "train_normalized": (test + gap) / 5 - 1, "gap": gap}
    if not is_policy:
        metrics["greedy_return"] = test - 0.5
    final = {"return_mean": test, "return_std": 1.0, "episodes": 1024, "normalized": test / 5 - 1}
    return Record(
        "coinrun", "cpu", "right-jump" if is_policy else "ibac-sni", preset, f"CoinRun@{levels}",
        seed, "ok", final=final, metrics=metrics,
        total_timesteps=0 if is_policy else 4_000_000,
    )  # fmt: skip


@pytest.fixture
def table() -> Table:
    records = [
        coinrun_record(preset, levels, seed, test + seed / 10, gap)
        for preset, test, gap in (("ppo", 7.5, 1.0), ("ib-sni", 8.0, 0.5), ("default", 6.5, 0.0))
        for levels in (50, 200)
        for seed in (0, 1)
    ]
    (found,) = tabulate(records, suite_facts(records))
    return found


def rows_of(found: tuple[list[str], list[list[str]]]) -> dict[tuple[str, ...], dict[str, str]]:
    columns, rows = found
    return {tuple(row[:2]): dict(zip(columns, row, strict=True)) for row in rows}


def test_the_table_has_train_test_gap_and_the_published_numbers(table: Table) -> None:
    rows = rows_of(beside_the_score(table))
    assert len(rows) == 6
    ppo = rows["CoinRun@200", "ibac-sni (ppo)"]
    assert (ppo["return"], ppo["train return"], ppo["gap"]) == (
        "7.55 +- 0.07", "8.55 +- 0.07", "1.00 +- 0.00",
    )  # fmt: skip
    assert ppo["normalized"] == "0.510 +- 0.014"
    # Of the published curve, the numbers at the same number of frames.
    assert (ppo["return, published"], ppo["train return, published"]) == ("7.84 (4M)", "8.49 (4M)")
    assert rows["CoinRun@50", "ibac-sni (ppo)"]["return, published"] == "-"
    assert rows["CoinRun@200", "right-jump"]["return, published"] == "6.53 +- 0.25"
    assert rows["CoinRun@200", "right-jump"]["greedy return"] == "-"
    assert rows["CoinRun@200", "ibac-sni (ib-sni)"]["return, published"] == "8.70 +- 0.60 (25M)"


def test_a_variant_is_compared_with_its_own_name_only() -> None:
    records = [coinrun_record(preset, 200, 0, 7.0, 1.0) for preset in ("ppo", "dropout", "ib-sni")]
    (found,) = tabulate(records, suite_facts(records))
    references = {row.preset: row.cells[0].reference for row in found.rows}
    assert references["dropout"] is None
    assert references["ppo"] is not None
    assert references["ppo"].value == pytest.approx(7.84 / 5 - 1)
    assert references["ib-sni"] is not None
    assert references["ib-sni"].agent == "ibac-sni"


def test_scores_over_the_number_of_levels(table: Table) -> None:
    panels = over_axis(table)
    assert list(panels) == ["return", "train return", "gap", "greedy return"]
    line = panels["train return"]["ibac-sni (ppo)"]
    assert (list(line.x), line.value) == ([50.0, 200.0], [pytest.approx(8.55)] * 2)
    assert line.low is not None
    assert line.low[0] == pytest.approx(8.5)
    assert set(panels["greedy return"]) == {"ibac-sni (ppo)", "ibac-sni (ib-sni)"}
    assert draw(table, {})["axis"].startswith(b"\x89PNG")
    one = replace(table, envs=("CoinRun@50",))
    other = replace(table, envs=("CoinRun@50", "CoinRun"))
    assert over_axis(one) == over_axis(other) == {}


def test_json_has_the_metrics(table: Table) -> None:
    (content,) = to_dict([table])["tables"]
    agents = {agent["name"]: agent for agent in content["agents"]}
    of_env = {cell["env"]: cell for cell in agents["ibac-sni (ib-sni)"]["cells"]}
    assert of_env["CoinRun@50"]["metrics"]["gap"] == {0: 0.5, 1: 0.5}
    json.dumps(content, allow_nan=False)


def test_every_run_is_shown_where_a_mean_says_little() -> None:
    rates = {0: 1.0, 1: 0.0, 2: 0.9, 3: 0.0, 4: 0.95}
    records = [
        Record("multiroom", "small", "ibac-sni", "ib-sni", ROOMS[2], seed, "ok",
               metrics={"success_rate": rate, "n1_success_rate": 1.0})
        for seed, rate in rates.items()
    ]  # fmt: skip
    (found,) = tabulate(records, suite_facts(records))
    columns, rows = every_run(found)
    success = dict(zip(columns, rows[0], strict=True))
    assert (success["median"], success["maximum"], success["n"]) == ("0.900", "1.000", "5")
    assert success["IQM [95 %]"].startswith("0.617 [")
    assert success["every run"] == "1.000 0.000 0.900 0.000 0.950"
    assert [row[2] for row in rows] == ["success rate", "n1 success rate"]
    assert "### Every run" in to_markdown([found])
    assert draw(found, {})["runs"].startswith(b"\x89PNG")


# --- with the environments -----------------------------------------------------------------------

TINY = (
    "n_envs=4", "n_steps=16", "batch_size=32", "eval_envs=4", "final_eval_episodes=8",
    "env_kwargs.max_episode_steps=30", "checkpoint_freq=64",
)  # fmt: skip


def tiny(cell: Cell, *more: str) -> Cell:
    overrides = (*cell.overrides, *TINY, *more)
    return replace(cell, steps=128, eval_freq=64, eval_episodes=4, overrides=overrides)


def test_a_cell_of_coinrun(tmp_path: Path) -> None:
    needs_coinrun()
    (cell,) = cells_of("coinrun", "smoke", envs=["CoinRun@50"], presets=["ib-sni"], seeds=[0])
    result = run_job(Job(tiny(cell), tmp_path / "run"), Silent())
    assert result["env"] == "CoinRun"
    assert set(result["metrics"]) == {
        "gap", "train_return", "train_normalized", "greedy_return", "greedy_normalized",
    }  # fmt: skip
    final = result["final"]
    assert final["normalized"] == pytest.approx((final["return_mean"] - 5) / 5)
    assert result["splits"]["train"]["episodes"] == 8
    (other,) = cells_of("coinrun", "smoke", envs=["CoinRun@50"], agents=["right-jump"], seeds=[0])
    measured = run_job(
        Job(replace(other, overrides=tiny(cell).overrides), tmp_path / "p"), Silent()
    )
    assert set(measured["metrics"]) == {"gap", "train_return", "train_normalized"}


def test_the_splits_of_coinrun_play_their_levels(tmp_path: Path) -> None:
    """Training levels are those of the training, and unseen ones are none of them."""
    needs_coinrun()
    from rlzoo.runs.splits import Splits, Where

    (cell, *_) = cells_of("coinrun", "smoke", envs=["CoinRun@50"])
    run = resolve(get_agent("ibac-sni"), "CoinRun", "cpu", cell.overrides).run_settings()
    places = {"main": Where.of("CoinRun", run), **Splits("CoinRun", run).places}
    levels = {name: place.make(2, 2).levels for name, place in places.items()}  # type: ignore[attr-defined]
    assert (levels["train"].start, levels["train"].count) == (0, 50)
    assert levels["main"] == levels["greedy"]
    assert levels["main"].start == 50


def test_multiroom_levels_are_those_of_the_script(tmp_path: Path) -> None:
    """The splits play the levels of :func:`rlzoo.runs.levels.multiroom_success`."""
    needs_multiroom()
    from rlzoo.runs.evaluate import play_episodes
    from rlzoo.runs.levels import solved_levels

    class Turner:
        """Goes straight on and opens doors: the levels alone decide what it solves."""

        def predict(self, observation: Any, *_: Any, **__: Any) -> Any:
            return np.full(len(observation), 2), None

    vec = make_vec(ROOMS[0], 60)
    found = play_episodes(Turner(), vec, 60, seed=9, first_seed=0)  # type: ignore[arg-type]
    assert found.successes is not None
    assert found.successes.sum() == solved_levels(Turner(), ROOMS[0], 60).sum() > 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("env_id", "needs"), [("rlzoo/MultiRoom-N2-v0", needs_multiroom), ("CoinRun", needs_coinrun)]
)
def test_train_works_as_typed(tmp_path: Path, env_id: str, needs: Callable[[], None]) -> None:
    needs()
    small = ("n_steps=16", "batch_size=64", "eval_envs=4", "eval_episodes=4",
             "final_eval_episodes=4", "n_envs=4")  # fmt: skip
    limit = ("env_kwargs.max_episode_steps=20",) if env_id == "CoinRun" else ()
    request = TrainRequest("ibac-sni", env_id, steps=128, eval_freq=64, run_dir=tmp_path / "r",
                           device="cpu", overrides=(*small, *limit))  # fmt: skip
    metrics = train(request).record["metrics"]
    expected = {"CoinRun": {"train_return", "gap", "greedy_return"}}
    assert expected.get(env_id, {f"n{n}_success_rate" for n in (1, 2, 3)}) <= set(metrics)
