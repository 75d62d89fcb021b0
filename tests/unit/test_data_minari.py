import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from dataclasses import replace

import h5py
import minari
import numpy as np
import pytest
from data_samples import make_transitions
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from rlzoo.data import minari_io
from rlzoo.data.validate import DatasetWarning
from rlzoo.errors import RefusedError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    root = tmp_path / "store"
    root.mkdir()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    return root


def same(a, b):
    assert a.fingerprint == b.fingerprint
    assert a.observation_space == b.observation_space
    assert a.action_space == b.action_space
    assert a.metadata == b.metadata


@pytest.mark.parametrize(
    "t",
    [
        make_transitions(env_id="Hopper-v4", recipe={"seed": 3, "noise": 0.1}),
        make_transitions(discrete=True),
        make_transitions(shape=(64, 64, 3), dtype=np.uint8, cut_episodes=[2]),
        make_transitions(shape=(4, 40, 40), dtype=np.uint8),
        make_transitions(lengths=(4,), ends=["c"], episode_seeds=[2**63 - 1]),
    ],
    ids=["box", "discrete", "image", "frame-stack", "one-episode"],
)
def test_round_trip_is_bit_equal(t):
    saved = minari_io.save(t, "rlzoo/test/some-set-v0")
    loaded = minari_io.load("rlzoo/test/some-set-v0")
    same(loaded, saved)
    assert loaded.fingerprint == t.fingerprint
    assert loaded.dataset_id == "rlzoo/test/some-set-v0"
    assert minari_io.exists("rlzoo/test/some-set-v0")
    assert minari_io.local_ids() == ["rlzoo/test/some-set-v0"]


def test_rows_that_do_not_follow_each_other_survive():
    t = make_transitions()
    following = t.next_observations.copy()
    following[7] += 1
    t = replace(t, next_observations=following)
    with pytest.warns(DatasetWarning, match="do not lead to the next row"):
        minari_io.save(t, "broken-chain-v0")
    with pytest.warns(DatasetWarning, match="do not lead to the next row"):
        assert minari_io.load("broken-chain-v0").fingerprint == t.fingerprint


