"""Recipes: ids, sizes, digests, and what a collected one says about itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.data.behaviours import load_behaviour
from rlzoo.data.recipes import (
    RECIPES,
    REPLAY,
    REPLAY_SIZES,
    collect_recipe,
    default_for,
    get_recipe,
    work_folders,
)
from rlzoo.data.transitions import Transitions, concatenate
from rlzoo.data.validate import validate
from rlzoo.errors import RefusedError

SIZES = st.integers(1, 10**9)
make_hopper = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)


def test_the_five_recipes_of_every_robot() -> None:
    assert sorted(RECIPES) == [
        f"rlzoo/{env}/{level}-v0"
        for env in ("halfcheetah", "hopper")
        for level in ("expert", "medium-expert", "medium-replay", "medium", "random")
    ]
    for name, recipe in RECIPES.items():
        assert recipe.id == name
        size = REPLAY_SIZES[recipe.env_id] if recipe.behaviour == REPLAY else 1_000_000
        assert (recipe.size, recipe.seed, recipe.n_envs) == (size, 0, 16)
        assert not recipe.deterministic
        assert get_recipe(name) is recipe
    assert len({recipe.digest() for recipe in RECIPES.values()}) == 10


def test_a_replay_has_the_size_of_the_training_of_its_behaviour() -> None:
    for env_id, size in REPLAY_SIZES.items():
        assert load_behaviour(env_id, "medium").card["steps"] == size
    with pytest.raises(RefusedError, match="no other size than the 90,000 steps"):
        get_recipe("rlzoo/hopper/medium-replay-10k-v0")
    with pytest.raises(RefusedError, match="what a training saw"):
        collect_recipe(get_recipe("rlzoo/hopper/medium-replay-v0"), make_hopper)


def test_a_mixture_is_its_parts_one_behind_the_other(tmp_path: Path) -> None:
    recipe = get_recipe("rlzoo/hopper/medium-expert-v0").with_size(601)
    assert recipe.id == "rlzoo/hopper/medium-expert-601-v0"
    assert get_recipe(recipe.id) == recipe
    told: list[tuple[int, int]] = []
    data = collect_recipe(
        recipe, make_hopper, work_dir=tmp_path, progress=lambda *found: told.append(found)
    )
    medium, expert = (
        collect_recipe(get_recipe(f"rlzoo/hopper/{name}-v0"), make_hopper)
        for name in ("medium-301", "expert-300")
    )
    assert len(data) == 601
    assert told[-1] == (601, 601)
    split = medium.n_episodes
    first = data.select_episodes(list(range(split)))
    second = data.select_episodes(list(range(split, data.n_episodes)))
    assert (first.fingerprint, second.fingerprint) == (medium.fingerprint, expert.fingerprint)
    assert first.metadata["cut_episodes"] == medium.metadata["cut_episodes"]
    assert second.metadata["cut_episodes"] == expert.metadata["cut_episodes"]
    assert validate(data) is data
    assert [part["id"] for part in data.metadata["parts"]] == [
        "rlzoo/hopper/medium-301-v0", "rlzoo/hopper/expert-300-v0",
    ]  # fmt: skip
    assert data.metadata["recipe"] == json.loads(json.dumps(recipe.as_dict()))
    # What was finished is kept until the whole is stored.
    folders = work_folders(recipe, tmp_path)
    assert [folder.name for folder in folders] == ["medium", "expert", tmp_path.name]
    assert all(any(folder.glob("*.npz")) for folder in folders[:2])
    again = collect_recipe(recipe, make_hopper, work_dir=tmp_path)
    assert again.fingerprint == data.fingerprint


def test_a_mixture_needs_a_row_of_every_part() -> None:
    with pytest.raises(RefusedError, match="an integer >= 2"):
        get_recipe("rlzoo/hopper/medium-expert-1-v0")


def test_parts_of_different_spaces_do_not_mix(
    tiny_data: Callable[..., Transitions], hopper_data: Transitions
) -> None:
    with pytest.raises(RefusedError, match="different observation_spaces"):
        concatenate([hopper_data, tiny_data("Pendulum-v1")], {})


def test_sizes_have_readable_ids() -> None:
    medium = get_recipe("rlzoo/hopper/medium-v0")
    assert medium.with_size(100_000).id == "rlzoo/hopper/medium-100k-v0"
    assert medium.with_size(2_000_000).id == "rlzoo/hopper/medium-2m-v0"
    assert medium.with_size(1_234).id == "rlzoo/hopper/medium-1234-v0"
    assert medium.with_size(1_000_000) == medium
    assert medium.with_size(5_000).with_size(1_000_000) == medium
    assert get_recipe("rlzoo/hopper/medium-1000k-v0") == medium


@given(size=SIZES, other=SIZES)
def test_ids_and_sizes_belong_together(size: int, other: int) -> None:
    recipe = RECIPES["rlzoo/halfcheetah/expert-v0"].with_size(size)
    assert recipe.size == size
    assert get_recipe(recipe.id) == recipe
    second = recipe.with_size(other)
    assert (second.id == recipe.id) == (size == other)
    assert (second.digest() == recipe.digest()) == (size == other)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "10"])
def test_impossible_sizes_are_refused(size: object) -> None:
    with pytest.raises(RefusedError, match="size="):
        RECIPES["rlzoo/hopper/random-v0"].with_size(size)


@pytest.mark.parametrize(
    "name",
    ["rlzoo/hoper/medium-v0", "rlzoo/hoper/medium-10k-v0", "hopper/medium-v0", "hopper-medium-v0"],
)
def test_a_misspelt_id_gets_a_suggestion(name: str) -> None:
    with pytest.raises(RefusedError, match=r"Did you mean 'rlzoo/hopper/medium-v0'"):
        get_recipe(name)


@pytest.mark.parametrize("name", ["rlzoo/hopper/medium-0k-v0", "rlzoo/hopper/medium-10g-v0", ""])
def test_other_ids_are_refused(name: str) -> None:
    with pytest.raises(RefusedError, match="no recipe"):
        get_recipe(name)


def test_defaults() -> None:
    assert default_for("Hopper-v4") == "rlzoo/hopper/medium-v0"
    assert default_for("HalfCheetah-v4") == "rlzoo/halfcheetah/medium-v0"
    with pytest.raises(RefusedError, match="Did you mean 'Hopper-v4'"):
        default_for("Hopper-v5")
    with pytest.raises(RefusedError, match="Recipes exist for: Hopper-v4, HalfCheetah-v4"):
        default_for("Qbert")


def test_a_collected_recipe_says_what_it_is() -> None:
    recipe = get_recipe("rlzoo/hopper/random-400-v0")
    data = collect_recipe(recipe, make_hopper)
    facts = json.loads(json.dumps(data.metadata))
    assert len(data) == 400
    assert data.dataset_id == facts["id"] == recipe.id
    assert facts["env_id"] == "Hopper-v4"
    assert facts["recipe"] == recipe.as_dict()
    assert facts["policy"] == {"kind": "random"}
    assert {"python", "numpy", "torch", "gymnasium", "mujoco", "stable_baselines3", "rlzoo"} == {
        *facts["versions"]
    }
    assert facts["cut_episodes"] == [i for i, whole in enumerate(data.complete) if not whole]


def test_one_recipe_gives_one_data_set() -> None:
    small = get_recipe("rlzoo/hopper/random-160-v0")
    first, again = collect_recipe(small, make_hopper), collect_recipe(small, make_hopper)
    assert first.fingerprint == again.fingerprint
    assert first.metadata == again.metadata
