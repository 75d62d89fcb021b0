"""Every constructor argument of BEAR reaches its place: changing it shows."""

import copy
import inspect
from functools import cache

import gymnasium as gym
import pytest
import torch as th
from bear_testing import SMALL, changed, equal, make_bear, make_data, parameters_of

from rlzoo.agents.bear import BEAR, MlpPolicy
from rlzoo.core import offline_update as module
from rlzoo.errors import RefusedError


class OtherPolicy(MlpPolicy):
    """A policy class of the user's own."""


@cache
def trained(**changes):
    """Parameters after three updates, the first of them in the warm start."""
    return parameters_of(make_bear(**({"warmup_steps": 1} | changes)).learn(3))


def learns_differently(*expected, **changes):
    """A check that three updates with the changed argument end elsewhere in these parts."""

    def check(_):
        assert set(expected) <= changed(trained(), trained(**changes))

    return check


def check_policy(_):
    assert type(make_bear(policy=OtherPolicy).policy) is OtherPolicy


def check_env(_):
    model = BEAR(env=gym.make("Pendulum-v1"), device="cpu", policy_kwargs=dict(SMALL))
    assert model.get_env().num_envs == 1
    assert model.predict(model.get_env().reset())[0].shape == (1, 1)


def check_dataset(_):
    other = trained(dataset=make_data(seed=9))
    assert changed(trained(), other) >= {"actor", "critic", "behavior"}


def check_learning_rate(_):
    assert changed(trained(), trained(learning_rate=1e-2)) >= {"critic"}
    # A schedule scales the other rates as well.
    model = make_bear(learning_rate=lambda progress: 1e-3 * (1 + progress))
    model.learn(4)
    rates = {name: o.param_groups[0]["lr"] for name, o in model._optimizers().items()}
    fraction = (1 + 0.25) / 2
    assert rates["critic"] == pytest.approx(2e-3 * fraction)
    assert rates["actor"] == pytest.approx(1e-4 * fraction)
    assert rates["behavior"] == pytest.approx(3e-4 * fraction)
    assert rates["alpha"] == pytest.approx(1e-3 * fraction)


def check_rate_of(part):
    def check(name):
        model = make_bear(**{name: 0.0123}).learn(1)
        rates = {n: o.param_groups[0]["lr"] for n, o in model._optimizers().items()}
        assert rates.pop(part) == 0.0123
        assert 0.0123 not in rates.values()

    return check


def check_log_alpha_init(_):
    assert make_bear(log_alpha_init=2.5).log_alpha.item() == 2.5
    draws = {make_bear(log_alpha_init="normal", seed=s).log_alpha.item() for s in (1, 1, 2)}
    assert len(draws) == 2


def check_log_alpha_bounds(_):
    assert make_bear(log_alpha_bounds=(-5, 5e-4)).learn(3).log_alpha.item() == pytest.approx(5e-4)


def check_capture(_):
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "wants_cuda_graph", lambda c, _: asked.append(c) or False)
        make_bear(capture=False).learn(1)
    assert set(asked) == {False}


def check_policy_kwargs(_):
    model = make_bear(policy_kwargs={**SMALL, "net_arch": [7]})
    assert model.actor.network[0].out_features == 7


def check_stats_window_size(_):
    assert make_bear(stats_window_size=7).learn(1).ep_info_buffer.maxlen == 7


def check_tensorboard_log(_, tmp_path):
    make_bear(tensorboard_log=str(tmp_path)).learn(2)
    assert list(tmp_path.glob("BEAR_1/events.out.tfevents*"))


def check_verbose(_, capsys):
    make_bear(verbose=1).learn(2, log_interval=1)
    assert "critic_loss" in capsys.readouterr().out
    make_bear(verbose=0).learn(2, log_interval=1)
    assert capsys.readouterr().out == ""


def check_device(_):
    assert make_bear(device="cpu").device == th.device("cpu")
    with pytest.raises(RefusedError, match="cuda:99"):
        make_bear(device="cuda:99")


def check_init(_):
    assert not hasattr(make_bear(_init_setup_model=False), "actor")


