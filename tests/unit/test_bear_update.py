"""One update of the real agent: who gets which gradient, in which order (section 8, items 4, 8)."""

import pytest
import torch as th
from bear_testing import SMALL, changed, equal, make_bear, make_data, parameters_of
from torch.utils._python_dispatch import TorchDispatchMode

from rlzoo.agents.bear import BEAR
from rlzoo.agents.bear.losses import dual_gradient
from rlzoo.agents.bear.mmd import mmd

PARTS = ("critic", "actor", "behavior", "alpha")


def flat(gradients):
    return th.cat([gradient.flatten() for gradient in gradients])


def gradients_of(module):
    return flat([parameter.grad for parameter in module.parameters()])


def silence_critics(model):
    """Make every critic and target critic zero everywhere."""
    with th.no_grad():
        for stack in (model.critic, model.critic_target):
            stack.stacked[-1].weight.zero_()
            stack.stacked[-1].bias.zero_()


def set_rates(model, **rates):
    for name, optimizer in model._optimizers().items():
        for group in optimizer.param_groups:
            group["lr"] = rates.get(name, 0.0)


def actor_gradient(model, warm=False, seed=5):
    """The gradient that one whole update records for the actor."""
    th.manual_seed(seed)
    model._update(warm, 32)
    return gradients_of(model.actor)


# --- item 4 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
def test_a_actor_gradient_is_alpha_times_that_of_the_mmd(kernel):
    model = make_bear(kernel=kernel, alpha=7.0, sigma=2.0)
    model.policy.double()
    silence_critics(model)
    observations = th.randn(8, 3, dtype=th.float64, generator=th.Generator().manual_seed(0))

    def distance():
        th.manual_seed(2)
        with th.no_grad():
            x = model.behavior.sample(observations, 4)
            u, _, _ = model.actor.sample(observations, 4)
            return mmd(x, u, 2.0, kernel).mean().item()

    th.manual_seed(2)
    model._differentiate(model._actor_loss(observations, warm=False).loss, model.actor)
    step = 1e-6
    for parameter in model.actor.parameters():
        values, index = parameter.data.view(-1), parameter.numel() // 2
        values[index] += step
        above = distance()
        values[index] -= 2 * step
        below = distance()
        values[index] += step
        expected = model.log_alpha.exp().item() * (above - below) / (2 * step)
        assert parameter.grad.view(-1)[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-8)
    assert gradients_of(model.actor).norm() > 1e-3


@pytest.mark.parametrize("sequential", [False, True])
def test_b_recorded_actor_gradient_has_both_parts(sequential):
    """With rates of zero, the gradient of the whole is that of Q plus alpha times the MMD's."""
    gradients = {}
    for alpha in (0.0, 1.0, 50.0):
        model = make_bear(alpha=alpha, sequential_updates=sequential)
        set_rates(model)
        gradients[alpha] = actor_gradient(model)
    of_q, of_mmd = gradients[0.0], gradients[1.0] - gradients[0.0]
    assert (gradients[50.0] - of_q).norm() > 10 * of_q.norm()
    assert of_q.norm() > 1e-3
    assert th.allclose(gradients[50.0], of_q + 50 * of_mmd, rtol=1e-3, atol=1e-4)


def test_b_warm_start_has_no_part_of_q():
    gradients = {}
    for warm in (True, False):
        model = make_bear(alpha=1.0)
        silence = make_bear(alpha=1.0)
        silence_critics(silence)
        for each in (model, silence):
            set_rates(each)
        gradients[warm] = actor_gradient(model, warm), actor_gradient(silence, warm)
    assert th.equal(*gradients[True])
    assert not th.allclose(*gradients[False], rtol=1e-2)


def test_c_actor_and_dual_steps_change_nothing_else():
    model = make_bear()
    before = parameters_of(model)
    step = model._actor_loss(model.replay_buffer.sample(32).observations, warm=False)
    model._differentiate(step.loss, model.actor)
    model.actor_optimizer.step()
    model._dual_step(step.distance.detach().mean())
    assert changed(before, parameters_of(model)) == {"actor", "log_alpha"}
    for module in (model.critic, model.critic_target, model.behavior):
        assert all(parameter.grad is None for parameter in module.parameters())