def test_plain_minari_reads_it():
    t = make_transitions(env_id="Hopper-v4", episode_seeds=[5, 6, 7])
    minari_io.save(t, "rlzoo/test/plain-v0")
    dataset = minari.load_dataset("rlzoo/test/plain-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 15)
    assert dataset.observation_space == t.observation_space
    assert dataset.env_spec.id == "Hopper-v4"
    for i, episode in enumerate(dataset.iterate_episodes()):
        start, stop = t.episode_starts[i : i + 2]
        np.testing.assert_array_equal(episode.observations[:-1], t.observations[start:stop])
        np.testing.assert_array_equal(episode.observations[1:], t.next_observations[start:stop])
        assert episode.observations.dtype == np.float32
        np.testing.assert_array_equal(episode.actions, t.actions[start:stop])
        np.testing.assert_array_equal(episode.rewards, t.rewards[start:stop])
        np.testing.assert_array_equal(episode.terminations, t.terminations[start:stop])
    seeds = [m["seed"] for m in dataset.storage.get_episode_metadata([0, 1, 2])]
    assert seeds == [5, 6, 7]
    assert "rlzoo/test" in minari.namespace.list_local_namespaces()
    dataset.filter_episodes(lambda episode: len(episode) > 4)


def third_party(dataset_id, episodes, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author, a description …
        return minari.create_dataset_from_buffers(dataset_id, buffer=episodes, **options)


def episode(rng, steps, observations, end):
    flags = np.zeros(steps, bool)
    closed = flags.copy()
    closed[-1] = True
    return EpisodeBuffer(
        seed=int(rng.integers(2**62)),
        observations=observations,
        actions=rng.uniform(-2, 2, (steps, 1)),
        rewards=list(rng.normal(size=steps)),
        terminations=closed if end == "t" else flags,
        truncations=closed if end == "c" else flags,
    )


def test_third_party_float64_set():
    rng = np.random.default_rng(0)
    walks = [rng.normal(size=(n + 1, 3)) for n in (4, 6, 5)]
    buffers = [episode(rng, len(w) - 1, w, e) for w, e in zip(walks, "tc-", strict=True)]
    third_party(
        "other/pendulum/x-v1",
        buffers,
        observation_space=spaces.Box(-np.inf, np.inf, (3,), np.float64),
        action_space=spaces.Box(-2, 2, (1,), np.float64),
        algorithm_name="mine",
    )
    t = minari_io.load("other/pendulum/x-v1")
    assert t.observations.dtype == t.actions.dtype == t.rewards.dtype == np.float32
    assert t.observation_space.dtype == t.action_space.dtype == np.float32
    assert t.episode_lengths.tolist() == [4, 6, 5]
    np.testing.assert_array_equal(t.observations[4:10], walks[1][:-1].astype(np.float32))
    np.testing.assert_array_equal(t.next_observations[4:10], walks[1][1:].astype(np.float32))
    assert t.terminations.nonzero()[0].tolist() == [3]
    assert t.truncations.nonzero()[0].tolist() == [9, 14]
    assert t.metadata["cut_episodes"] == [2]  # it had no flag at all
    assert t.metadata["episode_seeds"] == [b.seed for b in buffers]
    assert t.metadata["algorithm_name"] == "mine"


def test_third_party_jpeg_set_is_read_and_said():
    rng = np.random.default_rng(0)
    frames = np.full((5, 32, 32, 3), 100, np.uint8)
    third_party(
        "jpeg-v0",
        [episode(rng, 4, frames, "t")],
        observation_space=spaces.Box(0, 255, (32, 32, 3), np.uint8),
        action_space=spaces.Box(-2, 2, (1,), np.float64),
    )
    t = minari_io.load("jpeg-v0")
    assert t.observations.shape == (4, 32, 32, 3)
    assert t.observations.dtype == np.uint8
    assert any("JPEG" in note for note in t.metadata["notes"])


def test_third_party_dict_observations_are_refused():
    rng = np.random.default_rng(0)
    observations = {"a": rng.normal(size=(5, 3)), "b": rng.normal(size=(5, 2))}
    third_party(
        "dict-v0",
        [episode(rng, 4, observations, "t")],
        observation_space=spaces.Dict(
            a=spaces.Box(-9, 9, (3,), np.float64), b=spaces.Box(-9, 9, (2,), np.float64)
        ),
        action_space=spaces.Box(-2, 2, (1,), np.float64),
    )
    with pytest.raises(RefusedError, match="Dict observations are not supported"):
        minari_io.load("dict-v0")


@pytest.mark.parametrize(
    "bad",
    [
        "../../x-v0",
        "/etc/x-v0",
        "a/../b-v0",
        "a",
        "a/b",
        "",
        "name/data/x-v0",
        "a b-v0",
        "a\\b-v0",
        "x-v0/",
        "./x-v0",
        "x-v0\n",
    ],
)
def test_unsafe_ids_are_refused(bad, store):
    for action in (
        minari_io.exists,
        minari_io.load,
        lambda i: minari_io.save(make_transitions(), i),
    ):
        with pytest.raises(RefusedError, match="is not a data set id"):
            action(bad)
    assert list(store.iterdir()) == []


def test_an_existing_set_is_not_overwritten_by_accident():
    first, second = make_transitions(seed=1), make_transitions(seed=2)
    minari_io.save(first, "test/set-v0")
    with pytest.raises(RefusedError, match="exists already"):
        minari_io.save(second, "test/set-v0")
    assert minari_io.load("test/set-v0").fingerprint == first.fingerprint
    minari_io.save(second, "test/set-v0", overwrite=True)
    assert minari_io.load("test/set-v0").fingerprint == second.fingerprint


def test_nothing_is_published_when_writing_fails(store):
    with pytest.raises(RefusedError, match="cannot be stored"):
        minari_io.save(make_transitions(odd=object()), "test/set-v0")
    assert minari_io.local_ids() == []
    assert [p for p in store.rglob("*") if p.is_file() and "namespace" not in p.name] == []


def test_invalid_data_are_not_saved():
    t = make_transitions()
    with pytest.raises(RefusedError, match="NaN or Inf"):
        minari_io.save(replace(t, rewards=t.rewards * np.nan), "test/set-v0")
    assert not minari_io.exists("test/set-v0")


def test_a_changed_file_is_noticed(store):
    minari_io.save(make_transitions(), "test/set-v0")
    with h5py.File(store / "test/set-v0/data/main_data.hdf5", "r+") as file:
        file["episode_1/rewards"][2] += 1e-3
    with pytest.raises(RefusedError, match="changed after it was written"):
        minari_io.load("test/set-v0")
    assert len(minari_io.load("test/set-v0", check=False)) == 15


def test_a_missing_set_names_its_neighbours():
    minari_io.save(make_transitions(), "rlzoo/hopper/medium-v0")
    with pytest.raises(RefusedError) as caught:
        minari_io.load("rlzoo/hoper/medium-v0")
    assert "Did you mean 'rlzoo/hopper/medium-v0'?" in str(caught.value)
    assert "rlzoo collect" in str(caught.value)


def test_metadata_with_numpy_values_become_plain():
    t = make_transitions(mean=np.float32(1.5), counts=np.arange(3))
    minari_io.save(t, "test/set-v0")
    metadata = minari_io.load("test/set-v0").metadata
    assert (metadata["mean"], metadata["counts"]) == (1.5, [0, 1, 2])
    raw = json.loads((minari_io._folder("test/set-v0") / "data/metadata.json").read_text())
    assert raw["rlzoo"]["fingerprint"] == t.fingerprint


KILLED = """
    import sys
    sys.path.insert(0, sys.argv[1])
    from data_samples import make_transitions
    from rlzoo.data import minari_io
    t = make_transitions(lengths=(20,) * 60)
    print("ready", flush=True)
    for i in range(10_000):
        minari_io.save(t, f"kill/set-v{i}")
        print(i, flush=True)
"""


def test_a_kill_leaves_whole_sets_only(store):
    for saved in (0, 1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KILLED), os.path.dirname(__file__)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(saved + 1):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ids = minari_io.local_ids()
        assert len(ids) >= saved
        for dataset_id in ids:
            assert minari_io.load(dataset_id).n_episodes == 60
            minari.delete_dataset(dataset_id)