CASES = {
    "policy": check_policy,
    "env": check_env,
    "dataset": check_dataset,
    "learning_rate": check_learning_rate,
    "actor_learning_rate": check_rate_of("actor"),
    "behavior_learning_rate": check_rate_of("behavior"),
    "alpha_learning_rate": check_rate_of("alpha"),
    "batch_size": learns_differently("actor", "critic", "behavior", batch_size=31),
    "tau": learns_differently("critic_target", tau=0.5),
    "gamma": learns_differently("critic", gamma=0.5),
    "distance": learns_differently("actor", distance="kl"),
    "kernel": learns_differently("actor", kernel="gaussian"),
    "sigma": learns_differently("actor", sigma=1.0),
    "threshold": learns_differently("log_alpha", threshold=3.0),
    "n_mmd_samples": learns_differently("actor", n_mmd_samples=6),
    "mmd_estimator": learns_differently("actor", mmd_estimator="u"),
    "alpha": learns_differently("actor", "log_alpha", alpha=5.0),
    "log_alpha_init": check_log_alpha_init,
    "log_alpha_bounds": check_log_alpha_bounds,
    "dual": learns_differently("log_alpha", dual="linear"),
    "warmup_steps": learns_differently("actor", warmup_steps=2),
    "n_target_samples": learns_differently("critic", n_target_samples=3),
    "target_mix": learns_differently("critic", target_mix=0.2),
    "n_q_samples": learns_differently("actor", n_q_samples=3),
    "sequential_updates": learns_differently("actor", sequential_updates=True),
    "use_target_actor": learns_differently("critic", use_target_actor=True),
    "actor_noise_clip": learns_differently("actor", "critic", actor_noise_clip=0.1),
    "bf16": learns_differently("actor", "critic", bf16=True),
    "capture": check_capture,
    "policy_kwargs": check_policy_kwargs,
    "stats_window_size": check_stats_window_size,
    "tensorboard_log": check_tensorboard_log,
    "verbose": check_verbose,
    "seed": learns_differently("actor", "critic", "behavior", seed=2),
    "device": check_device,
    "_init_setup_model": check_init,
}


def test_every_argument_has_a_case():
    assert set(CASES) == set(inspect.signature(BEAR.__init__).parameters) - {"self"}


@pytest.mark.parametrize("name", CASES)
def test_argument_reaches_its_place(name, request):
    check = CASES[name]
    wanted = list(inspect.signature(check).parameters)[1:]
    check(name, *(request.getfixturevalue(fixture) for fixture in wanted))


def test_equal_arguments_learn_equally():
    """Without this the cases above would pass on noise."""
    assert equal(trained(), parameters_of(make_bear(warmup_steps=1).learn(3)))


def widths_of_critics(model):
    return [layer.weight.shape[2] for layer in model.critic.stacked]


def log_std_of(model):
    return model.actor(th.zeros(1, 3))[1].log().flatten().tolist()


POLICY_CASES = {
    "net_arch": ([7, 5], lambda m: widths_of_critics(m) == [7, 5, 1]),
    "vae_arch": ([9], lambda m: m.behavior.encoder[0].out_features == 9),
    "n_critics": (3, lambda m: m.critic.n_stack == m.critic_target.n_stack == 3),
    "behavior": ("gaussian", lambda m: type(m.behavior).__name__ == "GaussianBehavior"),
    "log_std_bounds": ([-1.0, -1.0], lambda m: log_std_of(m) == pytest.approx([-1, -1])),
    "n_eval_samples": (13, lambda m: m.policy.eval_noise.shape == (13, 2)),
    "acting": ("mean", lambda m: m.policy.acting == "mean"),  # its effect: test_bear_acting
}


def test_every_policy_argument_has_a_case():
    plumbing = {"self", "observation_space", "action_space", "lr_schedule", "target_actor"}
    assert set(POLICY_CASES) == set(inspect.signature(MlpPolicy.__init__).parameters) - plumbing


