from dataclasses import replace

import numpy as np
import pytest
from data_samples import make_transitions

from rlzoo.data import fingerprint, scores
from rlzoo.data.fingerprint import ARRAYS
from rlzoo.data.inspect import summarise


def test_fingerprint_ignores_metadata_and_memory_layout():
    t = make_transitions()
    assert fingerprint.fingerprint(t) == make_transitions(id="other").fingerprint
    swapped = replace(t, observations=np.asfortranarray(t.observations))
    assert swapped.fingerprint == t.fingerprint
    big_endian = replace(t, rewards=t.rewards.astype(">f4"))
    assert big_endian.fingerprint == t.fingerprint


@pytest.mark.parametrize("name", ARRAYS)
def test_fingerprint_sees_every_array(name):
    t = make_transitions()
    array = getattr(t, name).copy()
    flat = array.reshape(-1)
    flat[-1] = not flat[-1] if array.dtype == np.bool_ else flat[-1] + 1
    assert replace(t, **{name: array}).fingerprint != t.fingerprint


def test_fingerprint_sees_dtype_and_shape():
    t = make_transitions()
    assert replace(t, rewards=t.rewards.view(np.int32)).fingerprint != t.fingerprint
    reshaped = replace(t, actions=t.actions.reshape(2, -1))
    assert reshaped.fingerprint != t.fingerprint


@pytest.mark.parametrize("version", ["v2", "v4", "v5"])
@pytest.mark.parametrize("name", ["HalfCheetah", "Hopper", "Walker2d", "Ant"])
def test_scores_are_0_at_random_and_100_at_expert(name, version):
    random, expert = scores.reference(f"{name}-{version}")
    assert scores.normalized_score(f"{name}-{version}", random) == 0
    assert scores.normalized_score(f"{name}-{version}", expert) == pytest.approx(100)


def test_scores_of_d4rl():
    assert scores.reference("Hopper-v4") == (-20.272305, 3234.3)
    assert scores.normalized_score("Hopper-v4", 1607.013848) == pytest.approx(50)
    assert scores.normalized_score("Pendulum-v1", 1.0) is None
    assert scores.normalized_score(None, 1.0) is None


def test_summary_of_a_valid_set():
    t = make_transitions(lengths=(5, 7, 3), env_id="Hopper-v4", id="x", cut_episodes=[2])
    summary = summarise(t)
    assert summary["transitions"] == 15
    assert summary["episodes"] == 3
    assert summary["complete_episodes"] == 2
    assert summary["terminations"] == 2
    assert summary["truncations"] == 1
    assert summary["fingerprint"] == t.fingerprint
    assert summary["problems"] == []
    assert summary["arrays"]["actions"]["shape"] == [15, 2]
    assert summary["arrays"]["rewards"]["max"] == float(t.rewards.max())
    expected = (t.rewards[:5].sum(dtype=np.float64) + t.rewards[5:12].sum(dtype=np.float64)) / 2
    assert summary["returns"]["mean"] == pytest.approx(expected)
    assert summary["normalized_score"] == scores.normalized_score("Hopper-v4", expected)
    assert sum(summary["return_histogram"]["counts"]) == 2


def test_summary_of_a_broken_set_still_tells():
    t = make_transitions()
    rewards = t.rewards.copy()
    rewards[3] = np.nan
    summary = summarise(replace(t, rewards=rewards))
    assert [p["kind"] for p in summary["problems"]] == ["not_finite"]
    assert summary["arrays"]["rewards"]["not_finite"] == 1
    short = summarise(replace(t, actions=t.actions[:-2]))
    assert short["returns"] is None
    assert short["problems"][0]["kind"] == "lengths"
