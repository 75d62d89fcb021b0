"""What is saved comes back, predicts the same, and goes on training the same."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from rlzoo.core.seeding import seed_everything

from .agents import Subject, assert_same_state, drawn, flat_state, make_vec, state_differs


def observations(model: BaseAlgorithm, n: int = 7) -> Any:
    """Return a fixed batch of observations."""
    return drawn(model, n, 0.5)


def assert_predict_the_same(a: BaseAlgorithm, b: BaseAlgorithm) -> None:
    """Compare actions bit by bit, drawn ones from equal generators."""
    for deterministic in (True, False):
        actions = []
        for model in (a, b):
            seed_everything(11)
            actions.append(model.predict(observations(model), deterministic=deterministic)[0])
        np.testing.assert_array_equal(*actions)


def falling(progress: float) -> float:
    """Learning rate from 1e-3 to 0."""
    return 1e-3 * progress


def go_on(model: BaseAlgorithm, steps: int, start_over: bool = False) -> BaseAlgorithm:
    """Train on from generators and environment in a known state."""
    model.set_random_seed(21)
    model._last_obs = None  # both copies begin an episode
    return model.learn(steps, reset_num_timesteps=start_over)


@pytest.mark.parametrize(
    ("learning_rate", "start_over"), [(1e-3, False), (falling, False), (falling, True)]
)
def test_a_loaded_copy_predicts_and_trains_the_same(
    agent: Subject, tmp_path: Path, learning_rate: Any, start_over: bool
) -> None:
    model = agent.trained(learning_rate=learning_rate)
    model.save(tmp_path / "model")
    # A callable is code: it is given again when it cannot be in the file.
    given = {"custom_objects": {"learning_rate": learning_rate}} if callable(learning_rate) else {}
    loaded = agent.load(tmp_path / "model", env=agent.vec(), **given)
    assert loaded.num_timesteps == model.num_timesteps
    assert loaded._n_updates == model._n_updates
    assert_same_state(model, loaded)
    assert_predict_the_same(model, loaded)

    agent.equip(loaded, model)
    if agent.replays and not agent.spec.needs_data:  # both would write into it
        loaded.save_replay_buffer(tmp_path / "buffer")  # type: ignore[attr-defined]
        loaded.load_replay_buffer(tmp_path / "buffer")  # type: ignore[attr-defined]
    for copy in (model, loaded):
        go_on(copy, agent.steps, start_over)
    assert_same_state(model, loaded)
    assert model.num_timesteps == loaded.num_timesteps == agent.steps * (1 if start_over else 2)


WAYS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "str": (lambda folder: str(folder / "m"), lambda folder: str(folder / "m")),
    "str with suffix": (lambda folder: str(folder / "m.zip"), lambda folder: str(folder / "m")),
    "Path": (lambda folder: folder / "m", lambda folder: folder / "m.zip"),
    "Path with suffix": (lambda folder: folder / "m.zip", lambda folder: folder / "m.zip"),
    "missing folder": (lambda folder: folder / "a/b/m", lambda folder: folder / "a/b/m.zip"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore:Path .* does not exist. Will create it")
def test_paths(agent: Subject, tmp_path: Path, way: str) -> None:
    target, source = WAYS[way]
    model = agent.make()
    model.save(target(tmp_path))
    assert [p.suffix for p in tmp_path.rglob("m*")] == [".zip"]
    assert_same_state(model, agent.load(source(tmp_path)))


def test_open_files(agent: Subject, tmp_path: Path) -> None:
    model, memory = agent.make(), BytesIO()
    model.save(memory)
    memory.seek(0)
    assert_same_state(model, agent.load(memory))
    with (tmp_path / "file").open("wb") as file:
        model.save(file)
        assert not file.closed
    with (tmp_path / "file").open("rb") as file:
        assert_same_state(model, agent.load(file))
        assert not file.closed


def test_a_missing_file_is_a_file_error(agent: Subject, tmp_path: Path) -> None:
    with pytest.raises((FileNotFoundError, ValueError), match="nothing"):
        agent.load(tmp_path / "nothing.zip")


def test_layout_of_the_file(agent: Subject, tmp_path: Path) -> None:
    model = agent.make()
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = set(archive.namelist())
        assert archive.read("_stable_baselines3_version")
    assert {"data", "policy.pth", "pytorch_variables.pth"} <= names
    assert {f"{name}.pth" for name in model.get_parameters()} <= names


def test_a_second_save_replaces_the_first(agent: Subject, tmp_path: Path) -> None:
    model = agent.make()
    model.save(tmp_path / "model")
    model.learn(agent.steps)
    model.save(tmp_path / "model")
    assert_same_state(model, agent.load(tmp_path / "model"))
    assert [p.name for p in tmp_path.iterdir()] == ["model.zip"]


def test_data_environment_and_logger_are_not_saved(agent: Subject, tmp_path: Path) -> None:
    model = agent.trained()
    model.save(tmp_path / "model")
    loaded = agent.load(tmp_path / "model")
    assert loaded.get_env() is None
    assert not hasattr(loaded, "_logger")
    buffer = getattr(loaded, "replay_buffer" if agent.replays else "rollout_buffer")
    assert buffer is None or buffer.size() == 0
    assert (tmp_path / "model.zip").stat().st_size < 200_000


def test_saving_leaves_the_agent_as_it_was(agent: Subject, tmp_path: Path) -> None:
    plain, saved = agent.trained(), agent.trained()
    attributes = set(vars(saved))
    saved.save(tmp_path / "model")
    assert set(vars(saved)) == attributes
    go_on(plain, 20), go_on(saved, 20)
    assert_same_state(plain, saved)


def test_settings_come_back(agent: Subject, tmp_path: Path) -> None:
    model = agent.make(gamma=0.7, seed=5, verbose=0, tensorboard_log="logs", stats_window_size=3)
    model.save(tmp_path / "model")
    loaded = agent.load(tmp_path / "model")
    for name in ("gamma", "seed", "tensorboard_log", "_stats_window_size", "policy_kwargs"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space == model.action_space
    assert loaded.policy_class is model.policy_class


def test_exclude_and_include(agent: Subject, tmp_path: Path) -> None:
    default = agent.cls(agent.row.policy, agent.vec(), device="cpu").gamma  # type: ignore[attr-defined]
    model = agent.make(gamma=0.7)
    model.save(tmp_path / "without", exclude=["gamma"])
    assert agent.load(tmp_path / "without").gamma == default  # type: ignore[attr-defined]
    model.save(tmp_path / "with", exclude=["gamma"], include=["gamma"])
    assert agent.load(tmp_path / "with").gamma == 0.7  # type: ignore[attr-defined]


def test_changes_at_load(agent: Subject, tmp_path: Path) -> None:
    agent.make().save(tmp_path / "model")
    path = tmp_path / "model"
    assert agent.load(path, gamma=0.6).gamma == 0.6  # type: ignore[attr-defined]
    assert agent.load(path, custom_objects={"gamma": 0.5}).gamma == 0.5  # type: ignore[attr-defined]
    same = agent.load(path, policy_kwargs=agent.make().policy_kwargs)
    assert same.policy_kwargs["net_arch"] == [8, 8]
    with pytest.raises(ValueError, match=r"policy.kwargs"):
        agent.load(path, policy_kwargs={"net_arch": [3]})


def test_system_info(agent: Subject, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent.make().save(tmp_path / "model")
    capsys.readouterr()
    agent.load(tmp_path / "model", print_system_info=True)
    printed = capsys.readouterr().out
    assert "== CURRENT" in printed
    assert "== SAVED" in printed


def test_load_without_environment_predicts(agent: Subject, tmp_path: Path) -> None:
    model = agent.trained()
    model.save(tmp_path / "model")
    loaded = agent.load(tmp_path / "model")
    assert loaded.get_env() is None
    assert_predict_the_same(model, loaded)


@pytest.mark.parametrize("n_envs", [1, 3])
def test_load_with_environments(agent: Subject, tmp_path: Path, n_envs: int) -> None:
    agent.trained().save(tmp_path / "model")
    env = agent.vec(n_envs)
    loaded = agent.load(tmp_path / "model", env=env)
    assert loaded.get_env() is env
    assert loaded.n_envs == n_envs
    agent.supply(loaded)
    loaded.learn(agent.steps)
    assert loaded.num_timesteps == agent.steps


def test_load_with_an_environment_of_other_spaces(agent: Subject, tmp_path: Path) -> None:
    agent.make().save(tmp_path / "model")
    with pytest.raises(ValueError, match="space"):
        agent.load(tmp_path / "model", env=make_vec(agent.row.wrong_env_id))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")
def test_compiled_policy_saves_plain_names(agent: Subject, tmp_path: Path) -> None:
    model = agent.make()
    expected = flat_state(model)
    model.policy = th.compile(model.policy)  # type: ignore[assignment]
    assert flat_state(model).keys() == expected.keys()
    model.save(tmp_path / "model")
    assert flat_state(agent.load(tmp_path / "model")).keys() == expected.keys()


# ---------------------------------------------------------------- parameters


def test_get_and_set_parameters(agent: Subject, tmp_path: Path) -> None:
    source, target = agent.trained(seed=1), agent.make(seed=2)
    assert state_differs(source, target)
    target.set_parameters(source.get_parameters(), device="cpu")
    left, right = source.get_parameters(), target.get_parameters()
    assert left.keys() == right.keys()
    assert all(th.equal(v, right["policy"][k]) for k, v in left["policy"].items())
    np.testing.assert_array_equal(
        source.predict(observations(source), deterministic=True)[0],
        target.predict(observations(source), deterministic=True)[0],
    )


def test_set_parameters_from_a_file(agent: Subject, tmp_path: Path) -> None:
    source, target = agent.trained(seed=1), agent.make(seed=2)
    source.save(tmp_path / "model")
    target.set_parameters(str(tmp_path / "model"), device="cpu")
    mine, theirs = source.policy.state_dict(), target.policy.state_dict()
    assert all(th.equal(value, theirs[name]) for name, value in mine.items())


def test_set_parameters_demands_the_right_names(agent: Subject) -> None:
    model = agent.make()
    parameters = model.get_parameters()
    with pytest.raises(ValueError, match="invalid object name"):
        model.set_parameters({**parameters, "no_such_object": {}})
    only_policy = {"policy": parameters["policy"]}
    with pytest.raises(ValueError, match="do not match"):
        model.set_parameters(only_policy)
    model.set_parameters(only_policy, exact_match=False)
    broken = dict(parameters["policy"])
    broken.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        model.set_parameters({**parameters, "policy": broken})


def test_parameters_set_before_training_are_trained_on(agent: Subject) -> None:
    source = agent.trained(seed=1)
    target = agent.make(seed=2)
    target.set_parameters(source.get_parameters(), device="cpu")
    before = flat_state(target)
    target.learn(agent.steps)
    after = flat_state(target)
    assert any(
        not th.equal(value, after[name]) for name, value in before.items() if "policy" in name
    )


# ------------------------------------------------------- policies and buffers


def test_policy_alone(agent: Subject, tmp_path: Path) -> None:
    model = agent.trained()
    model.policy.save(str(tmp_path / "policy"))
    policy = type(model.policy).load(str(tmp_path / "policy"), device="cpu")
    batch = observations(model)
    for deterministic in (True, False):
        seed_everything(3)
        expected, _ = model.predict(batch, deterministic=deterministic)
        seed_everything(3)
        np.testing.assert_array_equal(
            policy.predict(batch, deterministic=deterministic)[0], expected
        )


@pytest.mark.parametrize("as_path", [str, Path])
def test_replay_buffer(agent: Subject, tmp_path: Path, as_path: Callable[[Path], Any]) -> None:
    if not agent.replays:
        pytest.skip("has no replay buffer")
    model = agent.trained()
    path = as_path(tmp_path / "buffer")
    model.save_replay_buffer(path)  # type: ignore[attr-defined]
    other = agent.make(seed=9)
    other.load_replay_buffer(path)  # type: ignore[attr-defined]
    mine, theirs = model.replay_buffer, other.replay_buffer  # type: ignore[attr-defined]
    assert mine.size() == theirs.size() > 0
    batches = []
    for buffer in (mine, theirs):
        seed_everything(4)
        batches.append(buffer.sample(32))
    for left, right in zip(*batches, strict=True):
        assert left is right is None or th.equal(left, right)
    other.learn(agent.steps)


def test_replay_buffer_in_an_open_file(agent: Subject) -> None:
    if not agent.replays:
        pytest.skip("has no replay buffer")
    model, memory = agent.trained(), BytesIO()
    model.save_replay_buffer(memory)  # type: ignore[attr-defined]
    memory.seek(0)
    loaded = agent.make()
    loaded.load_replay_buffer(memory)  # type: ignore[attr-defined]
    assert loaded.replay_buffer.size() == model.replay_buffer.size()  # type: ignore[attr-defined]
