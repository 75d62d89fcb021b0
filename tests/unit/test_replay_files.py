"""Replay buffers in checkpoints: exact, incremental, and on the disk once."""

import copy
import errno
import os
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import (
    DictReplayBuffer,
    NStepReplayBuffer,
    ReplayBuffer,
    RolloutBuffer,
)
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.core import checkpoint, replay_files
from rlzoo.core.checkpoint import DamagedError, FilePart, Link, NotPublishedError
from rlzoo.core.replay_files import ReplayFiles, check_supported
from rlzoo.errors import RefusedError

BOX = spaces.Box(-1, 1, (3,), np.float64)
DICT = spaces.Dict(
    {
        "image": spaces.Box(0, 255, (2, 4, 4), np.uint8),
        "level": spaces.Discrete(5),
        "speed": spaces.Box(-1, 1, (2,), np.float32),
    }
)


class Prioritised(ReplayBuffer):
    """Stands for a buffer of ours whose priorities change anywhere."""

    rewritten_arrays = ("dones", "largest", "tree")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.priorities = np.zeros(
            (self.buffer_size, self.n_envs), np.float32
        )  # not known: in full
        self.tree = torch.zeros(7)
        self.largest = 1

    def touch(self, generator):
        self.priorities[:] = generator.random(self.priorities.shape)
        self.dones[generator.integers(self.buffer_size)] += 1
        self.tree += 1
        self.largest = float(self.priorities.max())