def test_d_decoder_gets_no_gradient_from_the_mmd():
    model = make_bear()
    step = model._actor_loss(model.replay_buffer.sample(32).observations, warm=True)
    assert not step.behavior.requires_grad
    step.loss.backward()
    assert all(parameter.grad is None for parameter in model.behavior.parameters())
    assert all(parameter.grad is not None for parameter in model.actor.parameters())
    assert model.log_alpha.grad is None


def test_e_gradient_of_log_alpha():
    model = make_bear(log_alpha_init=1.5)
    distance = th.tensor(0.31)
    alpha = model.log_alpha.exp().item()
    model._dual_step(distance)
    assert model.log_alpha.grad.item() == pytest.approx(-alpha * (0.31 - 0.05), rel=1e-5)
    assert model.log_alpha.item() > 1.5
    assert dual_gradient(th.tensor(1.5), th.tensor(0.26), "exp").item() == pytest.approx(
        -alpha * 0.26, rel=1e-5
    )


# --- order ----------------------------------------------------------------------------------------


def test_joint_order_differentiates_the_actor_with_the_critics_before_their_step():
    """A fused Adam step changes weights behind autograd's back, so this needs a test."""
    gradients = []
    for rate in (0.0, 0.5):
        model = make_bear(alpha=1.0)
        set_rates(model, critic=rate)
        gradients.append(actor_gradient(model))
    assert th.equal(*gradients)


def test_sequential_order_shows_the_actor_the_updated_critics():
    gradients = []
    for rate in (0.0, 0.5):
        model = make_bear(alpha=1.0, sequential_updates=True)
        set_rates(model, critic=rate)
        gradients.append(actor_gradient(model))
    assert not th.allclose(*gradients, rtol=1e-2)


@pytest.mark.parametrize("preset", ["d4rl", "neurips2019"])
def test_order_of_the_optimisers(preset):
    arguments = {k: v for k, v in BEAR.PRESETS[preset].items() if k != "policy_kwargs"}
    model = make_bear(**arguments).learn(0)
    order = []
    for name, optimizer in model._optimizers().items():
        optimizer.register_step_pre_hook(lambda *_, name=name: order.append(name))
    model.train(1, 32)
    assert order == ["behavior", "critic", "actor", "alpha"]


def test_actor_sees_the_behaviour_model_after_its_step():
    gradients = []
    for rate in (0.0, 0.5):
        model = make_bear(alpha=1.0)
        set_rates(model, behavior=rate)
        gradients.append(actor_gradient(model, warm=True))
    assert not th.allclose(*gradients, rtol=1e-2)


@pytest.mark.parametrize("use_target_actor", [False, True])
def test_targets_follow_by_polyak_averages_of_the_new_weights(use_target_actor):
    model = make_bear(use_target_actor=use_target_actor, tau=0.1).learn(0)
    before = parameters_of(model)
    model.train(1, 32)
    after = parameters_of(model)
    names = ["critic", "actor"] if use_target_actor else ["critic"]
    for part in names:
        for name in [n for n in after if n.startswith(f"{part}.")]:
            target = name.replace(part, f"{part}_target", 1)
            expected = 0.9 * before[target] + 0.1 * after[name]
            assert th.allclose(after[target], expected, atol=1e-7)
            assert not th.equal(after[target], before[target])
    assert (model.actor_target is not None) == use_target_actor


def test_targets_start_as_copies():
    state = make_bear(use_target_actor=True).policy.state_dict()
    for part in ("critic", "actor"):
        for name in [n for n in state if n.startswith(f"{part}.")]:
            assert th.equal(state[name], state[name.replace(part, f"{part}_target", 1)])


def test_an_update_changes_everything_that_learns():
    model = make_bear(use_target_actor=True).learn(0)
    before = parameters_of(model)
    model.train(1, 32)
    everything = {"actor", "actor_target", "behavior", "critic", "critic_target", "log_alpha"}
    assert changed(before, parameters_of(model)) == everything


def test_q_term_is_the_minimum_over_critics_of_the_mean_over_samples():
    model = make_bear(n_q_samples=3)
    observations, u = th.randn(6, 3), th.randn(6, 4, 2)
    got = model._q_of_actor(observations, u)
    for b in range(6):
        means = th.stack([
            model.critic(th.cat([observations[b], th.tanh(u[b, j])])[None])[:, 0] for j in range(3)
        ]).mean(0)  # fmt: skip
        assert got[b].item() == pytest.approx(means.min().item(), abs=1e-6)


