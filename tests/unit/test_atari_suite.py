"""The Atari harness: one configuration, one name per game, the suite, its table, its refusals.

Games themselves need the extra: those tests say so where it is missing.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rlzoo import DER
from rlzoo.agents.registry import get_agent
from rlzoo.benchmark import cells, load_suite
from rlzoo.benchmark.driver import BenchmarkRequest, make_plan
from rlzoo.cli.main import main
from rlzoo.cli.suites import suite_facts
from rlzoo.config import config_files, known_presets, resolve
from rlzoo.core.tasks.ids import atari_game, canonical, family
from rlzoo.core.tasks.scores import ATARI, normalized_score
from rlzoo.errors import RefusedError
from rlzoo.report.leaderboard_table import Table, tabulate
from rlzoo.report.leaderboard_text import to_csv, to_dict, to_markdown
from rlzoo.report.records import Record, append
from rlzoo.runs.train import TrainRequest, train

GAME, OLD_ID = "ALE/RoadRunner-v5", "RoadRunnerNoFrameskip-v4"
SMALL = ("RoadRunner", "KungFuMaster", "Hero", "Jamesbond", "Krull")


def needs_games() -> None:
    pytest.importorskip("ale_py", reason='needs pip install "rlzoo[atari]"')
    pytest.importorskip("cv2", reason='needs pip install "rlzoo[atari]"')


# --- ids and configuration -----------------------------------------------------------------------


def test_ids_of_games() -> None:
    for env_id in (GAME, OLD_ID, f"ale_py:{GAME}"):
        assert (atari_game(env_id), canonical(env_id), family(env_id)) == (
            "RoadRunner", GAME, "atari",
        )  # fmt: skip
    for env_id in ("RoadRunner-v5", "RoadRunner-v4", "ALE/RoadRunner-v4", "Hopper-v4", "mine:X-v0",
                   "ALE/RoadRunner-ram-v5", "RoadRunnerDeterministic-v4"):  # fmt: skip
        assert (atari_game(env_id), canonical(env_id), family(env_id)) == (None, env_id, None)


@pytest.mark.parametrize("agent", ["der", "dqn"])
@pytest.mark.parametrize("env_id", [GAME, OLD_ID, "ALE/Tetris-v5"])
def test_all_games_share_one_configuration(agent: str, env_id: str) -> None:
    spec = get_agent(agent)
    names = [file.name for file in config_files(agent, env_id)]
    assert names == [f"configs/{agent}/default.yaml", f"configs/{agent}/atari.yaml"]
    for preset in known_presets(spec, env_id):
        run = resolve(spec, env_id, preset).run_settings()
        assert (run.eval_epsilon, run.final_eval_episodes) == (0.001, 100)
        assert run.eval_episodes <= 10
        assert run.steps // run.eval_freq <= 50
    assert resolve(spec, "CartPole-v1").run_settings().eval_epsilon == 0


def test_a_file_of_a_game_comes_after_that_of_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlzoo.config.locate.config_root", lambda: tmp_path)
    for name in ("default", "atari", "ALE/RoadRunner-v5"):
        file = tmp_path / "der" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("all: {}\n")
    for env_id in (GAME, OLD_ID):
        names = [file.name.removeprefix("configs/der/") for file in config_files("der", env_id)]
        assert names == ["default.yaml", "atari.yaml", "ALE/RoadRunner-v5.yaml"]
    assert len(config_files("der", "ALE/Pong-v5")) == 2
    assert len(config_files("der", "CartPole-v1")) == 1


def test_der_has_the_steps_of_the_benchmark_and_of_rainbow() -> None:
    der = get_agent("der")
    assert resolve(der, GAME).run_settings().steps == 100_000
    assert resolve(der, GAME).agent_values()["n_steps"] == 20
    assert resolve(der, GAME, "rainbow").run_settings().steps == 50_000_000


# --- suite ---------------------------------------------------------------------------------------


def test_the_sizes_of_the_suite() -> None:
    suite = load_suite("atari")
    assert (suite.score, suite.published, suite.target) == ("normalized", "return", 1.0)
    assert [canonical(env) for env in suite.envs] == [f"ALE/{game}-v5" for game in ATARI.ends]
    small = cells(suite, "small")
    assert {cell.env for cell in small} == {f"ALE/{game}-v5" for game in SMALL}
    assert (len(small), {cell.steps for cell in small}) == (10, {100_000})
    paper = cells(suite, "paper", presets=["der"])
    assert len(paper) == 26 * 5
    assert {cell.preset for cell in cells(suite, "paper")} == set(
        DER.PRESETS
    ) - {"rainbow"}  # 200M frames  # fmt: skip
    for cell in (*small, *paper):
        run = resolve(get_agent("der"), cell.env, cell.preset, cell.overrides).run_settings()
        assert (run.final_eval_episodes, run.eval_epsilon, run.env_kwargs) == (100, 0.001, {})
        assert cell.eval_episodes * cell.steps // cell.eval_freq <= 40


def test_presets_are_filtered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = BenchmarkRequest("atari", "paper", presets=["spr-rainbow"], seeds=[3], out=tmp_path)
    assert {cell.preset for cell in make_plan(request).cells} == {"spr-rainbow"}
    options = ["--size", "paper", "--presets", "der", "--envs", GAME, "--seeds", "0", "--dry-run"]
    assert main(["benchmark", "atari", *options, "--out", str(tmp_path / "o")]) == 0
    assert "1 cells" in capsys.readouterr().out


def test_two_ids_of_one_game_are_no_two_environments(tmp_path: Path) -> None:
    text = (
        "suite: x\ntitle: X\nscore: return\nagents: {der: {}}\n"
        "sizes: {s: {steps: 1, eval_freq: 1, eval_episodes: 1, seeds: [0]}}\n"
        f"envs:\n  {GAME}:\n  {OLD_ID}:\n"
    )
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(RefusedError, match=f"x.yaml:8: {OLD_ID} is the environment {GAME}"):
        load_suite(file)
    file.write_text(text.replace(f"  {GAME}:\n", ""))
    (cell,) = cells(load_suite(file), "s")
    assert (cell.env, cell.key[4]) == (OLD_ID, GAME)


# --- table ---------------------------------------------------------------------------------------


def game_record(game: str, seed: int, value: float, preset: str = "der", **more: Any) -> Record:
    facts = {"suite": "atari", "size": "small", "agent": "der", "status": "ok", **more}
    final = {"return_mean": value, "return_std": 1.0, "episodes": 100, "normalized": None}
    final["normalized"] = normalized_score(f"ALE/{game}-v5", value)  # type: ignore[assignment]
    return Record(
        preset=preset,
        env=f"ALE/{game}-v5",
        seed=seed,
        final=final,
        total_timesteps=100_000,
        **facts,
    )


def small_table(records: list[Record]) -> Table:
    (table,) = tabulate(records, suite_facts(records))
    return table


def halfway(preset: str = "der") -> list[Record]:
    """Runs in the middle between random play and the human, a tenth above and below."""
    return [
        game_record(game, seed, low + (0.4 + 0.2 * seed) * (high - low), preset)
        for game, (low, high) in ATARI.ends.items()
        if game in SMALL
        for seed in (0, 1)
    ]


def test_scores_over_all_games_are_human_normalised_with_intervals() -> None:
    table = small_table(halfway())
    (row,) = table.rows
    assert set(row.statistics) == {"IQM", "mean", "median", "optimality gap"}
    for name in ("IQM", "mean", "median", "optimality gap"):
        found = row.statistics[name]
        assert found.value == pytest.approx(0.5)
        assert found.low is not None
        assert found.high is not None
        assert 0.39 < found.low < 0.5 < found.high < 0.61
    assert "Numbers: human-normalised score of the last policy" in to_markdown([table])
    assert table.digits == 3


def test_old_ids_and_missing_scores_are_normalised_too() -> None:
    plain = [replace(r, env=OLD_ID, final={"return_mean": (r.final or {})["return_mean"]})
             for r in halfway() if r.env == GAME]  # fmt: skip
    table = small_table(plain)
    assert table.envs == (GAME,)
    assert table.rows[0].statistics["mean"].value == pytest.approx(0.5)


def test_the_published_columns_stand_beside_as_returns() -> None:
    text = to_markdown([small_table(halfway())])
    section = text.split("### Returns")[1].split("###")[0]
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in section.strip().splitlines()]
    head, games = lines[0], {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert head[:4] == ["env", "der", "random", "human"]
    published = ("simple", "simple-released", "der", "der-dopamine", "otrainbow", "drq-eps", "spr")
    assert head[4:11] == [f"{name} (published)" for name in published]
    runner = games[GAME]
    assert (runner["random"], runner["human"], runner["der (published)"]) == (
        "11.5", "7,845.0", "9,600.0",
    )  # fmt: skip
    assert runner["spr (published)"] == "12,213.0 +- 5,028.0"
    assert runner["der"] == "3,928.2 +- 1,107.8 (n=2)"
    # The last rows are over the five games of the table.
    scores = [
        normalized_score(f"ALE/{game}-v5", value) or 0.0
        for game, value in zip(SMALL, (9600.0, 14346.1, 6857.0, 301.6, 2851.5), strict=True)
    ]
    for name, statistic in (("median", statistics.median), ("mean", statistics.mean)):
        row = games[f"{name} human-normalised score"]
        assert float(row["der (published)"]) == pytest.approx(statistic(scores), abs=5e-4)
        assert (row["random"], row["human"], row["der"]) == ("0.000", "1.000", "0.500")
    assert games["IQM human-normalised score"]["spr (published)"] == "-"


def test_over_26_games_the_columns_have_the_published_aggregates() -> None:
    records = [game_record(game, 0, ends[0]) for game, ends in ATARI.ends.items()]
    text = to_markdown([small_table(records)])
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    median, mean = (rows[f"{name} human-normalised score"] for name in ("median", "mean"))
    for of_der, of_dopamine, row in (("0.161", "0.189", median), ("0.285", "0.350", mean)):
        columns = [cell.strip() for cell in row.split("|")]
        assert (columns[7], columns[8]) == (of_der, of_dopamine)


def test_a_game_that_a_paper_lacks_is_counted() -> None:
    """Of SPR's plain Rainbow five games are known, Breakout among them and Pong not."""
    text = to_markdown([small_table([game_record(game, 0, 1.0) for game in ("Breakout", "Pong")])])
    table = [[c.strip() for c in line.split("|")] for line in text.splitlines() if "|" in line]
    place = next(row for row in table if "spr-rainbow (published)" in row)
    (found,) = (row for row in table if row[1] == "mean human-normalised score")
    assert found[place.index("spr-rainbow (published)")] == "0.177 (1 of 2)"
    assert found[place.index("random")] == "0.000"


