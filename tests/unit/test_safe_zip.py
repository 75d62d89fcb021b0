"""Model files: SB3's format, written by rename, read without unpickling."""

import copy
import io
import json
import logging
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv

from rlzoo.core import portable
from rlzoo.core.model_file import MissingModelError, read_description
from rlzoo.core.safe_zip import SafeSaveMixin, load_model, save_model
from rlzoo.core.seeding import get_states, set_states
from rlzoo.core.spaces_json import decode_space, encode_space, short
from rlzoo.errors import RefusedError

# SB3 says so of its own n-step buffer, whenever a model that has one is loaded.
pytestmark = pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")


def small(**more):
    """Fresh arguments for a tiny model; SB3 writes into ``policy_kwargs``."""
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 3} | more


def off(**more):
    return small(learning_starts=10, buffer_size=200, batch_size=16) | more


NOISE = NormalActionNoise(np.zeros(1), np.ones(1))
MODELS = {
    "sac": (SAC, "Pendulum-v1", off()),
    "sac_fixed_entropy": (SAC, "Pendulum-v1", off(ent_coef=0.1)),
    "sac_sde": (SAC, "Pendulum-v1", off(use_sde=True)),
    "td3": (TD3, "Pendulum-v1", off(action_noise=NOISE)),
    "td3_n_step": (TD3, "Pendulum-v1", off(n_steps=3)),
    "tqc": (TQC, "Pendulum-v1", off()),
    "crossq": (CrossQ, "Pendulum-v1", off()),
    "dqn": (DQN, "CartPole-v1", off()),
    "ppo": (PPO, "CartPole-v1", small(n_steps=32, batch_size=16, n_epochs=2)),
    "ppo_continuous": (PPO, "Pendulum-v1", small(n_steps=32, batch_size=16)),
}


class ExtraTD3(SafeSaveMixin, TD3):
    """An agent with arguments of its own, like the ones of rlzoo."""

    def __init__(self, policy="MlpPolicy", env=None, margin=0.5, bounds=(-5.0, 10.0), **kwargs):
        self.margin, self.bounds = margin, tuple(bounds)
        self.by_step = {1: "one"}
        self.limit = float("inf")
        super().__init__(policy, env, **kwargs)


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory):
    model = build(request.param)
    model.learn(32)
    path = tmp_path_factory.mktemp("model") / "model.zip"
    save_model(model, path)
    return model, path, request.param


def build(name):
    cls, env, kwargs = MODELS[name]
    return cls("MlpPolicy", env, **copy.deepcopy(kwargs))


@pytest.fixture(scope="module")
def td3(tmp_path_factory):
    model = ExtraTD3("MlpPolicy", "Pendulum-v1", margin=0.25, bounds=(-1, 2.5), **off())
    model.learn(20)
    path = tmp_path_factory.mktemp("td3") / "model.zip"
    model.save(path)
    return model, path


def assert_equal(a, b, where=""):
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert a.device == b.device, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}/{i}")
    else:
        assert a == b, where


def state(model):
    variables = {name: getattr(model, name) for name in model._get_torch_save_params()[1]}
    return model.get_parameters(), {k: v.detach() for k, v in variables.items()}


# --- every algorithm ------------------------------------------------------------------------------


def test_weights_optimisers_and_attributes_come_back(trained, caplog):
    model, path, _ = trained
    loaded = load_model(type(model), path, device="cpu")
    assert_equal(state(loaded), state(model))
    assert loaded.observation_space == model.observation_space
    assert loaded.action_space == model.action_space
    attributes = read_description(path)["attributes"]
    assert set(attributes) >= {
        "num_timesteps",
        "_n_updates",
        "_episode_num",
        "gamma",
        "lr_schedule",
    }
    for name in attributes:
        ours, theirs = vars(loaded)[name], vars(model)[name]
        if name == "target_entropy":  # SB3 makes it a float when it loads
            theirs = float(theirs)
        assert portable.encode(ours) == portable.encode(theirs), name
    assert not caplog.records


def test_predicts_identically(trained):
    model, path, _ = trained
    loaded = load_model(None, path, device="cpu")
    assert type(loaded) is type(model)
    observations = np.stack([model.observation_space.sample() for _ in range(5)]).clip(-5, 5)
    for deterministic in (True, False):
        actions = []
        for actor in (model, loaded):
            actor.action_space.seed(0)  # DQN explores with it
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            if model.use_sde:
                actor.policy.reset_noise()
            actions.append(actor.predict(observations, deterministic=deterministic)[0])
        np.testing.assert_array_equal(actions[0], actions[1])


