"""Published numbers: rows are sound, spot values are those of the pages, scales, verdicts."""

from __future__ import annotations

import csv
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rlzoo
from rlzoo.core.tasks.scores import ATARI, D4RL, PROCGEN, SCALES, normalized_score
from rlzoo.errors import RefusedError
from rlzoo.report.reference import (
    Reference,
    load_reference,
    on_scale,
    published,
    read_reference_file,
    reference_files,
    verdict,
)

FOLDER = Path(rlzoo.__file__).parents[1] / "benchmarks" / "reference"
FILES = sorted(FOLDER.glob("*.csv"))
HEADER = "paper,source,suite,agent,env,metric,value,low,high,sd,n,steps,note\n"
FINITE = st.floats(-1e6, 1e6)


@dataclass(frozen=True)
class Estimate:
    """The shape of an estimate, without its module."""

    value: float
    low: float | None = None
    high: float | None = None


def ref(value: float, **more: float | None) -> Reference:
    return Reference("p", "s", "suite", "agent", "env", "return", value, **more)  # type: ignore[arg-type]


# --- every row -----------------------------------------------------------------------------------


def test_the_files_are_there() -> None:
    assert reference_files() == [file.stem for file in FILES]
    assert set(reference_files()) == {
        "atari100k", "control", "d4rl_mujoco", "dae_mpc", "goals", "procgen_coinrun",
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_is_sound(file: Path) -> None:
    rows = list(csv.DictReader(file.open(encoding="utf-8")))
    entries = read_reference_file(file)
    assert len(entries) == len(rows) > 10
    for row, entry in zip(rows, entries, strict=True):
        assert math.isfinite(float(row["value"]))
        assert entry.value == float(row["value"])
        assert row["paper"].strip()
        assert row["source"].strip()
        low, high = entry.interval
        assert low <= entry.value <= high
        assert entry.sd is None or entry.sd >= 0
        # A middle is the only thing that is computed, and it says so.
        middle = "value is its middle" in entry.note
        assert middle == (entry.low is not None and entry.high is not None)
        if middle:
            assert entry.value == pytest.approx((entry.low + entry.high) / 2)  # type: ignore[operator]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_number_is_there_twice(file: Path) -> None:
    entries = read_reference_file(file)
    facts = [(e.source, e.agent, e.env, e.metric, e.steps, e.note) for e in entries]
    assert sorted({f for f in facts if facts.count(f) > 1}, key=str) == []


# --- values of the pages -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "agent", "env", "metric", "steps", "value", "spread", "n"),
    [
        ("mujoco", "bear", "hopper-medium-v0", "normalized", None, 33.9, 0.5, 3),
        ("mujoco", "bear", "halfcheetah-random-v0", "normalized", None, 2.3, 0.0, 3),
        ("mujoco", "bear", "hopper-medium-expert-v0", "normalized", None, 64.7, 34.0, 3),
        ("mujoco", "bear", "hopper-medium-v0", "normalized", 200_000, 66, None, 3),
        ("mujoco", "bear", "hopper-medium-v0", "normalized_best", None, 99.4, None, 3),
        ("mujoco", "bcq", "walker2d-medium-v0", "normalized", None, 47.7, None, 10),
        ("mujoco", "td3-offline", "halfcheetah-medium-expert-v0", "normalized", None, -1.3,
         None, 10),
        ("mujoco", "bear", "HalfCheetah-v2/optimal", "return", None, 11_800, None, 5),
        ("mujoco", "data", "Ant-v2/random", "return", None, -90, None, None),
        ("atari", "der", "RoadRunner", "return", None, 9600, None, None),
        ("atari", "der", "Pong", "return", None, -19.3, None, None),
        ("atari", "der-dopamine", "Hero", "return", None, 6226, None, 100),
        ("atari", "spr", "UpNDown", "return", None, 10859, 16168, 100),
        ("atari", "simple", "CrazyClimber", "return", None, 39827.8, None, None),
        ("atari", "der", "all", "human_normalized_median", None, 0.161, None, None),
        ("coinrun", "ppo", "CoinrunEasy-v0", "return", None, 8.67, 0.15, 3),
        ("coinrun", "ppo", "CoinrunEasy-v0", "return", 2_000_000, 7.74, None, 3),
        ("coinrun", "ppo", "CoinrunHard-v0", "train_return", None, 7.67, 0.34, 3),
        ("coinrun", "ibac-sni", "CoinrunEasy-v0", "return", None, 8.7, 0.6, None),
        ("goals", "goalgail", "rlzoo/FourRooms-v0", "coverage", 150_000, 0.714, 0.042, 3),
        ("goals", "goalgail", "rlzoo/FourRooms-v0", "reached", 150_000, 0.714, 0.042, 3),
        ("goals", "her", "FetchPickAndPlace-v4", "reached", 10_000_000, 0.97, 0.03, 3),
        ("goals", "her", "FetchPickAndPlace-v4", "success_any", 10_000_000, 0.97, 0.03, 3),
        ("control", "obsdrop-p5", "CartPoleSwingUpHard-v0", "return", None, 519, 50, 10),
        ("control", "obsdrop-p30", "CarRacing-v3", "return", None, 800, 18, 5),
        ("control", "obsdrop-p40", "CarRacing-v3", "probe_return", None, 785, 63, 5),
        ("planning", "dae-mpc-cem", "rlzoo/PETSHalfCheetah-v0", "return", None, 12967, 3216, 3),
        ("control", "random", "Pendulum-v1", "return", None, -1239, 271, None),
    ],
)  # fmt: skip
def test_spot_values(
    suite: str,
    agent: str,
    env: str,
    metric: str,
    steps: int | None,
    value: float,
    spread: float | None,
    n: int | None,
) -> None:
    found = published(suite, agent, env, metric, steps=steps)
    assert found is not None
    assert (found.value, found.sd, found.n) == (value, spread, n)


