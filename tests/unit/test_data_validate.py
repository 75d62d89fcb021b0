from dataclasses import replace

import numpy as np
import pytest
from data_samples import make_transitions
from gymnasium import spaces
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rlzoo.data.validate import (
    DatasetWarning,
    drop_bad,
    find_problems,
    repair,
    validate,
)
from rlzoo.errors import RefusedError


def changed(t, name, index, value):
    array = getattr(t, name).copy()
    array[index] = value
    return replace(t, **{name: array})


def kinds(t, **options):
    return {p.kind for p in find_problems(t, **options)}


@pytest.mark.parametrize(
    "t",
    [
        make_transitions(),
        make_transitions(discrete=True),
        make_transitions(shape=(3, 8, 8), dtype=np.uint8),
        make_transitions(lengths=(2,), ends=["c"]),
    ],
    ids=["box", "discrete", "pixels", "one-episode"],
)
def test_valid_sets_have_no_problems(t):
    assert find_problems(t) == []
    assert validate(t) is t


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (0, "episode 0, step 0 (row 0)"),
        (4, "episode 0, step 4 (row 4)"),
        (5, "episode 1, step 0 (row 5)"),
        (14, "episode 2, step 2 (row 14)"),
    ],
)
def test_place_of_the_first_fault(row, expected):
    t = changed(make_transitions(), "rewards", row, np.nan)
    [problem] = find_problems(t)
    assert (problem.kind, problem.count, problem.first) == ("not_finite", 1, expected)


def test_counts_rows_not_values():
    t = changed(make_transitions(), "observations", slice(2, 4), np.inf)
    problem = next(p for p in find_problems(t) if p.kind == "not_finite")
    assert problem.count == 2
    assert "observations" in problem.message


def test_tolerance_of_action_bounds():
    t = make_transitions()
    assert kinds(changed(t, "actions", (3, 0), 1 + 5e-7)) == set()
    assert kinds(changed(t, "actions", (3, 0), 1 + 5e-6)) == {"action_bounds"}
    assert kinds(changed(make_transitions(discrete=True), "actions", 3, 4)) == {"action_bounds"}
    assert kinds(changed(make_transitions(discrete=True), "actions", 3, -1)) == {"action_bounds"}


def test_unbounded_actions_are_inside():
    t = make_transitions()
    t = replace(t, action_space=spaces.Box(-np.inf, np.inf, (2,)))
    assert find_problems(changed(t, "actions", (3, 0), 1e30)) == []


def test_terminal_wins_when_both_flags_are_set():
    t = changed(make_transitions(), "truncations", 4, True)
    with pytest.warns(DatasetWarning, match="1 rows are termination and truncation at once"):
        repaired = validate(t)
    assert repaired.terminations[4]
    assert not repaired.truncations[4]
    assert any("counted as termination" in note for note in repaired.metadata["notes"])
    assert t.truncations[4]  # the original is left alone


def test_a_linked_time_limit_is_found():
    # The fault of the first BEAR loader: obs[1:] as next observation at a time limit.
    t = make_transitions()
    linked = changed(t, "next_observations", 11, t.observations[12])
    assert kinds(linked) == {"linked_episodes"}


def test_warnings_do_not_refuse():
    single = make_transitions(lengths=(1, 4, 3))
    with pytest.warns(DatasetWarning, match="1 episodes have one step"):
        validate(single)
    constant = replace(make_transitions(), rewards=np.full(15, -1, np.float32))
    with pytest.warns(DatasetWarning, match="all rewards are -1"):
        validate(constant)


def test_duplicate_episodes_are_named():
    t = make_transitions().select_episodes([0, 1, 1, 2])
    [problem] = find_problems(t)
    assert (problem.kind, problem.severity, problem.count) == ("duplicates", "warning", 1)
    assert problem.first.startswith("episode 2, step 0")


def test_batch_and_horizon():
    t = make_transitions()
    assert kinds(t, batch_size=15, horizon=7) == set()
    assert kinds(t, batch_size=16) == {"too_small"}
    assert kinds(t, horizon=8) == {"horizon"}


def test_message_has_at_most_three_lines_and_says_what_to_do():
    t = make_transitions(id="mine")
    t = changed(changed(t, "rewards", 6, np.nan), "actions", 8, 3.0)
    t = changed(changed(t, "observations", 0, np.inf), "terminations", 4, False)
    with pytest.raises(RefusedError) as caught:
        validate(t)
    text = str(caught.value)
    assert len(text.splitlines()) <= 3
    assert "mine" in text
    assert "1 more" in text
    assert "--drop-bad" in text
    assert "--repair clip" in text


def test_repair_clips_and_says_how_many():
    t = changed(make_transitions(), "actions", (slice(2, 4), 0), 1.5)
    t = repair(t, "clip")
    assert find_problems(t) == []
    assert t.actions[2, 0] == 1
    assert t.metadata["notes"] == ["repaired: actions of 2 of 15 rows clipped to their bounds"]
    assert repair(t) is t
    with pytest.raises(RefusedError, match="unknown"):
        repair(t, "guess")