def test_continues_identically(trained):
    model, path, name = trained
    original = build(name).learn(32)  # trained again: the model of the fixture must not change
    assert_equal(state(original), state(model))
    loaded = load_model(type(model), path, device="cpu")
    off_policy = hasattr(model, "replay_buffer")
    before, states, digests = copy.deepcopy(state(model)), get_states(), []
    for learner in (original, loaded):
        learner.set_logger(Logger(None, []))
        if off_policy:
            learner.replay_buffer = model.replay_buffer
        else:
            learner.rollout_buffer = copy.deepcopy(model.rollout_buffer)
        set_states(states)
        learner.train(5, 16) if off_policy else learner.train()
        digests.append((state(learner), learner._n_updates, get_states()))
    assert_equal(digests[1], digests[0])
    changed = digests[0][0][0]["policy"]
    assert any(not torch.equal(before[0]["policy"][k], changed[k]) for k in changed)


def test_stock_sb3_opens_the_file(trained):
    model, path, name = trained
    assert_equal(state(type(model).load(path, device="cpu")), state(model))
    fresh = build(name)
    fresh.set_parameters(path, device="cpu")
    assert_equal(fresh.get_parameters(), model.get_parameters())


def test_learns_on_in_a_new_environment(trained):
    model, path, name = trained
    loaded = load_model(type(model), path, env=gym.make(MODELS[name][1]), device="cpu")
    assert loaded._last_obs is None
    steps = loaded.num_timesteps
    loaded.learn(32, reset_num_timesteps=False)
    assert loaded.num_timesteps == steps + 32


# --- seeds, devices, environments -----------------------------------------------------------------


def test_loading_neither_seeds_nor_advances_the_generators(td3):
    _, path = td3
    states = get_states()
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    loaded = ExtraTD3.load(path, env=env)
    assert get_states() == states
    assert loaded.seed == 3
    assert env._seeds == [None]  # the environment was not seeded either
    ExtraTD3.load(path, env=env, seed=11)
    assert env._seeds == [11]
    assert get_states() != states


def test_force_reset_can_be_turned_off(td3):
    model, path = td3
    loaded = ExtraTD3.load(path, env=gym.make("Pendulum-v1"), force_reset=False)
    np.testing.assert_array_equal(loaded._last_obs, model._last_obs)


def test_absent_device_is_refused(td3):
    with pytest.raises(RefusedError, match="cuda:77"):
        ExtraTD3.load(td3[1], device="cuda:77")


def test_another_number_of_environments(td3):
    env = DummyVecEnv([lambda: gym.make("Pendulum-v1")] * 3)
    loaded = ExtraTD3.load(td3[1], env=env)
    assert loaded.n_envs == 3
    loaded.learn(9)


# --- the mixin ------------------------------------------------------------------------------------


def test_arguments_of_an_agent_come_back(td3):
    loaded = ExtraTD3.load(td3[1])
    assert (loaded.margin, loaded.bounds, loaded.by_step) == (0.25, (-1, 2.5), {1: "one"})
    assert loaded.limit == float("inf")


@pytest.mark.parametrize("suffix", ["", ".zip", ".bin"])
@pytest.mark.parametrize("kind", [str, Path])
def test_paths(td3, tmp_path, suffix, kind):
    model, _ = td3
    path = kind(tmp_path / "new folder" / f"mödel{suffix}")
    model.save(path)
    expected = "mödel.bin" if suffix == ".bin" else "mödel.zip"
    assert [f.name for f in (tmp_path / "new folder").iterdir()] == [expected]
    assert_equal(state(ExtraTD3.load(path)), state(model))


def test_open_files(td3, tmp_path):
    model, _ = td3
    buffer = io.BytesIO()
    model.save(buffer)
    assert_equal(state(ExtraTD3.load(buffer)), state(model))
    assert not buffer.closed
    with open(tmp_path / "x", "wb") as file:
        model.save(file)
    with open(tmp_path / "x", "rb") as file:
        assert_equal(state(ExtraTD3.load(file)), state(model))
        assert_equal(state(ExtraTD3.load(file, trust_pickle=True)), state(model))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model file"):
        ExtraTD3.load(tmp_path / "nothing")
    with pytest.raises(MissingModelError):
        load_model(None, str(tmp_path))


def test_exclude_and_include(td3, tmp_path):
    model, _ = td3
    model.save(tmp_path / "a", exclude=["margin"])
    assert ExtraTD3.load(tmp_path / "a").margin == 0.5  # the default of the constructor
    assert "device" not in read_description(tmp_path / "a")["attributes"]
    model.save(tmp_path / "b", include=["_custom_logger"])
    assert "_custom_logger" in read_description(tmp_path / "b")["attributes"]