@pytest.mark.parametrize(
    ("agent", "median", "mean"),
    [
        # Printed to these digits in chandar-lab/RLHive#286 and in rliable's notebook.
        ("der", 0.16136157795, 0.28543676671),
        ("der-dopamine", 0.18936, 0.35030),
    ],
)
def test_the_26_games_reproduce_the_printed_aggregates(
    agent: str, median: float, mean: float
) -> None:
    entries = [e for e in load_reference("atari") if (e.agent, e.metric) == (agent, "return")]
    scores = [normalized_score(e.env, e.value) for e in entries]
    assert len({e.env for e in entries}) == 26
    tolerance = 1e-4 if agent == "der-dopamine" else 1e-10
    assert statistics.median(scores) == pytest.approx(median, abs=tolerance)  # type: ignore[type-var]
    assert statistics.mean(scores) == pytest.approx(mean, abs=tolerance)  # type: ignore[type-var]


def test_published_aggregates_are_those_of_their_columns() -> None:
    entries = load_reference("atari")
    for agent in ("simple", "simple-released", "otrainbow", "drq-eps", "spr"):
        scores = [
            normalized_score(e.env, e.value)
            for e in entries
            if (e.agent, e.metric) == (agent, "return")
        ]
        for name, statistic in (("median", statistics.median), ("mean", statistics.mean)):
            entry = published("atari", agent, "all", f"human_normalized_{name}")
            assert entry is not None
            # Means over games that the page prints without decimals.
            assert statistic(scores) == pytest.approx(entry.value, abs=2e-3), (agent, name)


# --- looking up ----------------------------------------------------------------------------------


def test_a_run_finds_the_published_data_set() -> None:
    def env_of(dataset: str | None) -> str | None:
        found = published("mujoco", "bear", "Hopper-v4", "normalized", dataset=dataset)
        return found.env if found else None

    assert env_of(None) == "hopper-medium-v0"
    assert env_of("rlzoo/hopper/medium-v0") == "hopper-medium-v0"
    assert env_of("rlzoo/hopper/medium-20k-v0") == "hopper-medium-v0"
    assert env_of("rlzoo/hopper/random-v0") == "hopper-random-v0"
    assert env_of("some/other-v0") is None
    assert published("mujoco", "sac", "Hopper-v4", "normalized") is None  # SAC with interaction
    assert published("nothing", "bear", "Hopper-v4", "normalized") is None


def test_reruns_come_before_what_was_printed_first() -> None:
    entries = [
        e
        for e in load_reference("mujoco")
        if (e.agent, e.env, e.metric) == ("bear", "hopper-medium-v0", "normalized")
    ]
    assert {33.9, 52.1, 47.6} <= {e.value for e in entries}
    assert "rerun" in entries[0].source


def test_the_nearest_length_is_taken() -> None:
    def at(steps: int) -> int | None:
        found = published("mujoco", "bear", "Walker2d-v4", "normalized", steps=steps)
        return found.steps if found else None

    assert [at(s) for s in (600, 20_000, 90_000, 10**7)] == [10_000, 30_000, 100_000, 500_000]


@pytest.mark.parametrize("name", ["Alien", "Alien-v5", "ALE/Alien-v5", "AlienNoFrameskip-v4"])
def test_atari_ids_name_their_game(name: str) -> None:
    found = published("atari", "human", name, "return")
    assert found is not None
    assert found.value == 7127.7


# --- scales --------------------------------------------------------------------------------------


def test_the_ends_of_every_scale_are_the_published_ones() -> None:
    """The constants are in the code; the columns of the tables must be the same numbers."""
    for suite, scale in (("atari", ATARI), ("mujoco", D4RL), ("coinrun", PROCGEN)):
        for place, end in enumerate((scale.low, scale.high)):
            found = [e for e in load_reference(suite) if (e.agent, e.metric) == (end, "return")]
            if scale is PROCGEN:
                assert {e.env for e in found} >= {"CoinrunEasy-v0", "CoinrunHard-v0"}
            else:
                assert {e.env for e in found} == set(scale.ends)
            for entry in found:
                env = {"mujoco": f"{entry.env}-v2", "atari": f"ALE/{entry.env}-v5"}
                env_id = env.get(suite, entry.env)
                task = scale.task(env_id)
                assert task is not None
                assert scale.ends[task][place] == entry.value
                expected = scale.top if place else 0.0
                assert normalized_score(env_id, entry.value) == pytest.approx(expected, abs=1e-12)


