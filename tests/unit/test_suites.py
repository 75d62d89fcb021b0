"""Suites: they load, become the right cells, fit the agents of the zoo, and refuse mistakes."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from rlzoo.agents.registry import get_agent
from rlzoo.benchmark import Cell, Suite, cells, known_suites, load_suite
from rlzoo.config import resolve
from rlzoo.data.recipes import get_recipe
from rlzoo.errors import RefusedError
from rlzoo.report.reference import load_reference, published
from rlzoo.runs.train import TrainRequest, settings_of

SIZES = {
    **dict.fromkeys(
        ("atari", "control", "goals", "multiroom", "planning"), ("smoke", "small", "paper")
    ),
    "coinrun": ("smoke", "cpu", "paper"),
    "mujoco": ("smoke", "small", "figure", "paper"),
}
SHIPPED = [(suite, size) for suite, sizes in sorted(SIZES.items()) for size in sizes]
# These need an extra; test_atari_suite.py and test_coinrun_suite.py make the environments.
DISCRETE = ("atari", "coinrun", "multiroom")
BOXES = ("goals",)

GOOD = """\
suite: toy
title: A toy
score: return
sizes:
  smoke: {steps: 100, eval_freq: 50, eval_episodes: 2, seeds: [0, 1]}
  paper: {steps: 1e3, eval_freq: 100, eval_episodes: 5, seeds: [3], agents: [ppo], set: [gamma=0.9]}
agents:
  bear:
    presets: {smoke: [cpu, d4rl]}
    envs: [Hopper-v4]
    set: {smoke: [warmup_steps=10]}
  ppo:
    steps: {smoke: 200}
envs:
  Pendulum-v1: {steps: 300, eval_freq: 25, set: [learning_rate=1e-3]}
  Hopper-v4: {dataset: {smoke: rlzoo/hopper/medium-1k-v0}}