def test_keywords_change_attributes(td3):
    assert ExtraTD3.load(td3[1], gamma=0.5).gamma == 0.5
    assert ExtraTD3.load(td3[1], custom_objects={"learning_rate": 0.25}).lr_schedule(1) == 0.25
    with pytest.raises(ValueError, match="policy_kwargs"):
        ExtraTD3.load(td3[1], policy_kwargs={"net_arch": [9]})
    assert ExtraTD3.load(td3[1], policy_kwargs={"net_arch": [8]}).policy_kwargs == {"net_arch": [8]}


def test_a_failing_save_keeps_the_previous_file(td3, tmp_path):
    model, path = td3
    target = tmp_path / "model.zip"
    target.write_bytes(path.read_bytes())
    model.unpicklable = open(path, "rb")  # noqa: SIM115
    try:
        with pytest.raises(TypeError):
            model.save(target)
    finally:
        model.unpicklable.close()
        del model.unpicklable
    assert target.read_bytes() == path.read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["model.zip"]


def test_system_info(td3, capsys):
    ExtraTD3.load(td3[1], print_system_info=True)
    out = capsys.readouterr().out
    assert "== SAVED ==" in out
    assert torch.__version__ in out


def test_a_class_is_found_by_name_in_known_packages_only(td3):
    with pytest.raises(RefusedError, match="ExtraTD3"):
        load_model(None, td3[1])


# --- what JSON cannot hold ------------------------------------------------------------------------


def test_schedules(tmp_path, caplog):
    model = PPO(
        "MlpPolicy",
        "CartPole-v1",
        learning_rate=lambda progress: 0.1 * progress,
        clip_range=LinearSchedule(0.4, 0.1, 0.5),
        clip_range_vf=0.3,
        **small(n_steps=32, batch_size=32),
    )
    model.learn(64)
    model._current_progress_remaining = 0.25
    save_model(model, tmp_path / "m")
    with caplog.at_level(logging.WARNING):
        loaded = load_model(PPO, tmp_path / "m")
    assert len(caplog.records) == 1
    assert "'learning_rate', 'lr_schedule' cannot be stored" in caplog.text
    assert loaded.lr_schedule(1.0) == loaded.lr_schedule(0.0) == pytest.approx(0.025)
    assert [loaded.clip_range(p) for p in (1, 0.9, 0.5, 0)] == [
        model.clip_range(p) for p in (1, 0.9, 0.5, 0)
    ]
    assert loaded.clip_range_vf(0.1) == 0.3
    caplog.clear()
    again = load_model(PPO, tmp_path / "m", custom_objects={
        "learning_rate": lambda p: 0.1 * p, "lr_schedule": None})  # fmt: skip
    assert again.lr_schedule(0.5) == pytest.approx(0.05)
    assert not caplog.records
    save_model(loaded, tmp_path / "again")
    load_model(PPO, tmp_path / "again")
    assert not caplog.records  # a constant now


class Unknown:
    pass


def test_what_is_lost_is_said_once(tmp_path, caplog):
    model = TD3("MlpPolicy", "Pendulum-v1", **off())
    model.mystery = Unknown()
    save_model(model, tmp_path / "m")
    loaded = load_model(TD3, tmp_path / "m")
    assert len(caplog.records) == 1
    assert "'mystery'" in caplog.text
    assert not hasattr(loaded, "mystery")


def test_policy_settings(tmp_path):
    kwargs = {
        "net_arch": {"pi": [4], "qf": [6, 5]},
        "activation_fn": torch.nn.Tanh,
        "optimizer_class": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": 0.01, "betas": (0.8, 0.9)},
    }
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, train_freq=(2, "episode"))
    save_model(model, tmp_path / "m")
    loaded = load_model(SAC, tmp_path / "m")
    assert_equal(state(loaded), state(model))
    assert loaded.policy_kwargs == model.policy_kwargs
    assert loaded.train_freq == model.train_freq
    assert isinstance(loaded.actor.optimizer, torch.optim.AdamW)
    written = read_description(tmp_path / "m")["attributes"]["policy_kwargs"]
    assert written["activation_fn"]["path"] == "torch.nn:Tanh"


class OwnPolicy(TD3.policy_aliases["MlpPolicy"]):
    pass


class OwnActivation(torch.nn.ReLU):
    pass


def test_own_classes_are_asked_for(tmp_path):
    model = TD3(OwnPolicy, "Pendulum-v1", policy_kwargs={"activation_fn": OwnActivation})
    save_model(model, tmp_path / "m")
    with pytest.raises(RefusedError, match="keeps policy_class, policy_kwargs as a pickle only"):
        load_model(TD3, tmp_path / "m")
    own = {"policy_class": OwnPolicy, "policy_kwargs": {"activation_fn": OwnActivation}}
    loaded = load_model(TD3, tmp_path / "m", custom_objects=own)
    assert type(loaded.policy) is OwnPolicy
    assert_equal(state(loaded), state(model))
    assert type(load_model(TD3, tmp_path / "m", trust_pickle=True).policy) is OwnPolicy


