"""Damaged data sets: every message names the aspect, in at most three lines."""

import json

import h5py
import numpy as np
import pytest
from gymnasium import spaces

from rlzoo.data import Transitions, d4rl, load_dataset, minari_io
from rlzoo.data.validate import DatasetWarning
from rlzoo.errors import RefusedError


def columns(n=60, episode=20):
    rng = np.random.default_rng(0)
    walk = rng.normal(size=(n + n // episode, 3)).astype(np.float32).reshape(-1, episode + 1, 3)
    timeouts = np.zeros(n, bool)
    timeouts[episode - 1 :: episode] = True
    return {
        "observations": walk[:, :-1].reshape(n, 3),
        "actions": rng.uniform(-1, 1, (n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": np.zeros(n, bool),
        "timeouts": timeouts,
        "next_observations": walk[:, 1:].reshape(n, 3),
    }


def write(path, values, without=()):
    with h5py.File(path, "w") as file:
        for key, array in values.items():
            if key not in without:
                file[key] = array
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "set.hdf5", columns())


@pytest.fixture
def minari_set(tmp_path, monkeypatch, file):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    minari_io.save(d4rl.load(file), "test/set-v0")
    return tmp_path / "store/test/set-v0/data"


def refused(source, *words, **options):
    with pytest.raises(RefusedError) as caught:
        load_dataset(source, **options)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert len(message.splitlines()) <= 3
    for word in words:
        assert word in message, message
    return message


def test_the_undamaged_file_loads(file, minari_set):
    assert load_dataset(file).fingerprint == load_dataset("test/set-v0").fingerprint


def test_case_32_file_missing(tmp_path):
    refused(tmp_path / "gone.hdf5", "does not exist", "Download", "rlzoo collect")


def test_case_32_file_empty(tmp_path):
    path = tmp_path / "set.hdf5"
    path.touch()
    refused(path, "is empty (0 bytes)")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"PK\x03\x04" + bytes(100), "not HDF5"),
        (b"\x89HDF", "not HDF5"),
    ],
)
def test_case_32_file_is_not_hdf5(tmp_path, content, words):
    path = tmp_path / "set.hdf5"
    path.write_bytes(content)
    refused(path, words, f"{len(content)} bytes")


def test_case_32_file_half_downloaded_says_sizes(file):
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(file, "is cut short", f"{len(whole) // 2:,} of {len(whole):,} bytes", "Download")


def test_case_32_truncation_anywhere_is_refused(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), 97):
        file.write_bytes(whole[:length])
        refused(file, "set.hdf5")


def test_case_32_a_folder_or_no_d4rl_file(tmp_path):
    (tmp_path / "x.hdf5").mkdir()
    refused(tmp_path / "x.hdf5", "is not a file")
    path = write(tmp_path / "set.hdf5", {"weights": np.zeros(3)})
    refused(path, "no D4RL file", "observations, actions, rewards, terminals missing", "weights")


@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals"])
def test_case_32_key_missing(tmp_path, key):
    refused(write(tmp_path / "set.hdf5", columns(), (key,)), f"{key} missing")


def test_case_32_minari_file_truncated(minari_set):
    path = minari_set / "main_data.hdf5"
    whole = path.read_bytes()
    for length in [0, 1, 100, *range(500, len(whole), len(whole) // 40)]:
        path.write_bytes(whole[:length])
        refused("test/set-v0", "main_data.hdf5")


def test_case_32_minari_metadata_half_written(minari_set):
    path = minari_set / "metadata.json"
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused("test/set-v0", "metadata.json is damaged", f"({length:,} bytes)")
    path.write_text("{}")
    refused("test/set-v0", "metadata.json is damaged: no data_format")
    path.unlink()
    refused("test/set-v0", "metadata.json is missing")


def test_case_32_minari_main_file_or_episode_missing(minari_set):
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        del file["episode_1/rewards"]
    refused("test/set-v0", "episode 1 has no rewards")
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        del file["episode_1"]
    refused("test/set-v0", "episode 1 is missing")
    (minari_set / "main_data.hdf5").unlink()
    refused("test/set-v0", "main_data.hdf5 does not exist")


def test_case_32_minari_totals_do_not_fit(minari_set):
    path = minari_set / "metadata.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "total_steps": 61}))
    refused("test/set-v0", "lengths differ", "61 steps", "60")
    path.write_text(json.dumps({**raw, "observation_space": '{"type": "Odd"}'}))
    refused("test/set-v0", "cannot open it")


def test_case_33_lengths_differ(tmp_path):
    values = columns()
    values["actions"] = values["actions"][:57]
    refused(write(tmp_path / "set.hdf5", values), "lengths differ", "actions 57", "rewards 60")


def test_case_33_lengths_differ_in_minari(minari_set):
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        actions = file["episode_2/actions"][()]
        del file["episode_2/actions"]
        file["episode_2/actions"] = actions[:17]
    refused("test/set-v0", "episode 2", "lengths differ", "17", "20")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observations", np.full((60, 3), b"x")),
        ("actions", np.zeros((60, 2), complex)),
        ("rewards", np.full(60, b"1.0")),
        ("terminals", np.full(60, 0.5)),
        ("timeouts", np.arange(60)),
    ],
)
def test_case_33_wrong_dtype(tmp_path, key, value):
    refused(write(tmp_path / "set.hdf5", {**columns(), key: value}), key, "wrong dtype")


