"""The data set on the device: scaling, ends of episodes, uniform sampling, files."""

import numpy as np
import pytest
import torch as th
from bear_testing import make_bear, make_data
from gymnasium import spaces

from rlzoo.core.dataset_buffer import DatasetBuffer, scale_actions
from rlzoo.errors import RefusedError


def test_actions_are_scaled_from_the_bounds_of_each_dimension():
    space = spaces.Box(np.array([0.0, -2.0], np.float32), np.array([1.0, 6.0], np.float32))
    actions = np.array([[0.25, 0.0], [0.5, 2.0]], np.float32)
    assert scale_actions(actions, space) == pytest.approx(np.array([[-0.5, -0.5], [0, 0]]))


def test_scaled_actions_have_a_finite_atanh_at_the_bounds():
    space = spaces.Box(-0.4, 0.4, (1,))
    scaled = scale_actions(np.array([[-0.4], [0.4], [0.1]], np.float32), space)
    assert np.isfinite(np.arctanh(scaled)).all()
    assert scaled[:, 0] == pytest.approx([-1, 1, 0.25], abs=2e-6)


def test_scaling_is_undone_by_sb3():
    data = make_data(low=-0.4, high=0.4)
    model = make_bear(dataset=data)
    stored = model.replay_buffer.tensors["actions"].numpy()
    assert model.policy.unscale_action(stored) == pytest.approx(data.actions, abs=1e-6)


def test_dones_are_terminations_and_not_time_limits():
    data = make_data()
    dones = DatasetBuffer(data).tensors["dones"].squeeze(-1).numpy()
    assert data.truncations.any()
    assert (dones == data.terminations).all()


def test_rows_stay_together():
    data = make_data(rows=50)
    buffer = DatasetBuffer(data)
    batch = buffer.sample(200)
    rows = [
        int(np.flatnonzero((data.observations == row).all(1))[0])
        for row in batch.observations.numpy()
    ]
    assert (batch.next_observations.numpy() == data.next_observations[rows]).all()
    assert (batch.rewards.squeeze(-1).numpy() == data.rewards[rows]).all()
    assert (batch.dones.squeeze(-1).numpy() == data.terminations[rows]).all()
    assert batch.actions.numpy() == pytest.approx(data.actions[rows], abs=1e-6)
    assert {t.dtype for t in batch[:5]} == {th.float32}


def test_sampling_is_uniform_with_replacement():
    rows, draws = 50, 100_000
    data = make_data(rows=rows, rewards=np.arange(rows, dtype=np.float32))
    th.manual_seed(0)
    drawn = DatasetBuffer(data).sample(draws).rewards.squeeze(-1).long()
    counts = th.bincount(drawn, minlength=rows).double()
    chi_square = ((counts - draws / rows).square() / (draws / rows)).sum().item()
    assert chi_square < 85.4  # 99.9 % quantile with 49 degrees of freedom
    assert counts.min() > 0


def test_sampling_follows_torchs_generator():
    buffer = DatasetBuffer(make_data())
    th.manual_seed(3)
    first = buffer.sample(8)
    second = buffer.sample(8)
    th.manual_seed(3)
    assert th.equal(buffer.sample(8).observations, first.observations)
    assert not th.equal(first.observations, second.observations)


def test_batch_may_be_larger_than_the_data():
    assert DatasetBuffer(make_data(rows=10)).sample(64).observations.shape == (64, 3)


def test_images_are_flattened_to_floats():
    space = spaces.Box(0, 255, (4, 4, 3), np.uint8)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3)).astype(np.uint8)
    data = make_data(
        rows=20, observations=pixels, next_observations=pixels, observation_space=space
    )
    observations = DatasetBuffer(data).tensors["observations"]
    assert observations.shape == (20, 48)
    assert observations.dtype == th.float32
    assert observations.numpy() == pytest.approx(pixels.reshape(20, 48))


def test_read_only_arrays_are_taken_without_a_warning(recwarn):
    data = make_data()
    data.observations.flags.writeable = False
    assert DatasetBuffer(data).tensors["observations"].numpy() == pytest.approx(data.observations)
    assert not recwarn.list


def test_file_gives_the_same_buffer_back(tmp_path):
    data = make_data(low=-0.4, high=0.4)
    buffer = DatasetBuffer(data)
    path = tmp_path / "buffer.npz"
    buffer.save(path)
    other = DatasetBuffer.restore(path, data.observation_space, data.action_space, "cpu")
    assert other.buffer_size == buffer.buffer_size == other.size()
    for name, tensor in buffer.tensors.items():
        assert th.equal(other.tensors[name], tensor)


def test_a_pickle_in_the_file_is_not_loaded(tmp_path):
    data = make_data()
    path = tmp_path / "buffer.npz"
    with path.open("wb") as file:
        np.savez(file, observations=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        DatasetBuffer.restore(path, data.observation_space, data.action_space, "cpu")


def test_adding_is_refused():
    with pytest.raises(RefusedError, match="read-only"):
        DatasetBuffer(make_data()).add(None, None, None, None, None, [])


def test_discrete_actions_are_refused():
    data = make_data(actions=np.zeros(300, np.int64), action_space=spaces.Discrete(3))
    with pytest.raises(RefusedError, match=r"Discrete\(3\)"):
        DatasetBuffer(data)