def test_a_preset_is_compared_with_the_paper_that_it_is_of() -> None:
    table = small_table([*halfway(), *halfway("der-dopamine"), *halfway("rainbow")])
    index = table.envs.index(GAME)
    found = {row.preset: row.cells[index].reference for row in table.rows}
    values = {name: None if r is None else r.agent for name, r in found.items()}
    assert values == {"der": "der", "der-dopamine": "der-dopamine", "rainbow": "der"}
    assert found["der-dopamine"] is not None
    assert found["der-dopamine"].value == pytest.approx((11843.4 - 11.5) / (7845.0 - 11.5))
    assert not {"der", "der-dopamine", "random", "human"} & set(table.published)


def test_csv_and_json_have_the_published_numbers() -> None:
    table = small_table(halfway())
    rows = list(csv.DictReader(io.StringIO(to_csv([table]))))
    (runner,) = (row for row in rows if row["env"] == GAME)
    assert float(runner["published"]) == pytest.approx((9600 - 11.5) / (7845.0 - 11.5))
    (content,) = to_dict([table])["tables"]
    returns = {(e["agent"], e["env"]): e["value"] for e in content["published_returns"]}
    assert returns["human", "RoadRunner"] == 7845.0
    json.dumps(content, allow_nan=False)


# --- suites of one's own -------------------------------------------------------------------------

