"""Recipes: ids, sizes, digests, and what a collected one says about itself."""

from __future__ import annotations

import functools
import json

import gymnasium as gym
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlzoo.data.recipes import RECIPES, collect_recipe, default_for, get_recipe
from rlzoo.errors import RefusedError

SIZES = st.integers(1, 10**9)


def test_the_six_recipes() -> None:
    assert sorted(RECIPES) == [
        f"rlzoo/{env}/{level}-v0"
        for env in ("halfcheetah", "hopper")
        for level in ("expert", "medium", "random")
    ]
    for name, recipe in RECIPES.items():
        assert recipe.id == name
        assert (recipe.size, recipe.seed, recipe.n_envs) == (1_000_000, 0, 16)
        assert not recipe.deterministic
        assert get_recipe(name) is recipe
    assert len({recipe.digest() for recipe in RECIPES.values()}) == 6


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
    make_env = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)
    data = collect_recipe(recipe, make_env)
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
    make_env = functools.partial(gym.make, "Hopper-v4", disable_env_checker=True)
    small = get_recipe("rlzoo/hopper/random-160-v0")
    first, again = collect_recipe(small, make_env), collect_recipe(small, make_env)
    assert first.fingerprint == again.fingerprint
    assert first.metadata == again.metadata