def test_case_33_wrong_dtype_in_minari(minari_set):
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = np.full((21, 3), b"x")
    refused("test/set-v0", "episode 0", "observations of the wrong dtype")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("next_observations", np.zeros((60, 4), np.float32)),
        ("actions", np.zeros((60, 2, 2), np.float32)),
        ("observations", np.zeros(60, np.float32)),
        ("rewards", np.zeros((60, 2), np.float32)),
    ],
)
def test_case_33_wrong_shape(tmp_path, key, value):
    refused(write(tmp_path / "set.hdf5", {**columns(), key: value}), key, "wrong shape")


def test_case_33_wrong_shape_in_minari(minari_set):
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = np.zeros((21, 4), np.float32)
    refused("test/set-v0", "episode 0 has observations of the wrong shape", "(21, 4)", "(21, 3)")


def test_case_33_actions_outside_bounds(tmp_path):
    values = columns()
    values["actions"][[22, 41], 1] = [1.5, -7]
    path = write(tmp_path / "set.hdf5", values)
    refused(
        path, "outside of their bounds", "2 rows", "episode 1, step 2 (row 22)", "--repair clip"
    )
    clipped = load_dataset(path, repair_actions=True)
    assert clipped.actions[[22, 41], 1].tolist() == [1, -1]
    assert "2 of 60 rows" in clipped.metadata["notes"][0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "next_observations"])
def test_case_34_nan_or_inf(tmp_path, key, value):
    values = columns()
    values[key].reshape(60, -1)[45, 0] = value
    path = write(tmp_path / "set.hdf5", values)
    refused(path, f"{key} are NaN or Inf in 1 rows", "episode 2, step 5 (row 45)", "--drop-bad")
    kept = load_dataset(path, drop_bad_episodes=True)
    assert (len(kept), kept.n_episodes) == (40, 2)
    assert kept.metadata["notes"] == ["dropped 1 of 3 episodes (20 rows) with NaN or Inf"]


def test_case_34_nan_in_minari(minari_set):
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        file["episode_1/rewards"][4] = np.nan
    refused("test/set-v0", "rewards are NaN or Inf in 1 rows", "episode 1, step 4 (row 24)")
    assert load_dataset("test/set-v0", drop_bad_episodes=True).n_episodes == 2


def test_case_35_no_time_out_information(tmp_path):
    path = write(tmp_path / "set.hdf5", columns(), ("timeouts",))
    with pytest.warns(DatasetWarning, match="no time-out information"):
        t = load_dataset(path, time_limit=20)
    assert t.truncations.nonzero()[0].tolist() == [19, 39, 59]
    assert t.metadata["notes"] == ["no time-out information: steps counted to time_limit=20"]


def test_case_35_terminal_and_time_out_both_set(tmp_path):
    values = columns()
    values["terminals"][39] = True
    with pytest.warns(DatasetWarning, match="1 rows are terminal and time-out at once"):
        t = load_dataset(write(tmp_path / "set.hdf5", values))
    assert t.terminations.nonzero()[0].tolist() == [39]
    assert t.truncations.nonzero()[0].tolist() == [19, 59]
    assert any("counted as termination" in note for note in t.metadata["notes"])


def test_case_35_both_flags_in_minari(minari_set):
    raw = json.loads((minari_set / "metadata.json").read_text())
    del raw["rlzoo"]  # as if somebody else had written it
    (minari_set / "metadata.json").write_text(json.dumps(raw))
    with h5py.File(minari_set / "main_data.hdf5", "r+") as file:
        file["episode_1/terminations"][19] = True
    with pytest.warns(DatasetWarning, match="counted as termination"):
        t = load_dataset("test/set-v0")
    assert t.terminations.nonzero()[0].tolist() == [39]
    assert not t.truncations[39]


def test_case_35_the_broken_hopper_file_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "hopper_medium_expert.hdf5"
    with h5py.File(path, "w") as file:  # never written, so the file stays small
        for key, shape in (("observations", (11,)), ("actions", (3,)), ("rewards", ())):
            file.create_dataset(key, (1_200_919, *shape), np.float32, chunks=True)
        file.create_dataset("terminals", (1_200_919,), bool, chunks=True)
    message = refused(path, "hopper-medium-expert-v0", "1,200,919", "not medium and expert", "v2")
    assert "rlzoo/hopper/medium-expert-v0" in message


def test_case_36_empty_set(tmp_path):
    values = {key: array[:0] for key, array in columns().items()}
    refused(write(tmp_path / "set.hdf5", values), "is empty")


def test_case_36_too_small_for_batch_or_horizon(file):
    refused(file, "60 transitions are fewer than one batch (256)", batch_size=256)
    refused(file, "longest episode has 20 steps", "horizon (21)", horizon=21)
    load_dataset(file, batch_size=60, horizon=20)


def test_case_36_one_step_episodes(tmp_path):
    values = columns()
    values["terminals"][:] = True
    values["timeouts"][:] = False
    with pytest.warns(DatasetWarning, match="60 episodes have one step"):
        t = load_dataset(write(tmp_path / "set.hdf5", values))
    assert t.n_episodes == 60
    # Nothing is left of them when each is only the row at its time limit.
    values["terminals"][:] = False
    path = write(tmp_path / "other.hdf5", values, ("timeouts", "next_observations"))
    refused(path, "is empty once rows at time limits are dropped", time_limit=1)


def test_case_36_empty_transitions():
    none = np.zeros((0, 3), np.float32)
    box = spaces.Box(-1, 1, (3,))
    flags, start = np.zeros(0, bool), np.zeros(1, np.int64)
    t = Transitions(none, none, none[:, 0], flags, flags, none, start, box, box)
    refused(t, "empty (0 transitions)")