@pytest.mark.parametrize("name", POLICY_CASES)
def test_policy_argument_reaches_its_place(name):
    value, holds = POLICY_CASES[name]
    assert not holds(make_bear())
    assert holds(make_bear(policy_kwargs={**SMALL, name: value}).learn(1))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 1.5}, r"BEAR: gamma=1.5 is out of range.\nAllowed: \[0, 1\]."),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"tau": -0.1}, "tau=-0.1"),
        ({"batch_size": 0}, r"batch_size=0 is out of range.\nAllowed: \[1, inf\)."),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"actor_learning_rate": -1e-3}, "actor_learning_rate=-0.001"),
        ({"behavior_learning_rate": 0}, "behavior_learning_rate=0"),
        ({"alpha_learning_rate": 0}, "alpha_learning_rate=0"),
        ({"sigma": 0}, "sigma=0"),
        ({"sigma": "mediam"}, "sigma='mediam' is not known"),
        ({"n_mmd_samples": 1}, r"n_mmd_samples=1 is out of range.\nAllowed: \[2, inf\)."),
        ({"alpha": -1}, "alpha=-1"),
        ({"alpha": "Auto"}, "alpha='Auto' is not known"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"n_target_samples": 0}, "n_target_samples=0"),
        ({"target_mix": 2}, "target_mix=2"),
        ({"n_q_samples": 0}, "n_q_samples=0"),
        ({"n_q_samples": 5}, "n_q_samples=5 is more than n_mmd_samples"),
        ({"actor_noise_clip": 0}, "actor_noise_clip=0"),
        ({"stats_window_size": 0}, "stats_window_size=0"),
        ({"distance": "mdd"}, "distance='mdd' is not known.\nAllowed: 'mmd', 'kl'."),
        ({"kernel": "gauss"}, "kernel='gauss' is not known"),
        ({"mmd_estimator": "V"}, "mmd_estimator='V' is not known"),
        ({"dual": "log"}, "dual='log' is not known"),
        ({"log_alpha_init": "gaussian"}, "log_alpha_init='gaussian' is not known"),
        ({"log_alpha_bounds": (5, -5)}, "log_alpha_bounds"),
        ({"capture": "always"}, "capture='always' is not known"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": 2**32}, "seed=4294967296 is out of range"),
        ({"seed": 1.5}, "seed=1.5 is not an integer"),
        ({"policy_kwargs": {"behavior": "vae"}}, "behavior='vae' is not known"),
        ({"policy_kwargs": {"acting": "best"}}, "acting='best' is not known"),
        ({"policy_kwargs": {"n_critics": 0}}, "n_critics=0"),
        ({"policy_kwargs": {"n_eval_samples": 0}}, "n_eval_samples=0"),
    ],
    ids=str,
)
def test_case_10_out_of_range_arguments_are_refused(changes, message):
    with pytest.raises(RefusedError, match=message):
        make_bear(**changes)


# --- presets --------------------------------------------------------------------------------------


def constructed(preset):
    arguments = copy.deepcopy(BEAR.PRESETS[preset])
    return BEAR(dataset=make_data(), device="cpu", seed=0, **arguments)


def widths(network):
    return [layer.out_features for layer in network if hasattr(layer, "out_features")]


def rates(model):
    return {name: o.param_groups[0]["lr"] for name, o in model._optimizers().items()}


def test_d4rl_preset_has_the_values_of_its_code():
    model = constructed("d4rl")
    assert rates(model) == {"critic": 3e-4, "actor": 1e-4, "behavior": 3e-4, "alpha": 1e-3}
    assert (model.batch_size, model.gamma, model.tau) == (256, 0.99, 0.005)
    assert (model.kernel, model.sigma, model.n_mmd_samples) == ("laplacian", 20.0, 4)
    assert (model.n_target_samples, model.target_mix, model.n_q_samples) == (10, 0.75, 1)
    assert (model.warmup_steps, model.log_alpha.item()) == (40_000, 0.0)
    assert (model.alpha, model.dual, model.log_alpha_bounds) == ("auto", "exp", (-5.0, 10.0))
    assert (model.distance, model.mmd_estimator, model._epsilon()) == ("mmd", "v", 0.05)
    assert (model.actor_noise_clip, model.actor_target) == (None, None)
    assert not model.sequential_updates
    assert not model.bf16
    assert widths(model.actor.network)[:-1] == [256, 256]
    assert widths_of_critics(model) == [256, 256, 1]
    assert model.critic.n_stack == 2
    assert widths(model.behavior.encoder) == [750, 750, 8]
    assert widths(model.behavior.decoder) == [750, 750, 2]
    assert model.actor.log_std_bounds == (-5.0, 2.0)
    assert model.policy.n_eval_samples == 100