OWN = """\
suite: mine
title: My games
score: normalized
published: return
target: 0.5
reference: atari100k
sizes: {tiny: {steps: 10, eval_freq: 5, eval_episodes: 1, seeds: [0, 1]}}
agents: {der: {presets: [der]}}
envs: {ALE/Pong-v5: , ALE/RoadRunner-v5: }
"""


def own_benchmark(folder: Path, copy: bool) -> Path:
    folder.mkdir(parents=True)
    append(folder / "results.jsonl",
           replace(game_record("Pong", 0, -20.7), suite="mine", size="tiny"))  # fmt: skip
    file = folder / ("suite.yaml" if copy else "mine.yaml")
    file.write_text(OWN)
    return file


def test_a_suite_of_ones_own_is_known_to_the_leaderboard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_benchmark(tmp_path / "with", copy=True)
    other = own_benchmark(tmp_path / "without", copy=False)
    for arguments, known in (
        (["with"], True), (["without"], False), (["without", "--suite", str(other)], True),
    ):  # fmt: skip
        folder, *options = arguments
        assert main(["leaderboard", "show", str(tmp_path / folder), *options, "--json"]) == 0
        (table,) = json.loads(capsys.readouterr().out)["tables"]
        assert (table["title"] == "My games") == known
        (agent,) = table["agents"]
        assert ("optimality gap" in agent["statistics"]) == known
        assert (agent["cells"][0]["missing"] == [1]) == known
        if known:
            assert agent["statistics"]["optimality gap"]["value"] == pytest.approx(0.5)
    assert main(["report", str(tmp_path / "with")]) == 0
    assert "My games" in (tmp_path / "with" / "report.html").read_text()