# --- item 8: warm start ---------------------------------------------------------------------------


def actor_after(steps, rewards_scale, **changes):
    data = make_data()
    data = make_data(rewards=rewards_scale * data.rewards)
    model = make_bear(dataset=data, warmup_steps=3, **changes).learn(steps)
    return {name: p.detach().clone() for name, p in model.actor.named_parameters()}


def test_warm_start_ends_exactly_at_its_number_of_updates():
    """Rewards reach the actor only through Q: updates t = 0, 1, 2 must not see them, t = 3 does."""
    assert equal(actor_after(3, 1.0), actor_after(3, -50.0))
    assert not equal(actor_after(4, 1.0), actor_after(4, -50.0))


def test_warm_start_does_not_hold_back_critics_and_multiplier():
    model = make_bear(warmup_steps=100)
    before = parameters_of(model)
    model.learn(2)
    assert {"critic", "log_alpha"} <= changed(before, parameters_of(model))


def test_warm_start_survives_save_and_load(tmp_path):
    data = make_data()
    whole = make_bear(dataset=data, warmup_steps=4)
    whole.learn(2)
    whole.save(tmp_path / "half")
    state = th.get_rng_state()
    whole.learn(4, reset_num_timesteps=False)

    loaded = BEAR.load(tmp_path / "half", device="cpu")
    assert loaded._n_updates == 2
    assert loaded.num_timesteps == 2
    loaded.set_dataset(data)
    th.set_rng_state(state)
    loaded.learn(4, reset_num_timesteps=False)
    assert loaded._n_updates == 6
    assert equal(parameters_of(loaded), parameters_of(whole))


# --- repeatability, precision, synchronisation ----------------------------------------------------


def test_one_seed_gives_one_result():
    first, second, other = (parameters_of(make_bear(seed=s).learn(20)) for s in (3, 3, 4))
    assert equal(first, second)
    assert changed(first, other) >= {"actor", "critic", "behavior"}


def test_learning_in_two_pieces_equals_learning_at_once():
    whole = make_bear(warmup_steps=10).learn(40)
    pieces = make_bear(warmup_steps=10).learn(20)
    pieces.learn(20, reset_num_timesteps=False)
    assert equal(parameters_of(whole), parameters_of(pieces))


def test_bf16_target_and_behaviour_samples_agree_to_two_percent():
    wide = {"net_arch": [256, 256], "vae_arch": [256, 256]}
    exact, rounded = (make_bear(bf16=b, policy_kwargs=dict(wide)) for b in (False, True))
    for model in (exact, rounded):
        th.manual_seed(0)
        model.learn(50)
    rounded.policy.load_state_dict(exact.policy.state_dict())
    batch = exact.replay_buffer.sample(256)
    results = []
    for model in (exact, rounded):
        th.manual_seed(1)
        target = model._target(batch)
        results.append((target, model._actor_loss(batch.observations, warm=True).behavior))
    for name, a, b in zip(("target", "behavior"), *results, strict=True):
        error = ((a - b).norm() / a.norm()).item()
        assert 0 < error < 0.02, name


def test_bf16_gradients_point_the_same_way():
    gradients = []
    for bf16 in (False, True):
        model = make_bear(bf16=bf16, policy_kwargs={"net_arch": [64, 64], "vae_arch": [64, 64]})
        set_rates(model)
        actor = actor_gradient(model)
        gradients.append((actor, gradients_of(model.critic), gradients_of(model.behavior)))
    for exact, rounded in zip(*gradients, strict=True):
        assert th.cosine_similarity(exact, rounded, dim=0).item() > 0.999