@pytest.mark.parametrize(
    "noise",
    [
        NormalActionNoise(np.array([0.1]), np.array([0.2]), np.float64),
        OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1), 0.3, 0.1, np.array([0.7])),
        VectorizedActionNoise(NormalActionNoise(np.zeros(1), np.ones(1)), 2),
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_action_noise(noise):
    found = portable.decode(json.loads(json.dumps(portable.encode(noise))))
    assert type(found) is type(noise)
    draws = []
    for source in (noise, found):
        source.reset()
        np.random.seed(0)  # noqa: NPY002
        draws.append(np.stack([source() for _ in range(5)]))
    np.testing.assert_array_equal(draws[0], draws[1])
    assert draws[0].dtype == draws[1].dtype


def test_dict_observations_and_hindsight_replay(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=True)
    model = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer,
                replay_buffer_kwargs={"n_sampled_goal": 2}, **off())  # fmt: skip
    model.learn(20)
    save_model(model, tmp_path / "m")
    loaded = load_model(SAC, tmp_path / "m", env=env)
    assert_equal(state(loaded), state(model))
    assert loaded.replay_buffer.n_sampled_goal == 2
    loaded.learn(20)


# --- spaces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (11,)),
        spaces.Box(np.array([-1.5, -np.inf]), np.array([np.inf, 0.1]), dtype=np.float64),
        spaces.Box(0, 255, (84, 84, 4), np.uint8),
        spaces.Box(-1, 1, (2, 3), np.float16),
        spaces.Box(-1, 1, ()),
        spaces.Box(-np.inf, np.inf, (2,), np.int32),
        spaces.Box(np.float32(0.1), np.float32(0.3), (2,)),
        spaces.Discrete(4),
        spaces.Discrete(4, start=-2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[1, 1], [0, 0]])),
        spaces.MultiBinary(3),
        spaces.MultiBinary([2, 3]),
        spaces.Dict([("z", spaces.Discrete(2)), ("a", spaces.Box(-1, 1, (2,)))]),
        spaces.Dict(inner=spaces.Dict(x=spaces.MultiBinary(2)), y=spaces.Box(0, 1, (1,))),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (1,))]),
    ],
    ids=short,
)
def test_spaces_come_back_exactly(space):
    found = decode_space(json.loads(json.dumps(encode_space(space), allow_nan=False)))
    assert found == space
    assert type(found) is type(space)
    assert repr(found) == repr(space)
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Box):
        assert found.low.tobytes() == space.low.tobytes()
        assert found.high.tobytes() == space.high.tobytes()
        np.testing.assert_array_equal(found.bounded_below, space.bounded_below)
        np.testing.assert_array_equal(found.bounded_above, space.bounded_above)
    space.seed(3)
    found.seed(3)
    assert str(found.sample()) == str(space.sample())


def test_unknown_spaces_are_not_written():
    with pytest.raises(TypeError, match="observation: Text"):
        encode_space(spaces.Dict(observation=spaces.Text(3)))


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "os:system",
        "subprocess:Popen",
        "builtins:eval",
        "torch.nn:Module.load_state_dict",
        "torch.nn.init:xavier_normal_",
        "stable_baselines3.common.save_util:zipfile",
        "stable_baselines3.common.vec_env.subproc_vec_env:SubprocVecEnv",
        "rlzoo.errors:RefusedError",
        "torch.nnx:ReLU",
        "torch.nn:Nothing",
        "rlzoo.nothing:X",
        ":",
        "",
    ],
)
def test_only_networks_optimisers_buffers_and_algorithms_are_resolved(path):
    with pytest.raises(RefusedError, match="not known here"):
        portable.resolve_class(path)


def test_members_are_those_of_sb3_and_one_more(td3):
    with zipfile.ZipFile(td3[1]) as archive:
        assert archive.namelist() == [
            "data", "pytorch_variables.pth", "policy.pth", "actor.optimizer.pth",
            "critic.optimizer.pth", "_stable_baselines3_version", "system_info.txt", "rlzoo.json",
        ]  # fmt: skip
        description = json.loads(archive.read("rlzoo.json"), parse_constant=pytest.fail)
    assert description["class"] == f"{__name__}:ExtraTD3"
    assert description["policy_alias"] == "MlpPolicy"
    assert description["versions"]["torch"] == torch.__version__
