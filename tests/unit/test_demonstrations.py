"""Names of scripted demonstrations, and the data behind them, in a real task."""

from __future__ import annotations

import json
from pathlib import Path

import minari
import numpy as np
import pytest

from rlzoo.data import goals, minari_io
from rlzoo.data.demonstrations import (
    TASKS,
    parse_scripted,
    scripted_recipe,
    slots_for,
    standard_recipes,
)
from rlzoo.data.recipes import get_recipe
from rlzoo.errors import RefusedError
from rlzoo.runs.datasets import (
    CollectRequest,
    collect_request,
    ensure_dataset,
    ensure_demonstrations,
    list_known,
)
from rlzoo.runs.policies import evaluate_policy_spec

MINI = "rlzoo/MiniFourRooms-v0"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.parametrize("episodes", [1, 20, 100])
@pytest.mark.parametrize("noise", [(0.0, 0.0), (0.1, 0.2), (0.0, 0.4)])
@pytest.mark.parametrize("state_only", [False, True])
def test_a_name_says_everything(
    env_id: str, episodes: int, noise: tuple[float, float], state_only: bool
) -> None:
    recipe = scripted_recipe(env_id, episodes, *noise, state_only)
    assert minari_io.is_id(recipe.id)
    assert parse_scripted(recipe.id) == recipe
    assert get_recipe(recipe.id) == recipe
    assert recipe.size % episodes == 0
    assert episodes % recipe.n_envs == 0


def test_the_forms_of_the_names() -> None:
    assert scripted_recipe("rlzoo/FourRooms-v0").id == "rlzoo/fourrooms/scripted-v0"
    noisy = scripted_recipe("rlzoo/FourRooms-v0", 5, noise=0.1, epsilon=0.2, state_only=True)
    assert noisy.id == "rlzoo/fourrooms/scripted_n10_e20_states-5ep-v0"
    assert (noisy.gaussian_noise, noisy.epsilon, noisy.state_only) == (0.1, 0.2, True)
    assert get_recipe("rlzoo/fourrooms/scripted-20ep-v0").id == "rlzoo/fourrooms/scripted-v0"
    other = scripted_recipe("FetchPickAndPlace-v4", env_kwargs={"max_episode_steps": 50})
    assert other.id.startswith("rlzoo/fetchpickandplace/scripted-x")
    assert other.size == 20 * 50
    assert parse_scripted(other.id) is None
    assert parse_scripted("rlzoo/nowhere/scripted-v0") is None
    assert [slots_for(n) for n in (1, 5, 7, 20, 34, 100)] == [1, 5, 7, 10, 2, 10]
    assert set(standard_recipes()) <= {known.id for known in list_known()}


def test_what_cannot_be_named_is_refused() -> None:
    with pytest.raises(RefusedError, match="no scripted expert for 'Hopper-v4'"):
        scripted_recipe("Hopper-v4")
    with pytest.raises(RefusedError, match="cannot be named"):
        scripted_recipe(MINI, noise=0.123)
    with pytest.raises(RefusedError, match="too few"):
        scripted_recipe(MINI, 0)
    with pytest.raises(RefusedError, match="counted in episodes"):
        scripted_recipe(MINI).with_size(1000)
    with pytest.raises(RefusedError, match="scripted-v0"):
        get_recipe("rlzoo/minifourrooms/scriptd-v0")


def test_an_agent_gets_demonstrations_that_were_not_there() -> None:
    shown = ensure_demonstrations(None, MINI, {})
    assert (len(shown), shown.horizon, shown.env_id) == (20, 100, MINI)
    assert shown.success is not None
    assert shown.success.all()
    ends = np.linalg.norm(shown.achieved_goals[:, -1] - shown.desired_goals, axis=-1)
    assert (ends < 0.5).all()
    assert minari_io.exists("rlzoo/minifourrooms/scripted-v0")
    again = ensure_demonstrations(None, MINI, {"backend": "gymnasium"})
    assert np.array_equal(again.observations, shown.observations)
    with pytest.raises(RefusedError, match="another task"):
        ensure_demonstrations("rlzoo/minifourrooms/scripted-v0", "rlzoo/FourRooms-v0", {})


def test_noise_and_missing_actions_are_in_the_metadata() -> None:
    data = ensure_dataset("rlzoo/minifourrooms/scripted_n10_e30_states-5ep-v0")
    facts = data.metadata["recipe"]
    assert (facts["gaussian_noise"], facts["epsilon"], facts["state_only"]) == (0.1, 0.3, True)
    assert data.metadata[goals.ACTIONS_VALID] is False
    assert not data.actions.any()
    assert len(data.metadata[goals.SUCCESSES]) == 5
    theirs = minari.load_dataset(data.dataset_id)
    assert theirs.total_episodes == 5
    raw = json.loads((Path(theirs.storage.data_path) / "metadata.json").read_text())
    assert raw["rlzoo"]["metadata"]["collection"]["epsilon"] == 0.3


def test_a_request_counts_whole_episodes() -> None:
    request = CollectRequest(MINI, "scripted", "my/demo-v0", noise=0.1, epsilon=0.1, episodes=6)
    data = collect_request(request)
    assert data.episode_lengths.tolist() == [100] * 6
    assert not data.metadata["cut_episodes"]
    with pytest.raises(RefusedError, match="vary in length"):
        collect_request(CollectRequest("Hopper-v4", "random", "my/hopper-v0", episodes=3))
    with pytest.raises(RefusedError, match="out of range"):
        collect_request(CollectRequest(MINI, "random", "my/none-v0", episodes=0))


def test_noise_spoils_the_demonstrations() -> None:
    clean = ensure_dataset("rlzoo/minifourrooms/scripted-v0").metadata[goals.FINAL_SUCCESSES]
    noisy = ensure_dataset("rlzoo/minifourrooms/scripted_n00_e90-v0").metadata
    assert sum(noisy[goals.FINAL_SUCCESSES]) < sum(clean)


def test_the_expert_can_be_evaluated() -> None:
    env_id, found = evaluate_policy_spec("scripted", MINI, episodes=20)
    assert env_id == MINI
    random = evaluate_policy_spec("random", MINI, episodes=20)[1]
    assert found.return_mean > random.return_mean + 20
    with pytest.raises(RefusedError, match="No scripted expert"):
        evaluate_policy_spec("scripted", "Pendulum-v1")