def test_a_damaged_copy_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = own_benchmark(tmp_path / "b", copy=True)
    copy.write_text(OWN.replace("score: normalized", "score: nice"))
    assert main(["leaderboard", "show", str(tmp_path / "b")]) == 0
    assert "score='nice' is not known" in capsys.readouterr().err
    own_benchmark(tmp_path / "c", copy=True)
    (tmp_path / "b" / "suite.yaml").write_text(OWN.replace("0.5", "0.7"))
    assert main(["leaderboard", "show", str(tmp_path)]) == 0
    assert "differs from" in capsys.readouterr().err
    assert main(["leaderboard", "show", str(tmp_path), "--suite", str(tmp_path / "none.yaml")]) == 2


def test_a_benchmark_keeps_a_copy_of_a_suite_of_ones_own(tmp_path: Path) -> None:
    from rlzoo.benchmark.driver import _keep_suite

    file = tmp_path / "mine.yaml"
    file.write_text(OWN)
    _keep_suite(str(file), tmp_path)
    assert load_suite(tmp_path / "suite.yaml") == load_suite(file)
    (tmp_path / "suite.yaml").unlink()
    _keep_suite("atari", tmp_path)
    assert not (tmp_path / "suite.yaml").exists()


# --- refusals ------------------------------------------------------------------------------------


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def refused_training(folder: Path, env_id: str, agent: str = "der") -> str:
    message = refusal(
        lambda: train(TrainRequest(agent, env_id, run_dir=folder / "run", device="cpu"))
    )
    assert not (folder / "run").exists()
    return message


def test_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ale_py", None)
    for env_id in [i for i in (GAME, OLD_ID) if i in gym.registry]:
        monkeypatch.delitem(gym.registry, env_id)
    for env_id in (GAME, OLD_ID):
        assert 'pip install "rlzoo[atari]"' in refused_training(tmp_path, env_id)


