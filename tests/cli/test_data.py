"""``rlzoo collect`` and ``rlzoo dataset``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from stable_baselines3.common.save_util import load_from_pkl

from rlzoo.data import Transitions, load_dataset, minari_io
from rlzoo.data.fingerprint import fingerprint
from rlzoo.runs.datasets import home


def printed(out: str, name: str) -> str:
    """The value of a line ``name   value``."""
    return next(line for line in out.splitlines() if line.startswith(name))[len(name) :].strip()


@pytest.fixture
def damaged(hopper_data: Transitions, tmp_path: Path) -> Callable[..., Path]:
    """Return ``make(name, column, row, value) -> path`` of a D4RL file with one wrong value."""

    def make(name: str, column: str, row: int, value: float) -> Path:
        path = tmp_path / f"{name}.hdf5"
        columns = {
            "observations": hopper_data.observations,
            "actions": hopper_data.actions,
            "rewards": hopper_data.rewards,
            "terminals": hopper_data.terminations,
            "timeouts": hopper_data.truncations,
            "next_observations": hopper_data.next_observations,
        }
        with h5py.File(path, "w") as file:
            for key, array in columns.items():
                array = array.copy()
                if key == column:
                    array.reshape(len(array), -1)[row, 0] = value
                file[key] = array
        return path

    return make


def test_collecting_twice_gives_the_same_fingerprint(rlzoo: Callable, small_data: str) -> None:
    stored = load_dataset(small_data)
    exists = rlzoo("collect", small_data)
    assert exists.code == 0
    assert "exists already" in exists.err
    repeated = rlzoo("collect", small_data, "--overwrite")
    assert repeated.code == 0
    assert "exists already" not in repeated.err
    assert {printed(found.out, "fingerprint") for found in (exists, repeated)} == {
        fingerprint(stored)
    }
    assert printed(repeated.out, "size").startswith("1,000 transitions")
    assert not (home() / "collecting").exists() or not any((home() / "collecting").iterdir())


def test_the_size_of_a_recipe_can_be_given_both_ways(rlzoo: Callable) -> None:
    a = rlzoo("collect", "rlzoo/hopper/random-v0", "--size", 300)
    b = rlzoo("collect", "rlzoo/hopper/random-300-v0")
    assert printed(a.out, "data set") == printed(b.out, "data set") == "rlzoo/hopper/random-300-v0"
    assert "exists already" in b.err


def test_collecting_with_a_trained_model_into_a_file(
    rlzoo: Callable, bear_run: Path, tmp_path: Path
) -> None:
    arguments = (
        "collect", "--env", "Hopper-v4", "--policy", bear_run, "--size", 120, "--n-envs", 2,
        "--out", "own.hdf5", "--noise", 0.1,
    )  # fmt: skip
    first = rlzoo(*arguments)
    assert first.code == 0, first.err
    again = rlzoo(*arguments)
    assert again.refused
    assert "own.hdf5 exists already" in again.err
    second = rlzoo(*arguments, "--overwrite")
    assert printed(first.out, "fingerprint") == printed(second.out, "fingerprint")
    data = load_dataset(tmp_path / "own.hdf5")
    assert len(data) == 120
    assert data.env_id == "Hopper-v4"
    assert data.fingerprint == printed(first.out, "fingerprint")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["rlzoo/hopper/medium-v0", "--env"]),
        (["rlzoo/hopper/mediun-v0"], ["rlzoo/hopper/medium-v0"]),
        (["rlzoo/hopper/random-v0", "--seed", "3"], ["--seed", "fixes it"]),
        (["rlzoo/hopper/random-v0", "--size", "0"], ["size=0"]),
        (["--env", "Hopper-v4", "--out", "no-version"], ["no-version"]),
        (["--env", "Hopper-v4", "--out", "../up-v0"], ["../up-v0"]),
        (["--env", "Hopper-v4", "--out", "my/a-v0", "--epsilon", "2"], ["epsilon=2"]),
        (["--env", "Hopper-v4", "--out", "my/a-v0", "--policy", "absent.zip"], ["absent.zip"]),
        (["--env", "Hopper-v4", "--out", "my/a-v0", "--policy", "exprt"], ["'expert'"]),
        (["--env", "Hopper-v4", "--out", "my/a-v0", "--seed", "-1"], ["seed=-1"]),
        (["--env", "Hopper-v4", "--out", "my/a-v0", "--workers", "0"], ["workers=0"]),
    ],
)
def test_what_collect_refuses(rlzoo: Callable, arguments: list[str], words: list[str]) -> None:
    found = rlzoo("collect", *arguments)
    assert found.code == 2
    last = "\n".join(found.err.splitlines()[-3:])
    assert all(word in last for word in words), found.err
    assert not minari_io.exists("my/a-v0")


def test_a_model_for_other_observations_is_refused(rlzoo: Callable, bear_run: Path) -> None:
    found = rlzoo("collect", "--env", "Pendulum-v1", "--policy", bear_run, "--out", "my/p-v0")
    assert found.code == 2
    assert "another observation space" in found.err


def test_list_shows_recipes_and_what_is_here(rlzoo: Callable, small_data: str) -> None:
    found = rlzoo("dataset", "list")
    rows = {line.split()[0]: line for line in found.out.splitlines() if line}
    assert "not collected" in rows["rlzoo/hopper/medium-v0"]
    returns = load_dataset(small_data).return_statistics()
    assert " here " in rows[small_data]
    assert f"{returns['mean']:,.1f} +- {returns['std']:,.1f}" in rows[small_data]


def test_list_shows_sets_of_others(rlzoo: Callable, pendulum_data: Transitions) -> None:
    minari_io.save(pendulum_data, "theirs/pendulum-v3", overwrite=True)
    rows = {line.split()[0]: line for line in rlzoo("dataset", "list").out.splitlines() if line}
    assert "Pendulum-v1" in rows["theirs/pendulum-v3"]
    assert " 200 " in rows["theirs/pendulum-v3"]


def test_check_of_good_data_is_ten_lines_and_exit_0(rlzoo: Callable, small_data: str) -> None:
    found = rlzoo("dataset", "check", small_data)
    assert found.code == 0
    assert printed(found.out, "fingerprint") == load_dataset(small_data).fingerprint
    lines = [line for line in found.out.splitlines() if not line.startswith("unusual")]
    assert len(lines) <= 11
    assert printed(found.out, "size").startswith("1,000 transitions")


def test_check_names_what_is_wrong_and_drop_bad_repairs_it(
    rlzoo: Callable, damaged: Callable, hopper_data: Transitions
) -> None:
    path = damaged("nan", "rewards", 30, np.nan)
    found = rlzoo("dataset", "check", path)
    assert found.code == 2
    assert "rewards are NaN or Inf in 1 rows" in found.out
    assert "(row 30)" in found.out
    repaired = rlzoo("dataset", "check", path, "--drop-bad", "--out", "my/dropped-v0")
    assert repaired.code == 0, repaired.out
    stored = load_dataset("my/dropped-v0")
    assert stored.n_episodes == hopper_data.n_episodes - 1
    assert np.isfinite(stored.rewards).all()


def test_repair_clip_brings_actions_into_their_bounds(rlzoo: Callable, damaged: Callable) -> None:
    path = damaged("wide", "actions", 7, 1.5)
    found = rlzoo("dataset", "check", path)
    assert found.code == 2
    assert "actions are outside of their bounds" in found.out
    assert rlzoo("dataset", "check", path, "--repair", "clip", "--out", "my/clip-v0").code == 0
    assert load_dataset("my/clip-v0").actions[7, 0] == 1.0
    assert rlzoo("dataset", "check", path, "--repair", "squash").refused


def test_drop_bad_alone_does_not_hide_another_fault(rlzoo: Callable, damaged: Callable) -> None:
    assert rlzoo("dataset", "check", damaged("wide", "actions", 7, 1.5), "--drop-bad").code == 2


def test_check_notices_data_that_were_changed_after_they_were_written(
    rlzoo: Callable, pendulum_data: Transitions, minari_store: str
) -> None:
    minari_io.save(pendulum_data, "my/changed-v0", overwrite=True)
    with h5py.File(next(Path(minari_store).glob("my/changed-v0/data/*.hdf5")), "r+") as file:
        file["episode_0/rewards"][3] -= 1.0
    found = rlzoo("dataset", "check", "my/changed-v0")
    assert found.code == 2
    assert "my/changed-v0" in found.err


def test_check_of_nothing_is_refused(rlzoo: Callable) -> None:
    assert rlzoo("dataset", "check", "absent.hdf5").refused
    assert rlzoo("dataset", "check", "my/absent-v0").refused


def test_export_and_import_keep_every_byte(
    rlzoo: Callable, small_data: str, tmp_path: Path
) -> None:
    before = load_dataset(small_data).fingerprint
    assert rlzoo("dataset", "export", small_data, "--to", "a b.hdf5").code == 0
    found = rlzoo("dataset", "import", "a b.hdf5", "--id", "my/imported-v0")
    assert found.code == 0, found.err
    assert printed(found.out, "fingerprint") == before
    assert load_dataset("my/imported-v0").fingerprint == before
    assert rlzoo("dataset", "import", "a b.hdf5", "--id", "my/imported-v0").refused
    assert rlzoo("dataset", "export", small_data, "--to", "a b.hdf5").refused


def test_import_takes_the_environment_of_a_file_of_others(
    rlzoo: Callable, damaged: Callable
) -> None:
    path = damaged("whatever", "none", 0, 0)
    assert rlzoo("dataset", "import", path, "--id", "my/env-v0", "--env", "Hopper-v4").code == 0
    assert load_dataset("my/env-v0").env_id == "Hopper-v4"


def test_export_as_an_sb3_replay_buffer(
    rlzoo: Callable, pendulum_data: Transitions, tmp_path: Path
) -> None:
    whole = replace(pendulum_data, metadata={"id": "my/buffer-v0", "env_id": "Pendulum-v1"})
    minari_io.save(whole, "my/buffer-v0", overwrite=True)
    assert rlzoo("dataset", "export", "my/buffer-v0", "--to", "buffer.pkl").code == 0
    buffer = load_from_pkl(tmp_path / "buffer.pkl")
    assert buffer.size() == len(pendulum_data)
    np.testing.assert_array_equal(buffer.rewards[: buffer.size(), 0], pendulum_data.rewards)
    assert rlzoo("dataset", "export", "my/buffer-v0", "--to", "buffer.csv").refused


def test_a_collection_of_cut_episodes_says_so(rlzoo: Callable) -> None:
    found = rlzoo("collect", "rlzoo/halfcheetah/random-v0", "--size", "160")
    assert found.code == 0
    assert "over 16 cut episodes" in found.out
