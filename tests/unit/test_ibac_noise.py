"""Every cell of the noise table, purity, dropout and batch norm (page 2.4 and section 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch as th
from ibac_testing import all_rows, cnn, collected, make, mlp

from rlzoo.agents.ibac_sni import IBACSNI
from rlzoo.agents.ibac_sni.noise import BatchNorm, Dropout
from rlzoo.agents.ibac_sni.policies import IBACPolicy
from rlzoo.errors import RefusedError

IB, DROPOUT, NORM = ({"regulariser": name} for name in ("ib", "dropout", "batchnorm"))
FROZEN = {**DROPOUT, "suspend": "frozen"}
NONE: set[str] = set()

# Column -> settings, noise of acting, old values, policy loss and value loss; weights of branches.
COLUMNS: dict[str, tuple[dict[str, Any], set[str], set[str], set[str], set[str], Any]] = {
    "plain IBAC": (
        {**IB, "sni_lambda": None}, {"fresh"}, {"fresh"}, {"fresh"}, {"fresh"}, (0, 1),
    ),
    "IBAC-SNI 0.5": ({**IB, "sni_lambda": 0.5}, NONE, NONE, {"fresh"}, NONE, (0.5, 0.5)),
    "IBAC-SNI 0": ({**IB, "sni_lambda": 0.0}, NONE, NONE, {"fresh"}, NONE, (0, 1)),
    "IBAC-SNI 1.0": ({**IB, "sni_lambda": 1.0}, NONE, NONE, NONE, NONE, (1, 0)),
    "plain dropout": (
        {**FROZEN, "sni_lambda": None}, {"fast"}, {"fast"}, {"fast"}, {"fast"}, (0, 1),
    ),
    "dropout-SNI 0.5, code": (
        {**FROZEN, "sni_lambda": 0.5, "critic_noise": True},
        {"slow"}, {"slow"}, {"slow", "fast"}, {"fast"}, (0.5, 0.5),
    ),
    "dropout-SNI 0.5, equation": (
        {**FROZEN, "sni_lambda": 0.5}, {"slow"}, {"slow"}, {"slow", "fast"}, {"slow"}, (0.5, 0.5),
    ),
    "dropout-SNI 1.0": (
        {**FROZEN, "sni_lambda": 1.0}, {"slow"}, {"slow"}, {"slow"}, {"slow"}, (1, 0),
    ),
    "dropout-SNI 0.5, identity": (
        {**DROPOUT, "sni_lambda": 0.5}, NONE, NONE, {"fresh"}, NONE, (0.5, 0.5),
    ),
    "plain dropout, identity": (
        {**DROPOUT, "sni_lambda": None}, {"fresh"}, {"fresh"}, {"fresh"}, {"fresh"}, (0, 1),
    ),
    "batch norm": (
        {**NORM, "sni_lambda": None}, {"batch"}, {"batch"}, {"batch"}, {"batch"}, (0, 1),
    ),
    "batch norm-SNI 0.5": (
        {**NORM, "sni_lambda": 0.5},
        {"running"}, {"running"}, {"running", "batch"}, {"running"}, (0.5, 0.5),
    ),
    "none": ({"regulariser": "none"}, NONE, NONE, NONE, NONE, (1, 0)),
    "weight decay": ({"regulariser": "weight_decay"}, NONE, NONE, NONE, NONE, (1, 0)),
}  # fmt: skip
OBS = th.linspace(-1, 1, 32).view(8, 4).sin()


def noise_of(policy: IBACPolicy, function: Callable[[th.Tensor], th.Tensor]) -> set[str]:
    """Return what the first row of ``function`` depends on besides its own observation."""

    def first(observations: th.Tensor = OBS) -> th.Tensor:
        # The state of batch norm is put back: only what is used counts, not what is moved.
        kept = {name: tensor.clone() for name, tensor in policy.named_buffers()}
        found = function(observations)[0].detach().clone()
        with th.no_grad():
            for name, tensor in policy.named_buffers():
                tensor.copy_(kept[name])
        return found

    found = set()
    before = th.get_rng_state()
    reference = first()
    drew = not th.equal(before, th.get_rng_state())
    if not th.equal(reference, first()):
        found.add("fresh")
    assert drew == ("fresh" in found), "random numbers that have no effect"
    if found:
        return found
    others = OBS.clone()
    others[1:] = others[1:].flip(0) * 3 + 0.5
    if not th.equal(reference, first(others)):
        found.add("batch")
    for name, tensor in policy.named_buffers():
        kept = tensor.clone()
        with th.no_grad():
            tensor.mul_(1.7).add_(0.3)
        if not th.equal(reference, first()):
            found.add("running" if "running" in name else name.split(".")[-1])
        with th.no_grad():
            tensor.copy_(kept)
    return found


@pytest.mark.parametrize("column", COLUMNS)
def test_every_cell_of_the_table(column: str) -> None:
    settings, acting, old_values, policy_loss, value_loss, weights = COLUMNS[column]
    policy = mlp(**settings)
    actions = th.arange(8) % 3

    def log_prob_of_acting(x: th.Tensor) -> th.Tensor:
        return policy.outputs(x, policy.noise.acting)[0]

    def branches(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        found = policy.evaluate_branches(x, actions)
        pair = (found.quiet, found.noisy)
        used = [b for b, weight in zip(pair, policy.noise.weights, strict=True) if weight > 0]
        critic = found.noisy if policy.noise.critic == "noisy" else found.quiet
        assert critic is not None
        return th.stack([b.log_prob + b.entropy for b in used if b], -1), critic.values

    assert policy.noise.weights == weights
    assert noise_of(policy, log_prob_of_acting) == acting
    assert noise_of(policy, policy.predict_values) == old_values
    assert noise_of(policy, lambda x: branches(x)[0]) == policy_loss
    if value_loss == {"fresh"} or policy_loss != {"fresh"}:
        assert noise_of(policy, lambda x: branches(x)[1]) == value_loss
    else:  # the branch of the policy draws, the value does not
        assert th.equal(branches(OBS)[1], branches(OBS)[1])
    assert (policy.evaluate_branches(OBS, actions).latent is not None) == (
        settings["regulariser"] == "ib"
    )


@pytest.mark.parametrize("column", COLUMNS)
def test_the_update_uses_what_the_table_says(column: str) -> None:
    """The losses of the agent are those of the branches that the policy gives, mixed by lambda."""
    settings, _, _, _, value_noise, (quiet, noisy) = COLUMNS[column]
    model = collected(make(**settings, normalize_advantage=False, l2_coef=None, ent_coef=0.3))
    rows, policy = all_rows(model), model.policy
    kept = {name: tensor.clone() for name, tensor in policy.named_buffers()}
    th.manual_seed(9)
    _, values = model._losses(rows)
    with th.no_grad():
        for name, tensor in policy.named_buffers():
            tensor.copy_(kept[name])
    th.manual_seed(9)
    take = model.rollout_buffer.rows
    found = policy.evaluate_branches(take("observations", rows), take("actions", rows))

    def surrogate(branch: Any) -> th.Tensor:
        ratio, advantages = (
            (branch.log_prob - take("log_probs", rows)).exp(),
            take("advantages", rows),
        )
        return -th.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()

    policy_loss = entropy = 0.0
    for weight, branch in ((quiet, found.quiet), (noisy, found.noisy)):
        if weight:
            assert branch is not None
            policy_loss += weight * surrogate(branch).item()
            entropy += weight * branch.entropy.mean().item()
    critic = found.noisy if value_noise & {"fresh", "fast", "batch"} else found.quiet
    assert critic is not None
    error, old = critic.values - take("returns", rows), take("values", rows)
    change = (critic.values - old).clamp(-0.2, 0.2)
    worst = th.max(error.square(), (old + change - take("returns", rows)).square())
    assert values["policy_gradient_loss"].item() == pytest.approx(policy_loss, rel=1e-4, abs=1e-6)
    assert values["entropy_loss"].item() == pytest.approx(-entropy, rel=1e-5)
    assert values["value_loss"].item() == pytest.approx(0.5 * worst.mean().item(), rel=1e-5)


def test_entropy_of_the_noisy_branch_is_the_mean_over_the_samples() -> None:
    policy = mlp(**IB, n_samples=5)
    th.manual_seed(1)
    found = policy.evaluate_branches(OBS, th.zeros(8, dtype=th.long)).noisy
    assert found is not None
    th.manual_seed(1)
    codes = policy._codes(policy._latent_parameters(OBS, "noisy", False), "noisy")
    log_probs = policy.action_net(codes.tanh()).log_softmax(-1)
    parts = -(log_probs.exp() * log_probs).sum(-1)
    th.testing.assert_close(found.entropy, parts.mean(0))
    mixture = log_probs.exp().mean(0)
    assert (found.entropy < -(mixture * mixture.log()).sum(-1)).all()
    th.testing.assert_close(found.log_prob, mixture.log()[:, 0])
    th.testing.assert_close(found.values, policy.value_net(codes.tanh()).squeeze(-1).mean(0))


# ---------------------------------------------------------------------- purity

SNI_MODES = [
    {**IB, "sni_lambda": 0.5},
    {**DROPOUT, "sni_lambda": 0.5},
    {**FROZEN, "sni_lambda": 0.5},
    {**NORM, "sni_lambda": 0.5},
]


@pytest.mark.parametrize("settings", SNI_MODES)
def test_acting_is_pure_with_sni(settings: dict[str, Any]) -> None:
    policy = mlp(**settings)
    policy.warm_up(OBS)
    buffers = {name: tensor.clone() for name, tensor in policy.named_buffers()}
    policy.train()  # what acts does not depend on it
    before = th.get_rng_state()
    first, values = policy.outputs(OBS, policy.noise.acting)
    again, values_again = policy.outputs(OBS, policy.noise.acting)
    assert th.equal(before, th.get_rng_state())
    assert th.equal(first, again)
    assert th.equal(values, values_again)
    order = th.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    permuted, _ = policy.outputs(OBS[order], policy.noise.acting)
    th.testing.assert_close(permuted, first[order], rtol=0, atol=1e-6)
    split = th.cat([policy.outputs(part, policy.noise.acting)[0] for part in OBS.split(3)])
    th.testing.assert_close(split, first, rtol=0, atol=1e-6)
    assert all(th.equal(tensor, buffers[name]) for name, tensor in policy.named_buffers())


@pytest.mark.parametrize("column", COLUMNS)
def test_predict_never_has_noise(column: str) -> None:
    policy = mlp(**COLUMNS[column][0])
    assert noise_of(policy, lambda x: policy.outputs(x, "off")[0]) <= {"running"}
    before = th.get_rng_state()
    action, _ = policy.predict(OBS.numpy(), deterministic=True)
    assert th.equal(before, th.get_rng_state())
    assert (action == policy.outputs(OBS, "off")[0].argmax(-1).numpy()).all()
    assert noise_of(policy, lambda x: policy.get_distribution(x).distribution.logits) <= {"running"}
    actions = th.arange(8) % 3
    evaluated = noise_of(policy, lambda x: th.stack(policy.evaluate_actions(x, actions), -1))
    assert evaluated <= {"running"}
    # Not deterministic means drawn from the same noise-free distribution.
    log_probs = policy.get_distribution(OBS[:1]).distribution.logits[0]
    th.manual_seed(0)
    drawn = policy._predict(OBS[:1].expand(20_000, 4))
    shares = th.bincount(drawn, minlength=3) / 20_000
    th.testing.assert_close(shares, log_probs.exp(), rtol=0, atol=0.015)


def test_acting_without_a_single_noise_draw_takes_one_number_per_action() -> None:
    """With SNI the only random numbers of a rollout are those of the choice of actions."""
    quiet, none = mlp(**IB, sni_lambda=0.5), mlp(regulariser="none")
    states = []
    for policy in (quiet, none):
        th.manual_seed(4)
        policy(OBS)
        states.append(th.get_rng_state())
    assert th.equal(*states)


# --------------------------------------------------------------------- dropout


def test_frozen_masks() -> None:
    th.manual_seed(0)
    dropout = Dropout(10_000, 0.2, frozen=True)
    for mask in (dropout.slow, dropout.fast):
        assert mask.shape == (10_000,)
        assert set(mask.unique().tolist()) == {0.0, 1.25}
        assert (mask == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    slow, fast = dropout.slow.clone(), dropout.fast.clone()
    dropout.redraw("fast")
    assert th.equal(slow, dropout.slow)
    assert not th.equal(fast, dropout.fast)
    latent = th.randn(3, 10_000)
    assert th.equal(dropout(latent, "noisy"), latent * dropout.fast)
    assert th.equal(dropout(latent, "quiet"), latent * slow)
    assert th.equal(dropout(latent, "off"), latent)


def test_masks_are_redrawn_once_per_iteration_and_once_per_minibatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[str] = []
    redraw = Dropout.redraw

    def counted(self: Dropout, which: Any) -> None:
        drawn.append(which)
        redraw(self, which)

    model = make(**FROZEN)
    monkeypatch.setattr(Dropout, "redraw", counted)
    collected(model)
    assert drawn == []
    model.train()
    assert drawn == ["fast"] * 4 + ["slow"]  # 2 epochs of 2 minibatches


def test_dropout_without_freezing_is_per_sample_and_eval_mode_when_suspended() -> None:
    th.manual_seed(0)
    dropout, reference = Dropout(500, 0.3, frozen=False), th.nn.Dropout(0.3)
    latent = th.ones(50, 500)
    noisy = dropout(latent, "noisy")
    assert not th.equal(noisy[0], noisy[1])
    assert noisy.mean().item() == pytest.approx(1, abs=0.03)
    for mode in ("quiet", "off"):
        assert th.equal(dropout(latent, mode), reference.eval()(latent))
    assert not list(dropout.buffers())


# ------------------------------------------------------------------ batch norm


def test_batch_norm_is_torchs() -> None:
    th.manual_seed(0)
    ours, torchs = BatchNorm(5), th.nn.BatchNorm2d(5)
    x = th.randn(4, 5, 3, 3) * 2 + 1
    ours.mode, ours.tracking = "noisy", True
    th.testing.assert_close(ours(x), torchs(x))
    th.testing.assert_close(ours.running_var, torchs.running_var)
    ours.mode = "quiet"
    th.testing.assert_close(ours(x), torchs.eval()(x))
    before = ours.running_mean.clone()
    ours.mode, ours.tracking = "noisy", False
    ours(x)
    assert th.equal(before, ours.running_mean)


def test_the_quiet_branch_is_computed_before_the_running_statistics_move() -> None:
    policy = mlp(**NORM)
    expected = policy.outputs(OBS, "quiet")[0]
    before = policy._norms[0].running_mean.clone()
    found = policy.evaluate_branches(OBS, th.zeros(8, dtype=th.long))
    assert found.quiet is not None
    assert th.equal(found.quiet.log_prob, expected[:, 0])
    assert not th.equal(before, policy._norms[0].running_mean)


def test_gradients_of_the_quiet_branch_have_the_statistics_of_its_own_forward_pass() -> None:
    # torch moves running statistics without telling autograd, and its backward pass reads them.
    gradients = []
    for both in (True, False):
        policy = mlp(**NORM)
        if both:
            found = policy.evaluate_branches(3 * OBS, th.zeros(8, dtype=th.long))
            assert found.quiet is not None
            log_prob = found.quiet.log_prob
        else:
            log_prob = policy.outputs(3 * OBS, "quiet")[0][:, 0]
        log_prob.sum().backward()
        gradients.append(policy.trunk[1].weight.grad)
    th.testing.assert_close(*gradients)


def test_running_statistics_follow_although_lambda_is_one() -> None:
    policy = mlp(**NORM, sni_lambda=1.0)
    before = policy._norms[0].running_mean.clone()
    found = policy.evaluate_branches(OBS, th.zeros(8, dtype=th.long))
    assert found.noisy is None
    assert not th.equal(before, policy._norms[0].running_mean)


def test_the_first_rollout_has_the_statistics_of_its_first_observations() -> None:
    model = make(**NORM)
    collected(model)
    norm = model.policy._norms[0]
    first = model.rollout_buffer.observations[0]  # [N, 4]
    layer = model.policy.trunk[1]
    th.testing.assert_close(norm.running_mean, layer(first).mean(0))
    assert norm.momentum == 0.1


def test_batch_norm_sits_behind_every_convolution() -> None:
    policy = cnn("impala", regulariser="batchnorm")
    convolutions = [m for m in policy.modules() if isinstance(m, th.nn.Conv2d)]
    assert len(policy._norms) == len(convolutions) == 15
    names = [name for name, p in policy.named_parameters() if p in set(policy.weights())]
    assert sum(p.dim() == 1 for p in policy.weights()) == 15  # gamma has L2, beta has not
    assert not [name for name in names if name.endswith("bias")]


def test_batch_norm_on_one_vector_is_refused() -> None:
    with pytest.raises(RefusedError, match="one vector"):
        make(1, **NORM, sni_lambda=None)
    assert isinstance(make(1, **NORM, sni_lambda=0.5), IBACSNI)