def test_drop_bad_drops_whole_episodes():
    t = make_transitions(lengths=(5, 7, 3), cut_episodes=[2], episode_seeds=[11, 12, 13])
    kept = drop_bad(changed(t, "observations", (6, 1), np.nan))
    assert kept.episode_lengths.tolist() == [5, 3]
    assert kept.metadata["cut_episodes"] == [1]
    assert kept.metadata["episode_seeds"] == [11, 13]
    assert kept.metadata["notes"] == ["dropped 1 of 3 episodes (7 rows) with NaN or Inf"]
    np.testing.assert_array_equal(kept.rewards, np.concatenate([t.rewards[:5], t.rewards[12:]]))
    assert find_problems(kept) == []
    assert drop_bad(t) is t
    with pytest.raises(RefusedError, match="every episode"):
        drop_bad(replace(t, rewards=np.full_like(t.rewards, np.inf)))


# --- one damage, named --------------------------------------------------------------------------

ROWS = ("observations", "actions", "rewards", "terminations", "truncations", "next_observations")
FLOATS = ("observations", "actions", "rewards", "next_observations")


def _shorter(t, draw):
    name = draw(st.sampled_from(ROWS))
    return replace(t, **{name: getattr(t, name)[: draw(st.integers(0, len(t) - 1))]})


def _dtype(t, draw):
    name = draw(st.sampled_from(ROWS))
    return replace(t, **{name: getattr(t, name).astype(np.float64)})


def _shape(t, draw):
    name = draw(st.sampled_from(ROWS))
    return replace(t, **{name: np.stack([getattr(t, name)] * 2, axis=-1)})


def _not_finite(t, draw):
    name, value = draw(st.sampled_from(FLOATS)), draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    array = getattr(t, name).copy()
    array.reshape(-1)[draw(st.integers(0, array.size - 1))] = value
    return replace(t, **{name: array})


def _action(t, draw):
    value = draw(st.floats(1.001, 1e6)) * draw(st.sampled_from([-1, 1]))
    return changed(t, "actions", (draw(st.integers(0, len(t) - 1)), 0), value)


def _open(t, draw):
    last = int(t.episode_starts[draw(st.integers(1, t.n_episodes))]) - 1
    return changed(changed(t, "terminations", last, False), "truncations", last, False)


def _inner(t, draw):
    inside = np.setdiff1d(np.arange(len(t)), t.episode_starts[1:] - 1)
    row = int(draw(st.sampled_from(inside.tolist())))
    return changed(t, draw(st.sampled_from(["terminations", "truncations"])), row, True)


def _both(t, draw):
    last = int(t.episode_starts[draw(st.integers(1, t.n_episodes))]) - 1
    return changed(changed(t, "terminations", last, True), "truncations", last, True)


def _starts(t, draw):
    i = draw(st.integers(0, t.n_episodes))
    return changed(t, "episode_starts", i, draw(st.sampled_from([-1, len(t) + 1])))


def _copy(t, draw):
    i = draw(st.integers(0, t.n_episodes - 1))
    return t.select_episodes([*range(t.n_episodes), i])


def _chain(t, draw):
    inside = np.setdiff1d(np.arange(len(t)), t.episode_starts[1:] - 1)
    row = int(draw(st.sampled_from(inside.tolist())))
    return changed(t, "next_observations", (row, 0), t.next_observations[row, 0] + 1)


def _constant(t, draw):
    return replace(t, rewards=np.full_like(t.rewards, draw(st.floats(-9, 9, width=32))))


DAMAGE = {
    "lengths": _shorter,
    "dtype": _dtype,
    "shape": _shape,
    "not_finite": _not_finite,
    "action_bounds": _action,
    "open_episode": _open,
    "inner_flag": _inner,
    "both_flags": _both,
    "episode_starts": _starts,
    "duplicates": _copy,
    "chain": _chain,
    "constant_rewards": _constant,
}
WARNINGS = {"both_flags", "duplicates", "chain", "constant_rewards"}


@pytest.mark.parametrize("aspect", DAMAGE)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_damage_is_named(aspect, data):
    lengths = data.draw(st.lists(st.integers(2, 9), min_size=1, max_size=5))
    ends = [data.draw(st.sampled_from("tc")) for _ in lengths]
    t = make_transitions(lengths, ends, seed=data.draw(st.integers(0, 99)))
    assume(find_problems(t) == [])
    damaged = DAMAGE[aspect](t, data.draw)
    found = {p.kind: p for p in find_problems(damaged)}
    assert aspect in found
    # Nothing else of weight is claimed.
    errors = {kind for kind, p in found.items() if p.severity == "error"}
    assert errors <= {aspect}
    assert found[aspect].severity == ("warning" if aspect in WARNINGS else "error")
    if aspect not in WARNINGS:
        with pytest.raises(RefusedError):
            validate(damaged)