def test_without_an_environment_der_says_where_the_paper_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from rlzoo.runs.train import _other_env

    der = get_agent("der")
    assert (der.default_env, der.paper_env) == ("CartPole-v1", GAME)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    monkeypatch.delitem(gym.registry, GAME, raising=False)
    line = _other_env(der)
    assert f"rlzoo train der --env {GAME}" in line
    assert 'pip install "rlzoo[atari]"' in line


def test_a_missing_rom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_games()
    (tmp_path / "roms").mkdir()
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path / "roms"))
    assert f"The ROM of {GAME!r} cannot be used" in refused_training(tmp_path, GAME)


@pytest.mark.parametrize("env_id", ["ALE/RoadRuner-v5", "RoadRunnerrNoFrameskip-v4", "RoadRunner"])
def test_an_unknown_game(tmp_path: Path, env_id: str) -> None:
    needs_games()
    message = refused_training(tmp_path, env_id)
    assert "Unknown environment" in message
    assert "'ALE/RoadRunner-v5'" in message or "'RoadRunnerNoFrameskip-v4'" in message


def test_a_continuous_action_space(tmp_path: Path) -> None:
    message = refused_training(tmp_path, "Pendulum-v1")
    assert "der cannot act in an environment with the action space Box" in message
    assert "Agents that fit: " in message
    assert "Box" in refusal(lambda: DER("MlpPolicy", "Pendulum-v1"))


class Pictures(gym.Env[Any, Any]):
    """Observations of any shape and type, two actions."""

    action_space = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (4, 84, 84), np.float32),
        spaces.Box(0, 100, (4, 84, 84), np.uint8),
        spaces.Box(0, 255, (84, 84), np.uint8),
        spaces.Box(-1, 1, (4,), np.float32),
        spaces.Box(0, 255, (4, 10, 10), np.uint8),
    ],
    ids=["floats", "range", "flat", "vector", "tiny"],
)
def test_a_box_that_is_no_image_for_a_cnn(space: spaces.Box) -> None:
    message = refusal(lambda: DER("CnnPolicy", Pictures(space), device="cpu", buffer_size=100))
    assert "CnnPolicy" in message or "Images of shape (4, 10, 10) are too small" in message


# --- games ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env_id", [GAME, OLD_ID])
def test_a_run_on_a_game_is_evaluated_as_the_papers_do(
    tmp_path: Path, env_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_games()
    folder = tmp_path / "run"
    options = ["--steps", "60", "--eval-freq", "60", "--eval-episodes", "1", "--device", "cpu"]
    settings = ["learning_starts=50", "final_eval_episodes=3", "checkpoint_freq=60"]
    sets = [word for setting in settings for word in ("--set", setting)]
    command = ["train", "der", "--env", env_id, "--run-dir", str(folder), *options, *sets]
    assert main(command) == 0
    assert "normalised" in capsys.readouterr().out
    result = json.loads((folder / "result.json").read_text())
    assert result["env"] == env_id
    final, protocol = result["final"], result["evaluation"]
    assert (final["episodes"], protocol["epsilon"]) == (3, 0.001)
    assert (protocol["scale"]["random"], protocol["scale"]["human"]) == (11.5, 7845.0)
    assert final["normalized"] == pytest.approx((final["return_mean"] - 11.5) / 7833.5)
    assert final["return_mean"] % 100 == pytest.approx(0, abs=34)  # scores are not clipped
    capsys.readouterr()
    both = [
        json.loads(capsys.readouterr().out)
        for other in (GAME, OLD_ID)
        if main(["eval", str(folder), "--episodes", "2", "--json", "--env", other]) == 0
    ]
    assert len(both) == 2
    assert both[0]["return_mean"] == both[1]["return_mean"]
    assert both[0]["normalized"] == both[1]["normalized"]


def test_every_game_of_the_suite_exists() -> None:
    needs_games()
    import ale_py  # noqa: F401 - registers them

    for env in load_suite("atari").envs:
        assert env in gym.registry
        assert f"{atari_game(env)}NoFrameskip-v4" in gym.registry
