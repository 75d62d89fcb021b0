from dataclasses import replace

import h5py
import numpy as np
import pytest
from data_samples import make_transitions

from rlzoo.data import d4rl
from rlzoo.data.validate import DatasetWarning, find_problems
from rlzoo.errors import RefusedError

LIMIT = 7


def recording():
    """Three episodes: terminal at 5, time-out at 7, a tail of 3 rows; row r observes r."""
    row = np.arange(15, dtype=np.float32)
    terminals, timeouts = np.zeros(15, bool), np.zeros(15, bool)
    terminals[4], timeouts[11] = True, True
    following = row + 1
    following[[4, 11, 14]] = [104, 111, 114]  # what the environment really returned there
    return {
        "observations": np.stack([row, -row], axis=1),
        "actions": (row / 20)[:, None],
        "rewards": row * 10,
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": np.stack([following, -following], axis=1),
    }


def write(path, columns, without=()):
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            if key not in without:
                file[key] = values
    return path


def rows(t):
    """(observation, next observation, termination, truncation) per row."""
    return [
        (int(o), int(n), bool(d), bool(c))
        for o, n, d, c in zip(
            t.observations[:, 0],
            t.next_observations[:, 0],
            t.terminations,
            t.truncations,
            strict=True,
        )
    ]


FIRST = [(0, 1, False, False), (1, 2, False, False), (2, 3, False, False), (3, 4, False, False)]
SECOND = [(r, r + 1, False, False) for r in range(5, 10)]
KEPT = [
    *FIRST,
    (4, 104, True, False),
    *SECOND,
    (10, 11, False, False),
    (11, 111, False, True),
    (12, 13, False, False),
    (13, 14, False, False),
    (14, 114, False, True),
]
DROPPED = [
    *FIRST,
    (4, 104, True, False),
    *SECOND,
    (10, 11, False, True),
    (12, 13, False, False),
    (13, 14, False, False),
    (14, 114, False, True),
]
# Without true next observations: the terminal row repeats its own (never used, done = 1), the row
# at the time limit and the last row of the recording are gone.
RECONSTRUCTED = [
    *FIRST,
    (4, 4, True, False),
    *SECOND,
    (10, 11, False, True),
    (12, 13, False, False),
    (13, 14, False, True),
]


@pytest.mark.parametrize(("ends", "expected"), [("keep", KEPT), ("auto", KEPT), ("drop", DROPPED)])
def test_v2_file_gives_exactly_these_rows(tmp_path, ends, expected):
    t = d4rl.load(write(tmp_path / "x.hdf5", recording()), time_limit=LIMIT, ends=ends)
    assert rows(t) == expected
    assert t.metadata["cut_episodes"] == [2]
    np.testing.assert_array_equal(t.rewards, t.observations[:, 0] * 10)
    np.testing.assert_array_equal(t.actions[:, 0], t.observations[:, 0] / np.float32(20))
    assert find_problems(t) == []


@pytest.mark.filterwarnings("ignore:.*next_observations:rlzoo.data.validate.DatasetWarning")
@pytest.mark.parametrize("without", [("timeouts", "next_observations"), ("next_observations",)])
@pytest.mark.parametrize("ends", ["auto", "drop"])
def test_v0_file_gives_exactly_these_rows(tmp_path, without, ends):
    path = write(tmp_path / "x.hdf5", recording(), without)
    if "timeouts" in without:
        with pytest.warns(DatasetWarning, match="no time-out information: steps counted"):
            t = d4rl.load(path, time_limit=LIMIT, ends=ends)
        assert any("steps counted to time_limit=7" in note for note in t.metadata["notes"])
    else:
        with pytest.warns(DatasetWarning, match="no next_observations"):
            t = d4rl.load(path, time_limit=LIMIT, ends=ends)
    assert rows(t) == RECONSTRUCTED
    assert t.episode_lengths.tolist() == [5, 6, 2]
    assert t.metadata["cut_episodes"] == [2]
    assert find_problems(t) == []


def test_keep_needs_true_next_observations(tmp_path):
    path = write(tmp_path / "x.hdf5", recording(), ("next_observations",))
    with pytest.raises(RefusedError, match="no next_observations"):
        d4rl.load(path, time_limit=LIMIT, ends="keep")