class NoSynchronisation(TorchDispatchMode):
    """Fails when a value leaves the device, or when a size depends on one."""

    FORBIDDEN = (
        th.ops.aten._local_scalar_dense.default,
        th.ops.aten.nonzero.default,
        th.ops.aten.masked_select.default,
        th.ops.aten.multinomial.default,
        th.ops.aten.equal.default,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self.FORBIDDEN:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


def test_the_guard_against_synchronisation_sees_an_item_call():
    with pytest.raises(AssertionError, match="local_scalar_dense"), NoSynchronisation():
        (th.ones(3) * 2).sum().item()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"warmup_steps": 100, "bf16": True},
        {"use_target_actor": True, "sequential_updates": True, "actor_noise_clip": 0.5},
        {"distance": "kl", "dual": "linear"},
        {"mmd_estimator": "u", "n_q_samples": 4, "kernel": "gaussian"},
        {"sigma": "median", "alpha": 3.0},
        {"policy_kwargs": {**SMALL, "behavior": "mixture"}},
    ],
    ids=lambda c: "-".join(c) or "default",
)
def test_updates_never_wait_for_the_device(changes):
    model = make_bear(**changes).learn(0)
    model.train(1, 32)  # creates the state of the optimisers
    with NoSynchronisation():
        model.train(3, 32)
    assert model._n_updates == 4


# --- variants -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"distance": "kl"},
        {"mmd_estimator": "u"},
        {"sigma": "median"},
        {"dual": "linear"},
        {"policy_kwargs": {**SMALL, "behavior": "gaussian"}},
        {"policy_kwargs": {**SMALL, "behavior": "mixture"}},
        {"policy_kwargs": {**SMALL, "log_std_bounds": None}},
        {"policy_kwargs": {**SMALL, "n_critics": 1}},
        {"policy_kwargs": {**SMALL, "n_critics": 4}},
        dict(BEAR.PRESETS["neurips2019"], policy_kwargs=dict(SMALL)),
    ],
    ids=str,
)
def test_variants_train_and_stay_finite(changes):
    model = make_bear(**changes)
    model.learn(30, log_interval=10)
    assert all(tensor.isfinite().all() for tensor in parameters_of(model).values())


def test_kl_distance_is_the_negative_likelihood_of_decoder_samples():
    model = make_bear(distance="kl")
    step = model._actor_loss(model.replay_buffer.sample(16).observations, warm=True)
    base = th.distributions.Normal(step.mean.unsqueeze(1), step.std.unsqueeze(1))
    squashed = th.distributions.TransformedDistribution(
        base, th.distributions.transforms.TanhTransform(cache_size=1)
    )
    expected = -squashed.log_prob(th.tanh(step.behavior.double()).float()).sum(-1).mean(-1)
    assert th.allclose(step.distance, expected, rtol=1e-3, atol=1e-3)
    assert model._epsilon() == -2.0


@pytest.mark.parametrize(
    ("changes", "epsilon"),
    [
        ({}, 0.05),
        ({"threshold": 0.1}, 0.1),
        ({"mmd_estimator": "u"}, 0.0025),
        ({"mmd_estimator": "u", "threshold": 0.1}, 0.01),
        ({"distance": "kl", "threshold": -1.0}, -1.0),
        ({"distance": "kl", "mmd_estimator": "u"}, -2.0),
    ],
    ids=str,
)
def test_threshold_in_the_unit_of_the_distance(changes, epsilon):
    assert make_bear(**changes)._epsilon() == pytest.approx(epsilon)


def test_fixed_alpha_is_not_tuned():
    model = make_bear(alpha=2.5).learn(10)
    assert model.log_alpha.exp().item() == pytest.approx(2.5, rel=1e-6)


def test_logged_values_are_means_over_the_interval(tmp_path):
    from stable_baselines3.common.logger import configure

    model = make_bear()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    losses = []
    original = model._run
    model._run = lambda *a: losses.append(original(*a)) or losses[-1]
    model.learn(20, log_interval=10)
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    names = rows[0].split(",")
    assert len(rows) == 3
    for row, part in zip(rows[1:], (losses[:10], losses[10:]), strict=True):
        logged = float(row.split(",")[names.index("train/critic_loss")])
        assert logged == pytest.approx(th.stack(part).mean(0)[0].item(), rel=1e-4)
    expected = {
        "vae_recon", "vae_kl", "critic_loss", "q_mean", "q_max", "target_mean", "mmd_mean",
        "mmd_max", "mmd_floor", "alpha", "log_alpha_at_cap", "actor_std", "raw_gap", "tanh_gap",
    }  # fmt: skip
    assert {f"train/{name}" for name in expected} <= set(names)