class TwoRewards(ReplayBuffer):
    """Stands for a buffer of ours with one more array that `add` writes."""

    row_arrays = ("costs",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.costs = np.zeros((self.buffer_size, self.n_envs), np.float64)

    def add(self, obs, next_obs, action, reward, done, infos):
        self.costs[self.pos] = reward * 2
        super().add(obs, next_obs, action, reward, done, infos)


def flip_env(n_envs):
    return DummyVecEnv([lambda: BitFlippingEnv(n_bits=4, continuous=True)] * n_envs)


def make(kind, size=40, n_envs=1):
    options = {"device": "cpu", "n_envs": n_envs}
    size = size * n_envs  # SB3 divides it
    if kind == "her":
        env = flip_env(n_envs)
        return HerReplayBuffer(size, env.observation_space, env.action_space, env, **options)
    if kind == "dict":
        return DictReplayBuffer(size, DICT, spaces.Discrete(3), **options)
    if kind == "image":
        return ReplayBuffer(
            size, spaces.Box(0, 255, (4, 6, 6), np.uint8), spaces.Discrete(4), **options
        )
    if kind == "discrete":
        return ReplayBuffer(size, spaces.Discrete(7), spaces.MultiBinary(3), **options)
    classes = {
        "plain": ReplayBuffer,
        "nstep": NStepReplayBuffer,
        "prioritised": Prioritised,
        "two rewards": TwoRewards,
    }
    return classes[kind](size, BOX, spaces.Box(-1, 1, (2,), np.float32), **options)


KINDS = ["plain", "image", "discrete", "dict", "her", "nstep", "prioritised", "two rewards"]


def draw(space, generator, n_envs):
    if isinstance(space, spaces.Dict):
        return {key: draw(item, generator, n_envs) for key, item in space.items()}
    if isinstance(space, spaces.Discrete):
        return generator.integers(space.n, size=n_envs)
    if space.dtype.kind == "f":
        return generator.standard_normal((n_envs, *space.shape)).astype(space.dtype)
    high = 256 if space.dtype == np.uint8 else 2
    return generator.integers(high, size=(n_envs, *space.shape)).astype(space.dtype)


def add(buffer, count, generator):
    n_envs = buffer.n_envs
    for _ in range(count):
        done = generator.random(n_envs) < 0.2
        buffer.add(
            draw(buffer.observation_space, generator, n_envs),
            draw(buffer.observation_space, generator, n_envs),
            draw(buffer.action_space, generator, n_envs),
            generator.standard_normal(n_envs),
            done,
            [{"TimeLimit.truncated": bool(d and generator.random() < 0.5)} for d in done],
        )
    if isinstance(buffer, Prioritised):
        buffer.touch(generator)


def state(buffer):
    """Everything that there is in a buffer, as copies."""
    found = {name: array.copy() for name, array in replay_files._arrays(buffer)}
    simple = bool | int | float | str
    found |= {key: item for key, item in vars(buffer).items() if isinstance(item, simple)}
    found |= {
        key: item.clone() for key, item in vars(buffer).items() if isinstance(item, torch.Tensor)
    }
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert type(found[name]) is type(value), name
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
            assert found[name].tobytes() == value.tobytes(), name
        elif isinstance(value, torch.Tensor):
            assert torch.equal(found[name], value), name
        else:
            assert found[name] == value, name


def batch(buffer):
    np.random.seed(3)  # noqa: NPY002  (what SB3 samples with)
    tensors = []
    for item in buffer.sample(64):
        tensors += item.values() if isinstance(item, dict) else [item]
    return [tensor for tensor in tensors if tensor is not None]  # discounts, for n steps only


def save(files, folder, step, buffer, added, **options):
    volatile = {k: options.pop(k) for k in ("volatile_from",) if k in options}
    parts, links = files.parts(buffer, added, **volatile)
    path = checkpoint.publish(folder, step, {"n": step, **parts}, links=links, **options)
    files.committed(path)
    return path, parts, links


def written_rows(parts):
    """Rows in the new files."""
    new = [part.arrays() for part in parts.values() if isinstance(part, FilePart)]
    return sum(len(arrays["actions"]) for arrays in new)


def disk_bytes(folder):
    """Bytes on the disk: a file with several names counts once."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({s.st_ino: s.st_size for s in stats}.values())


def buffer_bytes(buffer):
    return sum(array.nbytes for array in replay_files.row_arrays(buffer).values())


# --- exactness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_checkpoint_of_a_buffer_that_wraps_comes_back_exactly(tmp_path, kind, n_envs):
    generator = np.random.default_rng(0)
    buffer, files, added, expected = make(kind, n_envs=n_envs), ReplayFiles(), 0, {}
    for step, count in enumerate([0, 13, 1, 0, 26, 5, 40, 39, 41, 7, 100, 3, 2]):
        add(buffer, count, generator)
        added += count
        save(files, tmp_path, step, buffer, added, keep_last=None)
        expected[step] = state(buffer)
    assert added > 5 * buffer.buffer_size
    for step, wanted in expected.items():
        other = make(kind, n_envs=n_envs)
        ReplayFiles().restore(other, checkpoint.load(tmp_path / f"ckpt-{step}"))
        assert_same(state(other), wanted)
    for found, wanted in zip(batch(other), batch(buffer), strict=True):
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    for continued in (buffer, other):
        add(continued, 17, np.random.default_rng(1))
    assert_same(state(other), state(buffer))


@pytest.mark.parametrize("seed", range(6))
def test_any_sequence_of_events(tmp_path, monkeypatch, seed):
    """Saves that fail, resumes, resets, small files, pruned folders, unfinished episodes."""
    events, generator = random.Random(seed), np.random.default_rng(seed)
    monkeypatch.setattr(replay_files, "MAX_ROWS", events.choice([1, 2, 5, 1000]))
    monkeypatch.setattr(replay_files, "_SMALLEST", events.choice([1, 4, 256]))
    buffer, files, added, kept = make("plain", size=23, n_envs=2), ReplayFiles(), 0, {}
    volatile = None
    for step in range(60):
        count = events.choice([0, 1, 1, 3, 8, 22, 23, 24, 50])
        add(buffer, count, generator)
        added += count
        for row in range(max(added - buffer.size(), volatile or added), added):
            buffer.rewards[row % 23] += 1  # what was said to be volatile does change
        volatile = events.choice([None, max(added - events.randrange(30), 0)])
        event = events.choice(["save"] * 5 + ["fail", "resume", "nothing"])
        if event == "save":
            save(files, tmp_path, step, buffer, added, volatile_from=volatile, keep_last=3)
            kept[step] = (state(buffer), added)
        elif event == "fail":
            files.parts(buffer, added, volatile_from=volatile)
        elif event == "resume" and kept:
            found, _ = checkpoint.latest(tmp_path)
            buffer, files = make("plain", size=23, n_envs=2), ReplayFiles()
            files.restore(buffer, found)
            expected, added = kept[found.step]
            assert_same(state(buffer), expected)
            assert found.parts["replay"]["added"] == added
            volatile = found.parts["replay"]["mark"]["stable"]
    for path in tmp_path.iterdir():
        other = make("plain", size=23, n_envs=2)
        ReplayFiles().restore(other, checkpoint.load(path))
        assert_same(state(other), kept[int(path.name[5:])][0])


def test_chunks_are_safetensors_with_rows_in_order_of_age(tmp_path):
    from safetensors.numpy import load_file

    buffer, files = make("dict", size=10), ReplayFiles()
    add(buffer, 8, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 8)
    add(buffer, 6, np.random.default_rng(1))
    path, _, _ = save(files, tmp_path, 2, buffer, 14)
    first, second = (load_file(path / f"replay-0000000{n}.safetensors") for n in (1, 2))
    assert sorted(first) == sorted(replay_files.row_arrays(buffer))
    assert second["next_observations/image"].dtype == np.uint8
    assert second["rewards"].tolist() == np.roll(buffer.rewards, -4, 0)[3:].tolist()


# --- incremental ----------------------------------------------------------------------------------


def test_only_new_rows_are_written_and_the_others_linked(tmp_path):
    generator = np.random.default_rng(0)
    buffer, files = make("plain", size=1000), ReplayFiles()
    add(buffer, 600, generator)
    _, parts, links = save(files, tmp_path, 1, buffer, 600)
    assert (written_rows(parts), links) == (600, [])
    add(buffer, 100, generator)
    _, parts, links = save(files, tmp_path, 2, buffer, 700)
    assert written_rows(parts) == 101  # the newest row may have been marked as truncated since
    assert [link.name for link in links] == ["replay-00000001"]
    files_1, files_2 = (checkpoint.load(tmp_path / f"ckpt-{n}").files for n in (1, 2))
    assert files_1.keys() == {"replay-00000001"}
    assert files_2.keys() == {"replay-00000001", "replay-00000002"}
    first = files_2["replay-00000001"].stat()
    assert os.path.samestat(first, files_1["replay-00000001"].stat())
    assert first.st_nlink == 2
    # Nothing is lost when the folder that it was written into goes.
    checkpoint.publish(tmp_path, 2000, {}, keep_last=1, protect={"ckpt-2"})
    assert not (tmp_path / "ckpt-1").exists()
    assert files_2["replay-00000001"].stat().st_nlink == 1
    other = make("plain", size=1000)
    ReplayFiles().restore(other, checkpoint.load(tmp_path / "ckpt-2"))
    assert_same(state(other), state(buffer))


def test_ten_checkpoints_take_the_disk_of_one_buffer(tmp_path):
    buffer, files = make("image", size=2000), ReplayFiles()
    for step in range(1, 11):
        add(buffer, 200, np.random.default_rng(step))
        save(files, tmp_path, step, buffer, 200 * step, keep_last=None)
    assert buffer_bytes(buffer) <= disk_bytes(tmp_path) < 1.1 * buffer_bytes(buffer)
    # And what was overwritten goes with the folders that are pruned.
    for step in range(11, 41):
        add(buffer, 200, np.random.default_rng(step))
        path, _, _ = save(files, tmp_path, step, buffer, 200 * step, keep_last=1)
    assert disk_bytes(tmp_path) < 1.25 * buffer_bytes(buffer)
    assert len(list(path.iterdir())) < 15


def test_frequent_checkpoints_do_not_make_a_file_for_every_row(tmp_path):
    buffer, files, rows = make("plain", size=5000), ReplayFiles(), 0
    add(buffer, 5000, np.random.default_rng(0))
    for step in range(100):
        add(buffer, 2, np.random.default_rng(step))
        path, parts, _ = save(files, tmp_path, step, buffer, 5000 + 2 * step + 2, keep_last=1)
        rows = max(rows, written_rows(parts)) if step else 0
    assert len(list(path.iterdir())) < 20
    assert rows < 30


def test_large_buffers_are_cut_into_files_and_written_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_files, "MAX_BYTES", 1 << 20)
    buffer, files = make("plain", size=200_000), ReplayFiles()
    buffer.observations += 1.0
    buffer.full, buffer.pos = True, 1234
    assert buffer_bytes(buffer) == 68 * 200_000
    for work in (
        lambda: save(files, tmp_path, 1, buffer, 201_234),
        lambda: checkpoint.load(tmp_path / "ckpt-1"),
    ):
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20
    assert len(checkpoint.load(tmp_path / "ckpt-1").files) == 13
    other = make("plain", size=200_000)
    ReplayFiles().restore(other, checkpoint.load(tmp_path / "ckpt-1"))
    assert_same(state(other), state(buffer))


def test_small_files_of_a_buffer_of_large_rows_are_not_written_again(tmp_path, monkeypatch):
    """Where a file holds fewer rows than what counts as small, all would be, again and again."""
    monkeypatch.setattr(replay_files, "MAX_ROWS", 10)
    monkeypatch.setattr(replay_files, "_SMALLEST", 4)
    buffer, files = make("plain", size=200), ReplayFiles()
    add(buffer, 200, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 200)
    add(buffer, 2, np.random.default_rng(1))
    _, parts, links = save(files, tmp_path, 2, buffer, 202)
    assert (written_rows(parts), len(links)) == (3, 20)


def test_a_restored_run_links_what_it_restored(tmp_path):
    generator = np.random.default_rng(0)
    buffer, files = make("plain", size=100), ReplayFiles()
    add(buffer, 60, generator)
    save(files, tmp_path, 1, buffer, 60)
    buffer, files = make("plain", size=100), ReplayFiles()
    files.restore(buffer, checkpoint.latest(tmp_path)[0])
    add(buffer, 10, generator)
    path, parts, links = save(files, tmp_path, 2, buffer, 70)
    assert written_rows(parts) == 11
    assert len(links) == 1
    other = make("plain", size=100)
    ReplayFiles().restore(other, checkpoint.load(path))
    assert_same(state(other), state(buffer))


@pytest.mark.parametrize("code", ["EXDEV", "EPERM", "ENOTSUP", "EMLINK"])
def test_without_hard_links_files_are_copied(tmp_path, monkeypatch, code):
    def no_link(*args, **kwargs):
        raise OSError(getattr(errno, code), "no links here")

    monkeypatch.setattr(os, "link", no_link)
    buffer, files = make("plain"), ReplayFiles()
    for step in (1, 2, 3):
        add(buffer, 10, np.random.default_rng(step))
        path, _, links = save(files, tmp_path, step, buffer, 10 * step, keep_last=1)
    assert len(links) == 2
    found = checkpoint.load(path)
    assert {file.stat().st_nlink for file in found.files.values()} == {1}
    other = make("plain")
    ReplayFiles().restore(other, found)
    assert_same(state(other), state(buffer))


def test_other_errors_of_links_are_not_hidden(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    buffer, files = make("plain"), ReplayFiles()
    add(buffer, 10, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 10)
    add(buffer, 10, np.random.default_rng(1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(NotPublishedError, match="No space left"):
            save(files, tmp_path, 2, buffer, 20)
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-1"]
    # The next try gives the rows of both.
    add(buffer, 5, np.random.default_rng(2))
    path, parts, links = save(files, tmp_path, 3, buffer, 25)
    assert (written_rows(parts), len(links)) == (16, 1)
    other = make("plain")
    ReplayFiles().restore(other, checkpoint.load(path))
    assert_same(state(other), state(buffer))


# --- what makes rows change -----------------------------------------------------------------------


def test_volatile_rows_are_written_again(tmp_path):
    buffer, files = make("plain", size=100), ReplayFiles()
    add(buffer, 50, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 50, volatile_from=30)
    before = state(buffer)
    buffer.rewards[30:50] = 7.0
    add(buffer, 5, np.random.default_rng(1))
    _, parts, links = save(files, tmp_path, 2, buffer, 55)
    assert (written_rows(parts), len(links)) == (25, 1)
    add(buffer, 5, np.random.default_rng(2))
    _, parts, links = save(files, tmp_path, 3, buffer, 60, volatile_from=0)
    assert (written_rows(parts), len(links)) == (6, 2)
    for step, expected in ((1, before), (3, state(buffer))):
        other = make("plain", size=100)
        ReplayFiles().restore(other, checkpoint.load(tmp_path / f"ckpt-{step}"))
        assert_same(state(other), expected)
    _, parts, links = save(files, tmp_path, 4, buffer, 60)
    assert (written_rows(parts), len(links)) == (60, 0)


@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer will be truncated")
def test_an_episode_that_is_broken_off_after_a_checkpoint(tmp_path):
    buffer, files = make("her", n_envs=3), ReplayFiles()
    add(buffer, 20, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 20)
    other, resumed = make("her", n_envs=3), ReplayFiles()
    resumed.restore(other, checkpoint.load(tmp_path / "ckpt-1"))
    before = other.dones.copy()
    other.truncate_last_trajectory()
    assert not np.array_equal(before, other.dones)
    add(other, 3, np.random.default_rng(1))
    path, _, links = save(resumed, tmp_path, 2, other, 23)
    assert links
    third = make("her", n_envs=3)
    ReplayFiles().restore(third, checkpoint.load(path))
    assert_same(state(third), state(other))


def reset(buffer):
    buffer.reset()
    add(buffer, 7, np.random.default_rng(1))
    return buffer, 27


def other_buffer(buffer):
    other = copy.deepcopy(buffer)
    other.rewards += 1
    add(other, 5, np.random.default_rng(1))
    return other, 25


def miscounted(buffer):
    add(buffer, 5, np.random.default_rng(1))
    return buffer, 26


def counted_from_the_resume(buffer):
    add(buffer, 5, np.random.default_rng(1))
    return buffer, 5


@pytest.mark.parametrize("change", [reset, other_buffer, miscounted, counted_from_the_resume])
def test_a_buffer_that_does_not_continue_is_written_in_full(tmp_path, change):
    buffer, files = make("plain"), ReplayFiles()
    add(buffer, 20, np.random.default_rng(0))
    save(files, tmp_path, 1, buffer, 20)
    buffer, added = change(buffer)
    path, parts, links = save(files, tmp_path, 2, buffer, added)
    assert (written_rows(parts), links) == (buffer.size(), [])
    other = make("plain")
    ReplayFiles().restore(other, checkpoint.load(path))
    live = slice(0, buffer.size())
    assert other.pos == buffer.pos
    assert np.array_equal(other.rewards[live], buffer.rewards[live])


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_files_that_have_gone_are_written_again(tmp_path, damage):
    buffer, files = make("plain"), ReplayFiles()
    add(buffer, 20, np.random.default_rng(0))
    path, _, _ = save(files, tmp_path, 1, buffer, 20)
    chunk = path / "replay-00000001.safetensors"
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-1])
    else:
        chunk.unlink()
    path, parts, links = save(files, tmp_path, 2, buffer, 20)
    assert (written_rows(parts), links) == (20, [])
    other = make("plain")
    ReplayFiles().restore(other, checkpoint.load(path))
    assert_same(state(other), state(buffer))


# --- refusals -------------------------------------------------------------------------------------


def refused(call, match):
    with pytest.raises(RefusedError, match=match) as caught:
        call()
    assert 2 <= len(str(caught.value).splitlines()) <= 3
    return caught.value


def test_buffers_that_cannot_be_stored_are_refused():
    env = flip_env(1)
    her = HerReplayBuffer(
        9, env.observation_space, env.action_space, env, device="cpu", copy_info_dict=True
    )
    thrifty = ReplayBuffer(
        9, BOX, BOX, "cpu", optimize_memory_usage=True, handle_timeout_termination=False
    )
    refused(lambda: check_supported(her), "HerReplayBuffer with copy_info_dict=True cannot")
    refused(lambda: check_supported(thrifty), "optimize_memory_usage=True cannot")
    refused(lambda: check_supported(RolloutBuffer(9, BOX, BOX, "cpu")), "RolloutBuffer cannot")
    refused(lambda: check_supported(None), "NoneType cannot")
    objects = make("plain")
    objects.extra = np.array([{}])
    refused(lambda: ReplayFiles().parts(objects, 0), "extra of object")
    for kind in KINDS:
        check_supported(make(kind))


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (lambda: make("plain", size=41), "buffer_size 40"),
        (lambda: make("plain", n_envs=2), "n_envs 1"),
        (lambda: make("nstep"), "class ReplayBuffer"),
        (lambda: make("image"), r"observations float64 \[40, 1, 3\]"),
        (
            lambda: ReplayBuffer(
                40, spaces.Box(-1, 1, (3,), np.float32), make("plain").action_space, "cpu"
            ),
            "observations float64",
        ),
    ],
)
def test_another_buffer_is_not_filled(tmp_path, other, match):
    buffer = make("plain")
    add(buffer, 20, np.random.default_rng(0))
    path, _, _ = save(ReplayFiles(), tmp_path, 1, buffer, 20)
    other = other()
    error = refused(lambda: ReplayFiles().restore(other, checkpoint.load(path)), match)
    assert not isinstance(error, DamagedError)
    assert not other.observations.any()
    assert other.size() == 0


def test_a_checkpoint_without_a_buffer(tmp_path):
    path = checkpoint.publish(tmp_path, 1, {"net": {"w": torch.ones(2)}})
    refused(lambda: ReplayFiles().restore(make("plain"), checkpoint.load(path)), "no replay buffer")


@pytest.mark.parametrize(
    "forge",
    [
        lambda state: state["chunks"].pop(0),
        lambda state: state["chunks"].pop(),
        lambda state: state["chunks"].reverse(),
        lambda state: state["chunks"][0].update(first=1),
        lambda state: state["chunks"][1].update(last=29),
        lambda state: state["chunks"][1].update(name="replay-00000009"),
        lambda state: state["mark"].update(pos=41),
        lambda state: state["mark"].update(pos="x"),
        lambda state: state["mark"].update(added=10**9),
        lambda state: state.pop("state"),
    ],
)
def test_a_description_that_does_not_fit_its_files_is_refused(tmp_path, forge):
    buffer, files = make("plain"), ReplayFiles()
    for step in (1, 2):
        add(buffer, 15, np.random.default_rng(step))
        path, _, _ = save(files, tmp_path, step, buffer, 15 * step)
    found = checkpoint.load(path)
    forge(found.parts["replay"])
    other = make("plain")
    with pytest.raises(DamagedError, match="ckpt-2 is damaged: part replay"):
        ReplayFiles().restore(other, found)
    assert other.size() == 0


# --- links in checkpoints -------------------------------------------------------------------------


def test_links_are_parts_like_others(tmp_path):
    arrays = {"x": np.arange(5)}
    first = checkpoint.publish(tmp_path, 1, {"big": FilePart(lambda: arrays)})
    link = checkpoint.linkable(first)["big"]
    assert link == Link("big", first / "big.safetensors", link.path.stat().st_size, link.sha256)
    second = checkpoint.publish(tmp_path, 2, {"a": 1}, links=[link], keep_last=1)
    found = checkpoint.load(second)
    assert (found.parts, found.files) == ({"a": 1}, {"big": second / "big.safetensors"})
    link = checkpoint.linkable(second)["big"]
    again = checkpoint.publish(tmp_path, 2, {"a": 2}, links=[link])  # replaces its own source
    assert checkpoint.load(again).files == found.files
    with pytest.raises(ValueError, match="Two parts have the name 'big'"):
        checkpoint.publish(tmp_path, 3, {"big": 1}, links=[link])
    with pytest.raises(NotPublishedError):
        checkpoint.publish(tmp_path, 3, {}, links=[Link("x", Path("/none"), 1, "")])
    with pytest.raises(NotPublishedError, match="changed after"):
        checkpoint.publish(tmp_path, 3, {}, links=[Link("x", link.path, 1, link.sha256)])
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt-2"]


def test_large_files_are_verified_without_reading_them_into_memory(tmp_path):
    path = checkpoint.publish(tmp_path, 1, {"big": FilePart(lambda: {"x": np.zeros(1 << 20)})})
    tracemalloc.start()
    checkpoint.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_committed_needs_parts():
    with pytest.raises(ValueError, match="Nothing was handed out"):
        ReplayFiles().committed("anywhere")