@pytest.mark.filterwarnings("ignore::rlzoo.data.validate.DatasetWarning")
@pytest.mark.parametrize("true_next", [True, False])
def test_no_pair_crosses_an_episode(tmp_path, true_next):
    rng = np.random.default_rng(0)
    n = 500
    row = np.arange(n, dtype=np.float32)
    terminals = rng.random(n) < 0.05
    columns = {
        "observations": row[:, None],
        "actions": np.zeros((n, 1), np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": terminals,
    }
    episode = np.zeros(n, int)  # the slow, obvious way to count
    steps, current = 0, 0
    limit = np.zeros(n, bool)
    for i in range(n):
        episode[i], steps = current, steps + 1
        if terminals[i] or steps == 13:
            limit[i] = not terminals[i]
            steps, current = 0, current + 1
    if true_next:
        columns["next_observations"] = row[:, None] + 1000 * (terminals | limit)[:, None] + 1
    t = d4rl.load(write(tmp_path / "x.hdf5", columns), time_limit=13)
    at = t.observations[:, 0].astype(int)
    after = t.next_observations[:, 0].astype(int)
    np.testing.assert_array_equal(t.terminations, terminals[at])
    inside = after < n
    assert (episode[at[inside]] == episode[after[inside]]).all()
    lengths = [int((episode[at] == e).sum()) for e in np.unique(episode[at])]
    assert t.episode_lengths.tolist() == lengths
    kept = np.ones(n, bool) if true_next else ~limit
    if not true_next:
        kept[-1] = terminals[-1]
    np.testing.assert_array_equal(at, np.flatnonzero(kept))


def test_terminal_wins_over_time_out(tmp_path):
    columns = recording()
    columns["timeouts"][4] = True
    with pytest.warns(DatasetWarning, match="terminal and time-out at once"):
        t = d4rl.load(write(tmp_path / "x.hdf5", columns))
    assert rows(t) == KEPT


def test_one_dimensional_flags_and_column_rewards(tmp_path):
    columns = recording()
    columns["rewards"] = columns["rewards"][:, None].astype(np.float64)
    columns["terminals"] = columns["terminals"].astype(np.float32)
    assert rows(d4rl.load(write(tmp_path / "x.hdf5", columns))) == KEPT


def test_environment_is_read_from_the_file_name(tmp_path):
    path = write(tmp_path / "halfcheetah_medium-v2.hdf5", recording())
    t = d4rl.load(path)
    assert t.env_id == "HalfCheetah-v2"
    assert t.dataset_id == "halfcheetah_medium-v2"
    assert d4rl.load(path, env_id="HalfCheetah-v4").env_id == "HalfCheetah-v4"
    assert d4rl.load(write(tmp_path / "x.hdf5", recording())).env_id is None


@pytest.mark.parametrize(
    "t",
    [
        make_transitions(env_id="Hopper-v4", recipe={"seed": 1}, cut_episodes=[1]),
        make_transitions(lengths=(3, 1000, 9), ends=["t", "c", "c"]),
        make_transitions(shape=(16, 16, 3), dtype=np.uint8, discrete=True),
    ],
    ids=["box", "long", "pixels"],
)
def test_round_trip_is_bit_equal(tmp_path, t):
    loaded = d4rl.load(d4rl.save(t, tmp_path / "deep" / "set.hdf5"))
    assert loaded.fingerprint == t.fingerprint
    assert loaded.metadata == t.metadata
    assert loaded.observation_space == t.observation_space
    assert loaded.action_space == t.action_space
    with pytest.raises(RefusedError, match="exists already"):
        d4rl.save(t, tmp_path / "deep" / "set.hdf5")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["set.hdf5"]


def test_written_file_has_the_v2_keys(tmp_path):
    t = make_transitions()
    with h5py.File(d4rl.save(t, tmp_path / "set.hdf5")) as file:
        np.testing.assert_array_equal(file["timeouts"][()], t.truncations)
        np.testing.assert_array_equal(file["terminals"][()], t.terminations)
        np.testing.assert_array_equal(file["next_observations"][()], t.next_observations)


def test_bad_arguments_are_refused(tmp_path):
    path = write(tmp_path / "x.hdf5", recording())
    for options in ({"ends": "maybe"}, {"time_limit": 0}):
        with pytest.raises(RefusedError):
            d4rl.load(path, **options)
    odd = replace(make_transitions(), metadata={"odd": object()})
    with pytest.raises(RefusedError, match="cannot be stored"):
        d4rl.save(odd, tmp_path / "y.hdf5")
    assert not (tmp_path / "y.hdf5").exists()