def test_scales_do_not_overlap_and_point_upwards() -> None:
    tasks = [task for scale in SCALES for task in scale.ends]
    assert len(set(tasks)) == len(tasks) == 4 + 26 + 32
    assert all(low < high for scale in SCALES for low, high in scale.ends.values())
    assert all(scale.source and scale.digits in (1, 3) for scale in SCALES)


def test_other_scales() -> None:
    assert normalized_score("CoinrunEasy-v0", 5) == 0
    assert normalized_score("CoinrunHard-v0", 10) == 1
    assert normalized_score("CoinrunEasy-v0", 8.7) == pytest.approx(0.74)
    assert normalized_score("FruitbotEasy-v0", -1.5) == 0
    for env_id in ("ALE/Tetris-v5", "Pendulum-v1", "Hopper-v3", "Swimmer-v4", "CoinrunMemory-v0"):
        assert normalized_score(env_id, 1.0) is None


def test_published_returns_are_put_on_the_scale() -> None:
    spr = published("atari", "spr", "ALE/Boxing-v5", "return")
    assert spr is not None
    found = on_scale(spr, "ALE/Boxing-v5")
    assert found is not None
    assert found.value == pytest.approx((35.7 - 0.1) / 12)
    assert found.sd == pytest.approx(14.3 / 12)
    assert (found.metric, found.source, found.n) == ("normalized", spr.source, spr.n)
    assert "computed from the return" in found.note
    simple = published("atari", "simple", "ALE/BankHeist-v5", "return")  # worse than random
    assert simple is not None
    below = on_scale(simple, "ALE/BankHeist-v5")
    assert below is not None
    assert below.value == pytest.approx(-6 / 738.9)
    assert on_scale(simple, "Pendulum-v1") is None


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimate", "reference", "expected"),
    [
        (Estimate(5), ref(10, sd=2.0), "below"),
        (Estimate(8), ref(10, sd=2.0), "inside"),
        (Estimate(13), ref(10, sd=2.0), "above"),
        (Estimate(5, 4, 8), ref(10, sd=2.0), "inside"),
        (Estimate(5, 4, 7.9), ref(10, sd=2.0), "below"),
        (Estimate(14, 12.1, 15), ref(10, sd=2.0), "above"),
        (Estimate(10), ref(10), "inside"),
        (Estimate(10.1), ref(10), "above"),
        (Estimate(7), ref(5, low=3.0, high=6.0), "above"),
        (Estimate(-900), ref(-500, high=-500.0), "inside"),
        (Estimate(-100), ref(-500, high=-500.0), "above"),
        (Estimate(1), None, "no reference"),
        (None, ref(10), "no reference"),
        (Estimate(math.nan), ref(10), "no reference"),
    ],
)
def test_verdicts(estimate: Estimate | None, reference: Reference | None, expected: str) -> None:
    assert verdict(estimate, reference) == expected


@given(value=FINITE, width=st.floats(0, 1e3), sd=st.floats(0, 1e3))
def test_a_published_value_is_inside_of_itself(value: float, width: float, sd: float) -> None:
    estimate = Estimate(value, value - width, value + width)
    assert verdict(estimate, ref(value, sd=sd)) == "inside"


# --- damaged files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("p,,suite,a,e,return,1,,,,,,", "source is empty"),
        ("p,s,suite,a,e,return,one,,,,,,", "value='one' is not a number"),
        ("p,s,suite,a,e,return,nan,,,,,,", "value='nan' is not a number"),
        ("p,s,suite,a,e,return,,,,,,,", "value='' is not a number"),
        ("p,s,suite,a,e,return,1,2,3,,,,", "not in"),
        ("p,s,suite,a,e,return,1,,,,2.5,,", "n='2.5'"),
        ("p,s,suite,a,e,return,1,,,,,0,", "steps='0'"),
        ("p,s,suite,a,e,return,1,,,,,", "fields"),
        ("p,s,suite,a,e,return,1,,,,,,x,y", "fields"),
    ],
)
def test_a_damaged_row_is_named(tmp_path: Path, row: str, complaint: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(HEADER + "p,s,suite,a,e,return,1,,,,,,\n" + row + "\n")
    with pytest.raises(RefusedError, match=complaint) as caught:
        read_reference_file(file)
    assert str(caught.value).startswith(f"{file}:3: ")


def test_other_columns_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(RefusedError, match="wrong columns"):
        read_reference_file(file)
    with pytest.raises(RefusedError, match="cannot be read"):
        read_reference_file(tmp_path / "missing.csv")