"""


@pytest.fixture
def toy(tmp_path: Path) -> Suite:
    return load_suite(write(tmp_path, GOOD))


def write(folder: Path, text: str) -> Path:
    file = folder / "toy.yaml"
    file.write_text(text)
    return file


# --- the ones that ship --------------------------------------------------------------------------


def test_the_suites_that_ship() -> None:
    assert known_suites() == sorted({suite for suite, _ in SHIPPED})
    for name in known_suites():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.title
        assert tuple(suite.sizes) == SIZES[name]
        assert suite.reference is not None
        assert load_reference(suite.reference)
        assert load_reference(name)


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_cells_are_different_and_always_the_same(name: str, size: str) -> None:
    found = cells(load_suite(name), size)
    assert found == cells(load_suite(name), size)
    assert len({cell.key for cell in found}) == len(found) >= 4
    assert len({cell.run_dir("runs") for cell in found}) == len(found)
    assert {(cell.suite, cell.size) for cell in found} == {(name, size)}
    # At least two seeds, an evaluation in the middle, every agent of the suite.
    assert len({cell.seed for cell in found}) >= 2
    assert all(cell.like or cell.steps >= 2 * cell.eval_freq for cell in found)
    assert {cell.agent for cell in found} == set(load_suite(name).agents)


@pytest.mark.parametrize(("name", "size"), SHIPPED)
def test_every_cell_fits_its_agent_and_environment(name: str, size: str) -> None:
    spaces = {"CarRacing-v3": "Box"}  # test_car_racing.py makes it
    for cell in cells(load_suite(name), size)[:: len(load_suite(name).sizes[size].seeds)]:
        spec = get_agent(cell.like or cell.agent)
        config = resolve(spec, cell.env_id, cell.preset_to_take, cell.overrides)
        assert config.preset == (cell.preset_to_take or config.preset)
        if cell.like:
            assert cell.steps == 0
            continue
        # What a training would take from it.
        request = TrainRequest(
            cell.agent, cell.env_id, cell.preset_to_take, cell.dataset, cell.steps, cell.seed,
            overrides=cell.overrides, eval_freq=cell.eval_freq, eval_episodes=cell.eval_episodes,
        )  # fmt: skip
        run = settings_of(request, spec, "cpu").run_settings()
        assert (run.steps, run.eval_freq, run.eval_episodes) == (
            cell.steps, cell.eval_freq, cell.eval_episodes,
        )  # fmt: skip
        if spec.demonstrations and run.dataset is not None:
            assert get_recipe(run.dataset).env_id == cell.env_id
        else:
            assert run.dataset == cell.dataset
        if name in DISCRETE:
            spaces[cell.env] = "Discrete"
        if name in BOXES:
            spaces[cell.env] = "Box"
        if cell.env not in spaces:
            env = gym.make(cell.env_id)
            spaces[cell.env] = type(env.action_space).__name__
            env.close()
        assert spaces[cell.env] in spec.action_spaces
        assert (cell.dataset is not None) == spec.needs_data
        if cell.dataset is not None:
            assert get_recipe(cell.dataset).env_id == cell.env_id
            # Otherwise the whole run would be warm-up.
            assert size == "paper" or config.agent_values().get("warmup_steps", 0) < cell.steps


def test_the_smoke_sizes_are_small() -> None:
    """A core does about ten updates of BEAR in its full width a second, fifty of SAC."""
    for name, rate in (
        ("mujoco", 10), ("control", 30), ("atari", 20), ("coinrun", 200), ("multiroom", 1000),
        ("goals", 100),
    ):  # fmt: skip
        found = cells(load_suite(name), "smoke")
        assert sum(cell.steps for cell in found) / rate < 15 * 60
        for cell in found:
            assert cell.dataset is None or get_recipe(cell.dataset).size <= 20_000


def test_hard_swing_ups_are_measured_with_enough_rollouts() -> None:
    """Returns are bimodal, with a deviation of 420: 100 rollouts would give +- 42."""
    for size in ("small", "paper"):
        found = [c for c in cells(load_suite("control"), size) if "CartPoleSwingUpHard" in c.env]
        seen = {}
        for cell in found:
            spec = get_agent(cell.agent)
            config = resolve(spec, cell.env_id, cell.preset_to_take, cell.overrides)
            run = config.run_settings()
            assert (run.final_eval_episodes or 0) >= 6_000
            assert run.then_dream == 400
            seen[cell.preset] = config.agent_values()["peek_prob"], run.dream_model
        shares = {f"p{p}": (p / 100, "learnt") for p in (1, 3, 5, 10, 30, 50, 100)}
        supervised = {f"supervised-{width}": (1.0, "predicted") for width in (120, 1200)}
        assert seen == {**shares, **supervised}
        published = load_suite("control").agents["obs-dropout"].variants
        known = {entry.agent for entry in load_reference("control")}
        assert {variant.published for variant in published.values()} <= known


# --- from a suite to cells -----------------------------------------------------------------------


def test_layers_and_order(toy: Suite) -> None:
    def cell(agent: str, preset: str, env: str, seed: int, **more: Any) -> Cell:
        values = {"dataset": None, "steps": 100, "eval_freq": 50, "eval_episodes": 2, **more}
        return Cell("toy", "smoke", agent, preset, env, seed, **values)

    data = {"dataset": "rlzoo/hopper/medium-1k-v0", "overrides": ("warmup_steps=10",)}
    pendulum = {"steps": 200, "eval_freq": 25, "overrides": ("learning_rate=1e-3",)}
    assert cells(toy, "smoke") == [
        entry
        for seed in (0, 1)
        for entry in (
            cell("ppo", "default", "Pendulum-v1", seed, **pendulum),
            cell("bear", "cpu", "Hopper-v4", seed, **data),
            cell("bear", "d4rl", "Hopper-v4", seed, **data),
            cell("ppo", "default", "Hopper-v4", seed, steps=200),
        )
    ]
    paper = cells(toy, "paper")
    assert [c.agent for c in paper] == ["ppo", "ppo"]
    assert [(c.steps, c.eval_freq) for c in paper] == [(300, 25), (1000, 100)]
    assert paper[0].overrides == ("gamma=0.9", "learning_rate=1e-3")


def test_later_layers_win_in_resolve(toy: Suite) -> None:
    (cell, _) = cells(toy, "paper")
    config = resolve(get_agent("ppo"), cell.env, cell.preset, cell.overrides)
    assert config.agent_values()["gamma"] == 0.9
    assert config.agent_values()["learning_rate"] == 1e-3


def test_filters_keep_the_order_of_the_suite(toy: Suite) -> None:
    everything = cells(toy, "smoke")
    for agents, envs in itertools.product([None, ["ppo"], ["ppo", "bear"]], [None, ["Hopper-v4"]]):
        wanted = [
            cell
            for cell in everything
            if cell.agent in (agents or ["bear", "ppo"])
            and cell.env in (envs or ["Hopper-v4", "Pendulum-v1"])
        ]
        assert cells(toy, "smoke", agents, envs) == wanted
    assert [c.seed for c in cells(toy, "smoke", ["ppo"], ["Hopper-v4"], [7, 5, 7])] == [7, 5]


def test_cells_travel_and_have_safe_folders(toy: Suite) -> None:
    cell = cells(toy, "smoke")[1]
    assert pickle.loads(pickle.dumps(cell)) == cell
    assert hash(cell) == hash(pickle.loads(pickle.dumps(cell)))
    assert cell.key == ("toy", "smoke", "bear", "cpu", "Hopper-v4", 0)
    assert cell.run_dir("out") == Path("out/results/bear-cpu/Hopper-v4/seed_0")
    odd = Cell("s", "z", "ppo", "default", "../a b:ALE/Pong-v5", 1, None, 1, 1, 1)
    assert odd.run_dir(Path("out")) == Path("out/results/ppo/a-b-ALE-Pong-v5/seed_1")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("smok",), r"toy has no size 'smok'. Did you mean 'smoke'\?\nIt has: smoke, paper"),
        (("paper", ["bear"]), r"toy --size paper has no agent 'bear'"),
        (("smoke", ["pp"]), r"no agent 'pp'. Did you mean 'ppo'\?"),
        (("smoke", None, ["Hoper-v4"]), r"no environment 'Hoper-v4'. Did you mean 'Hopper-v4'"),
        (("smoke", ["bear"], ["Pendulum-v1"]), r"no cell .*\nbear plays Hopper-v4"),
        (("smoke", [], None), "no cell"),
        (("smoke", None, None, []), "no cell"),
        (("smoke", None, None, None, ["d5rl"]), r"no preset 'd5rl'. Did you mean 'd4rl'"),
        (("smoke", None, None, [-1]), r"seed=-1 is out of range"),
        (("smoke", None, None, [2**32]), r"seed=4294967296 is out of range"),
    ],
)
def test_selections_that_fit_nothing_are_refused(
    toy: Suite, arguments: tuple[Any, ...], complaint: str
) -> None:
    with pytest.raises(RefusedError, match=complaint):
        cells(toy, *arguments)


# --- mistakes in a file --------------------------------------------------------------------------


def test_an_unknown_suite_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"'mujco'. Did you mean 'mujoco'\?\nSuites: atari"):
        load_suite("mujco")
    with pytest.raises(RefusedError, match="cannot be read"):
        load_suite(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("old", "new", "line", "complaint"),
    [
        ("title:", "titel:", 2, r"unknown key 'titel'. Did you mean 'title'"),
        ("title: A toy\n", "", 1, "title is missing"),
        ("title: A toy", "title:", 2, "title=None has the wrong type"),
        ("suite: toy", "suite: 5", 1, "suite=5 has the wrong type"),
        ("score: return", "score: retrun", 3, "score='retrun' is not known"),
        ("score: return", "score: return\ntarget: 1", 4, "a target needs a scale"),
        ("score: return", "score: normalized\ntarget: 0", 4, "target=0.* is out of range"),
        ("score: return", "score: normalized\ntarget: high", 4, "target='high' has the wrong type"),
        ("score: return", "score: normalized\nreference: atari100k\npublished: retrun", 5,
         r"unknown metric of published numbers 'retrun'. Did you mean 'return'"),
        ("score: return", "score: return\nreference: d4rl", 4,
         r"unknown file of published numbers 'd4rl'. Did you mean 'd4rl_mujoco'"),
        ("steps: 100,", "step: 100,", 5, r"unknown key 'step'. Did you mean 'steps'"),
        ("steps: 100, ", "", 5, r"sizes.smoke.steps is missing"),
        ("steps: 100,", "steps: 0,", 5, "steps=0 is out of range"),
        ("steps: 100,", "steps: 1.5,", 5, "steps=1.5 has the wrong type"),
        ("steps: 100,", "steps: true,", 5, "steps=True has the wrong type"),
        ("seeds: [0, 1]", "seeds: [0, 0]", 5, "seeds has an entry twice"),
        ("seeds: [0, 1]", "seeds: [0, -1]", 5, "seeds=-1 is out of range"),
        ("seeds: [0, 1]", "seeds: 3", 5, "seeds=3 has the wrong type"),
        ("seeds: [0, 1]", "seeds: []", 5, "seeds=.. has the wrong type"),
        ("agents: [ppo]", "agents: [pop]", 6, r"unknown agent 'pop'. Did you mean 'ppo'"),
        ("  bear:", "  bera:", 8, r"unknown agent 'bera'. Did you mean 'bear'"),
        ("{smoke: [cpu, d4rl]}", "{smoek: [cpu]}", 9, r"unknown key 'smoek'"),
        ("{smoke: [cpu, d4rl]}", "[cpu, cpu]", 9, "presets has an entry twice"),
        ("[Hopper-v4]", "[Hoper-v4]", 10, r"unknown environment 'Hoper-v4'"),
        ("[warmup_steps=10]", "[warmup_steps]", 11, "not of the form key=value"),
        ("[warmup_steps=10]", "warmup_steps=10", 11, "wrong type"),
        ("eval_freq: 25, ", "eval_freqs: 25, ", 15, r"unknown key 'eval_freqs'"),
        ("{dataset: {smoke: rlzoo/hopper/medium-1k-v0}}", "{}", 16, "has no dataset in size 'smok"),
        ("rlzoo/hopper/medium-1k-v0", "7", 16, "smoke=7|dataset=7"),
        ("envs:\n  Pendulum-v1: {steps: 300, eval_freq: 25, set: [learning_rate=1e-3]}\n"
         "  Hopper-v4: {dataset: {smoke: rlzoo/hopper/medium-1k-v0}}\n", "envs:\n", 14,
         "'envs' is empty"),
        ("agents:\n  bear", "agents: [bear]\nx:\n  bear", 8, "unknown key 'x'"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_line(
    tmp_path: Path, old: str, new: str, line: int, complaint: str
) -> None:
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(RefusedError, match=complaint) as caught:
        load_suite(file)
    assert str(caught.value).startswith(f"{file}:{line}: ")
    assert len(str(caught.value).splitlines()) <= 3


def test_the_data_of_a_label_find_their_published_numbers() -> None:
    """Of a suite with several data sets per robot, each is compared with its own."""
    suite = load_suite("mujoco")
    for cell in cells(suite, "paper"):
        name, _, data = cell.env.partition("@")
        wanted = f"{name.partition('-')[0].lower()}-{data or 'medium'}-v0"
        published_env = suite.envs[cell.env].published or cell.env
        found = published("mujoco", "bear", published_env, "normalized", cell.dataset)
        if data != "expert":  # nobody printed BEAR's expert rows of D4RL's
            assert found is not None
            assert found.env == wanted
        assert get_recipe(cell.dataset or "").behaviour == (data or "medium")
