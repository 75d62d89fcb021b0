"""Search spaces: what ships is right, what the agent would not take is refused with its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rlzoo.agents.registry import AGENTS, get_agent
from rlzoo.config import resolve
from rlzoo.errors import RefusedError
from rlzoo.tune.locks import JournalLock, cut_half_line, hold
from rlzoo.tune.space import Dimension, _samples, load_space, without


def space_of(tmp_path: Path, text: str, agent: str = "ppo") -> tuple[Dimension, ...]:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return load_space(get_agent(agent), path)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_a_space_that_its_constructor_takes(agent: str) -> None:
    space = load_space(AGENTS[agent])
    assert len(space) >= 5
    for dimension in space:
        for value in _samples(dimension):
            shown = value
            if dimension.kind == "choice":
                shown = json.dumps(value)
            config = resolve(AGENTS[agent], overrides=[dimension.override(shown)])
            name, *inner = dimension.key.split(".")
            found = config.agent_values()[name]
            assert (found[inner[0]] if inner else found) == value
            config.build(action_size=2)


def test_the_three_kinds(tmp_path: Path) -> None:
    space = space_of(
        tmp_path,
        "learning_rate: {type: float, low: 1e-5, high: 1e-2, log: true}\n"
        "agent.n_epochs: {type: int, low: 1, high: 9, step: 2}\n"
        "policy_kwargs.net_arch: {type: choice, values: [[8], {pi: [8], vf: [4]}]}\n"
        "n_envs: {type: choice, values: [1, 4]}\n",
    )
    assert space == (
        Dimension("learning_rate", "float", 1e-5, 1e-2, True),
        Dimension("n_epochs", "int", 1, 9, False, 2),
        Dimension("policy_kwargs.net_arch", "choice",
                  values=("[8]", '{"pi": [8], "vf": [4]}')),
        Dimension("run.n_envs", "choice", values=("1", "4")),
    )  # fmt: skip
    assert space[0].override(0.5) == "learning_rate=0.5"
    assert space[2].override("[8]") == "policy_kwargs.net_arch=[8]"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gama: {type: float, low: 0.1, high: 0.9}", ["gama", "gamma"]),
        ("gamma: {type: float, low: 0.1, high: 1.9}", ["gamma", "[0, 1]"]),
        ("gamma: {type: floot, low: 0.1, high: 0.9}", ["float, int, choice"]),
        ("gamma: 0.9", ["not a dimension"]),
        ("gamma: {type: float, low: 0.1}", ["high", "a number"]),
        ("gamma: {type: float, low: 0.9, high: 0.1}", ["not below"]),
        ("gamma: {type: float, low: 0.1, high: 0.9, lug: true}", ["lug", "log"]),
        ("gamma: {type: float, low: 0, high: 0.9, log: true}", ["above 0"]),
        ("gamma: {type: float, low: 0.1, high: 0.9, log: yes}", ["log", "true, false"]),
        ("gamma: {type: float, low: 0.1, high: 0.9, step: 0}", ["step"]),
        ("gamma: {type: float, low: 0.1, high: .inf}", ["high"]),
        ("gamma: {type: choice, values: []}", ["no list"]),
        ("gamma: {type: choice, values: [0.9, 0.9]}", ["twice"]),
        ("gamma: {type: choice, values: [0.9, much]}", ["much"]),
        ("n_steps: {type: float, low: 1.0, high: 100.0}", ["n_steps", "wrong type"]),
        ("n_steps: {type: int, low: 0, high: 100}", ["n_steps"]),
        ("n_steps: {type: int, low: 1.5, high: 100}", ["an integer"]),
        ("n_steps: {type: int, low: true, high: 100}", ["an integer"]),
        ("policy_kwargs.net_arhc: {type: choice, values: [[8]]}", ["net_arhc", "net_arch"]),
        ("policy_kwargs.net_arch: {type: choice, values: [[0]]}", ["net_arch"]),
        ("run.steps: {type: int, low: 1, high: 10}", ["compared", "n_envs"]),
        ("eval_freq: {type: int, low: 1, high: 10}", ["compared"]),
        ("seed: {type: int, low: 1, high: 10}", ["--seed"]),
        ("agent.clip_range: {type: choice, values: [0.1]}", ["same setting"]),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(
    tmp_path: Path, line: str, words: list[str]
) -> None:
    with pytest.raises(RefusedError) as error:
        space_of(tmp_path, f"clip_range: {{type: choice, values: [0.1, 0.2]}}\n{line}\n")
    text = str(error.value)
    assert f"{tmp_path / 'space.yaml'}:2" in text
    assert len(text.splitlines()) <= 3
    assert all(word in text for word in words), text


def test_what_set_fixes_is_not_searched() -> None:
    space = (Dimension("gamma", "float", 0, 1), Dimension("policy_kwargs.net_arch", "choice"),
             Dimension("run.n_envs", "int", 1, 4))  # fmt: skip
    assert without(space, ["n_steps=5", "learning_rate=1"]) == space
    assert without(space, ["agent.gamma=0.5", "n_envs=2"]) == space[1:2]
    assert without(space, ["policy_kwargs.net_arch=[4]"]) == (space[0], space[2])
    assert without(space, ["policy_kwargs={}"]) == (space[0], space[2])
    assert without(space, ["policy_kwargs.activation_fn=relu"]) == space
    with pytest.raises(RefusedError, match="nothing to search"):
        without(space, ["gamma=0.5", "policy_kwargs={}", "run.n_envs=1"])


# --- locks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"a\nb\n", b"a\nb\n"),
        (b"a\nb", b"a\n"),
        (b"half", b""),
        (b"a\n" + b"x" * 200_000, b"a\n"),
    ],
)
def test_half_a_line_is_cut(tmp_path: Path, before: bytes, after: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(before)
    cut_half_line(path)
    assert path.read_bytes() == after
    cut_half_line(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    first = hold(tmp_path / "x" / "lock")
    assert first is not None
    assert hold(tmp_path / "x" / "lock") is None
    os.close(first)
    second = hold(tmp_path / "x" / "lock")
    assert second is not None
    os.close(second)


def test_the_journal_is_repaired_under_its_lock(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    journal.write_bytes(b'{"a":1}\n{"b"')
    lock = JournalLock(journal)
    lock.acquire()
    assert journal.read_bytes() == b'{"a":1}\n'
    assert hold(tmp_path / "journal.log.lock") is None
    lock.release()