def test_neurips_preset_has_the_values_of_the_2019_code():
    model = constructed("neurips2019")
    assert set(rates(model).values()) == {1e-3}
    assert (model.batch_size, model.gamma, model.tau) == (100, 0.99, 0.005)
    assert (model.kernel, model.sigma, model.n_mmd_samples) == ("laplacian", 10.0, 5)
    assert (model.n_target_samples, model.target_mix, model.n_q_samples) == (10, 0.75, 5)
    assert model.warmup_steps == 20_000
    assert model.log_alpha.item() != 0.0  # a standard normal draw
    assert model.actor_noise_clip == 0.5
    assert model.actor_target is not None
    assert model.sequential_updates
    assert widths(model.actor.network)[:-1] == [400, 300]
    assert widths_of_critics(model) == [400, 300, 1]
    assert widths(model.behavior.encoder) == [750, 750, 8]
    assert model.actor.log_std_bounds is None
    assert model.policy.n_eval_samples == 10


@pytest.mark.parametrize("preset", [p for p in BEAR.PRESETS if p not in ("d4rl", "neurips2019")])
def test_an_ablation_differs_from_d4rl_in_what_its_name_says(preset):
    """And the difference is one that training shows."""
    changes = copy.deepcopy(BEAR.PRESETS[preset])
    plain, ablation = parameters_of(make_bear().learn(3)), make_bear(**changes).learn(3)
    assert changed(plain, parameters_of(ablation)) >= {"actor"} or preset == "loose"
    assert {name: getattr(ablation, name) for name in changes} == changes
    if preset == "loose":  # the multiplier has a sign of its own
        assert ablation._epsilon() == 0.2


def test_constructing_changes_neither_presets_nor_the_arguments_of_the_user():
    presets = copy.deepcopy(BEAR.PRESETS)
    mine = dict(SMALL)
    BEAR(dataset=make_data(), device="cpu", **BEAR.PRESETS["neurips2019"])
    with_target = make_bear(use_target_actor=True, policy_kwargs=mine)
    without = make_bear(policy_kwargs=mine)
    assert presets == BEAR.PRESETS
    assert mine == SMALL
    assert with_target.actor_target is not None
    assert without.actor_target is None


def test_learning_rate_that_starts_at_zero_still_rises():
    model = make_bear(learning_rate=lambda progress: 1e-3 * (1 - progress)).learn(4)
    found = rates(model)
    assert found["critic"] == pytest.approx(0.75e-3)
    assert found["actor"] == 1e-4


def test_loading_with_another_learning_rate_uses_it(tmp_path):
    make_bear(learning_rate=3e-4).learn(2).save(tmp_path / "model")
    model = BEAR.load(tmp_path / "model", device="cpu", custom_objects={"learning_rate": 1e-2})
    model.set_dataset(make_data())
    model.learn(1)
    assert rates(model)["critic"] == 1e-2


def test_loading_undoes_a_decayed_learning_rate(tmp_path):
    """A schedule that is constant at first must not leave the rate at what the file had."""
    schedule = lambda progress: 1e-3 if progress > 0.5 else 1e-5  # noqa: E731
    make_bear(learning_rate=schedule).learn(10).save(tmp_path / "model")
    model = BEAR.load(tmp_path / "model", device="cpu", custom_objects={"learning_rate": schedule})
    model.set_dataset(make_data())
    model.learn(1)
    assert rates(model)["critic"] == 1e-3


def test_states_saved_with_a_graph_load_without_one():
    """A CUDA graph needs rates as tensors and capturable optimisers; the CPU refuses both."""
    model = make_bear().learn(2)
    state = model.get_parameters()
    for name in ("critic", "actor", "behavior", "alpha"):
        for group in state[f"{name}_optimizer"]["param_groups"]:
            group["capturable"], group["lr"] = True, th.tensor(group["lr"])
    other = make_bear()
    other.set_parameters(state, device="cpu")
    other.learn(2)
    for optimizer in other._optimizers().values():
        assert optimizer.param_groups[0]["capturable"] is False
        assert isinstance(optimizer.param_groups[0]["lr"], float)
