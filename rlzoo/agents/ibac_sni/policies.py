"""The actor-critic with a latent layer, its two branches, and how it acts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
    is_image_space,
    preprocess_obs,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.agents.ibac_sni.bottleneck import Gaussian, draw, gaussian, mixture_log_prob
from rlzoo.agents.ibac_sni.encoders import Encoder, initialise, make_image_trunk, make_vector_trunk
from rlzoo.agents.ibac_sni.noise import BatchNorm, Dropout, Mode, NoiseSettings
from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, check_arguments
from rlzoo.errors import RefusedError


class Branch(NamedTuple):
    """What one branch says about actions that were taken; all ``[B]``.

    The log-probability is that of the mixture over the noise samples; entropy and value are means
    over the samples.
    """

    log_prob: th.Tensor
    entropy: th.Tensor
    values: th.Tensor


class Branches(NamedTuple):
    """Both branches of a minibatch; None for what the settings do not need."""

    quiet: Branch | None
    noisy: Branch | None
    latent: Gaussian | None


class IBACPolicy(BasePolicy):
    """Trunk, latent layer, and linear heads for logits and value that share the latent.

    Args:
        observation_space: Images are used as the encoder says, all else is flattened.
        action_space: Discrete.
        lr_schedule: Learning rate; the agent makes the optimiser.
        net_arch: Widths of the tanh layers in front of the latent, for vectors only. None: [64].
        encoder: Network for images: ``"impala"`` (CoinRun and Procgen papers), ``"impala-half"``
            (half as wide), ``"impala-large"``, ``"nature"`` (DQN), ``"grid"`` (MultiRoom; takes
            integers as they are).
        initial_gain: Gain of the policy head. 0.01: both branches begin alike.
        channels_last: Memory layout of images. Weights keep theirs: a fused Adam would mix up
            moments that a file has brought back in another layout.
        noise: Set by the agent.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        encoder: Encoder = "impala",
        initial_gain: Annotated[float, NON_NEGATIVE] = 0.01,
        channels_last: bool = True,
        noise: NoiseSettings | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(IBACPolicy.__init__, arguments, owner=type(self).__name__)
        super().__init__(observation_space, action_space)
        self.net_arch = None if net_arch is None else list(net_arch)
        self.encoder, self.initial_gain = encoder, initial_gain
        self.channels_last, self.noise = channels_last, noise or NoiseSettings()
        self.is_image = is_image_space(observation_space, check_channels=False)
        self._make_networks()
        self._reset_weights()

    # ------------------------------------------------------------------ set-up

    def _make_networks(self) -> None:
        noise, norm = self.noise, self.noise.regulariser == "batchnorm"
        if self.is_image:
            if self.net_arch:
                raise RefusedError(
                    f"net_arch={self.net_arch} with images.",
                    "Allowed for vectors only.",
                    "Choose policy_kwargs.encoder and latent_dim.",
                )
            trunk = make_image_trunk(self.encoder, self.observation_space.shape or (), norm)
        else:
            widths = [64] if self.net_arch is None else self.net_arch
            n_inputs = get_flattened_obs_dim(self.observation_space)
            trunk = make_vector_trunk(n_inputs, widths, norm)
        size, n_actions = noise.latent_dim, int(spaces.flatdim(self.action_space))
        self.scale = trunk.scale
        self.trunk, self.activation = (
            trunk.module,
            th.tanh if trunk.activation == "tanh" else th.relu,
        )
        self.latent = nn.Linear(trunk.n_features, 2 * size if noise.regulariser == "ib" else size)
        self.action_net, self.value_net = nn.Linear(size, n_actions), nn.Linear(size, 1)
        self.dropout = (
            Dropout(size, noise.dropout_p, noise.suspend == "frozen")
            if noise.regulariser == "dropout"
            else None
        )
        # Walking through all modules takes longer than a small forward pass.
        self._norms = tuple(m for m in self.modules() if isinstance(m, BatchNorm))

    def _reset_weights(self) -> None:
        is_grid = self.is_image and self.encoder == "grid"
        initialise(self, "grid" if is_grid else "glorot" if self.is_image else "orthogonal")
        if not is_grid:
            nn.init.orthogonal_(self.action_net.weight, self.initial_gain)
            nn.init.orthogonal_(self.value_net.weight, 1.0)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "encoder": self.encoder,
            "initial_gain": self.initial_gain,
            "channels_last": self.channels_last,
            "noise": self.noise,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Switch as in SB3. Noise does not depend on it: every call says which it wants."""
        if self.training != mode:
            super().set_training_mode(mode)

    def weights(self) -> list[nn.Parameter]:
        """Return what L2 applies to: every trainable array except biases."""
        return [p for name, p in self.named_parameters() if not name.endswith("bias")]

    def redraw(self, which: Literal["slow", "fast"]) -> None:
        """Draw the mask of frozen dropout anew; nothing for any other noise."""
        if self.dropout is not None:
            self.dropout.redraw(which)

    @th.no_grad()
    def warm_up(self, observation: PyTorchObs) -> None:
        """Let the running statistics of batch norm begin with those of these observations.

        They are what acts with SNI; without this the first rollout would have none. A single
        vector has no statistics and changes nothing.
        """
        inputs = self.inputs(observation)
        if not self._norms or (len(inputs) == 1 and not self.is_image):
            return
        usual = self._norms[0].momentum
        for norm in self._norms:
            norm.momentum = 1.0
        self._latent_parameters(inputs, "noisy", True)
        for norm in self._norms:
            norm.momentum = usual

    # ----------------------------------------------------------------- forward

    def inputs(self, observation: PyTorchObs) -> th.Tensor:
        """Return observations as floats, images divided by the scale of the encoder."""
        if self.is_image and isinstance(observation, th.Tensor):
            layout = th.channels_last if self.channels_last else th.contiguous_format
            # bf16 holds the integers up to 256, so that only the quotient is rounded.
            dtype = th.bfloat16 if self.noise.bf16 else th.float32
            scaled = observation.to(dtype, memory_format=layout)
            return scaled if self.scale == 1 else scaled.div_(self.scale)
        found = preprocess_obs(observation, self.observation_space)
        if not isinstance(found, th.Tensor):
            raise TypeError(f"IBACSNI takes array observations, not {type(observation).__name__}")
        return found

    def _latent_parameters(self, inputs: th.Tensor, mode: Mode, tracking: bool) -> th.Tensor:
        """Return the output of the latent layer in fp32: ``[B, 2d]`` with a bottleneck."""
        for norm in self._norms:
            norm.mode, norm.tracking = mode, tracking
        with th.autocast(inputs.device.type, th.bfloat16, enabled=self.noise.bf16):
            parameters: th.Tensor = self.latent(self.trunk(inputs))
        # From here on everything is fp32: softplus, KL, log-softmax, logsumexp need the digits.
        return parameters.float()

    def _codes(self, parameters: th.Tensor, mode: Mode) -> th.Tensor:
        """Return what stands before the activation: ``[B, d]``, or ``[K, B, d]`` where noisy."""
        if self.noise.regulariser == "ib":
            q = gaussian(parameters, self.noise.sigma_offset)
            return draw(q, self.noise.n_samples) if mode == "noisy" else q.mu
        if self.dropout is not None:
            parameters = self.dropout(parameters, mode)
        return parameters.unsqueeze(0) if mode == "noisy" else parameters

    def _heads(self, codes: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return log-probabilities of all actions ``[..., A]`` and values ``[...]``."""
        hidden = self.activation(codes)
        return self.action_net(hidden).log_softmax(-1), self.value_net(hidden).squeeze(-1)

    def outputs(self, observation: PyTorchObs, mode: Mode) -> tuple[th.Tensor, th.Tensor]:
        """Return log-probabilities of all actions ``[B, A]`` and values ``[B]``.

        Args:
            observation: As the environment gives them, as tensors.
            mode: See :mod:`rlzoo.agents.ibac_sni.noise`. Nothing is changed by any of them.
        """
        codes = self._codes(self._latent_parameters(self.inputs(observation), mode, False), mode)
        log_probs, values = self._heads(codes)
        if mode == "noisy":
            return mixture_log_prob(log_probs), values.mean(0)
        return log_probs, values

    def evaluate_branches(self, observation: PyTorchObs, actions: th.Tensor) -> Branches:
        """Evaluate the branches that the settings need, for the update.

        One pass through the trunk, two with batch norm. Running statistics of batch norm move, but
        behind the quiet branch: it is the policy that acted.

        Args:
            observation: ``[B, ...]``.
            actions: ``[B]``.
        """
        inputs, noise = self.inputs(observation), self.noise
        needs_quiet = noise.acting == "quiet"
        needs_noisy = noise.weights[1] > 0 or noise.critic == "noisy"
        first: Mode = "quiet" if needs_quiet else "noisy"
        parameters = self._latent_parameters(inputs, first, tracking=True)
        quiet = noisy = None
        if needs_quiet:
            quiet = self._branch(self._codes(parameters, "quiet"), actions)
        if self._norms and needs_quiet:
            with th.set_grad_enabled(needs_noisy and th.is_grad_enabled()):
                parameters = self._latent_parameters(inputs, "noisy", tracking=True)
        if needs_noisy:
            noisy = self._branch(self._codes(parameters, "noisy"), actions)
        latent = gaussian(parameters, noise.sigma_offset) if noise.regulariser == "ib" else None
        return Branches(quiet, noisy, latent)

    def _branch(self, codes: th.Tensor, actions: th.Tensor) -> Branch:
        log_probs, values = self._heads(codes)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        index = actions.unsqueeze(-1).expand(*log_probs.shape[:-1], 1)
        log_prob = log_probs.gather(-1, index).squeeze(-1)
        if codes.dim() == 3:
            return Branch(mixture_log_prob(log_prob), entropy.mean(0), values.mean(0))
        return Branch(log_prob, entropy, values)

    # ------------------------------------------------------------- SB3 methods

    def forward(
        self, observation: PyTorchObs, deterministic: bool = False
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Act as in a rollout: actions, values, log-probabilities, each ``[B]``."""
        log_probs, values = self.outputs(observation, self.noise.acting)
        actions = _choose(log_probs, deterministic)
        return actions, values, log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def predict_values(self, observation: PyTorchObs) -> th.Tensor:
        """Return values as they are stored in a rollout, ``[B]``."""
        return self.outputs(observation, self.noise.acting)[1]

    def evaluate_actions(
        self, observation: PyTorchObs, actions: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return values, log-probabilities and entropies without noise, each ``[B]``."""
        log_probs, values = self.outputs(observation, "off")
        index = actions.long().reshape(-1, 1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return values, log_probs.gather(-1, index).squeeze(-1), entropy

    def get_distribution(self, observation: PyTorchObs) -> CategoricalDistribution:
        """Return the distribution of actions without noise."""
        log_probs, _ = self.outputs(observation, "off")
        return CategoricalDistribution(log_probs.shape[-1]).proba_distribution(log_probs)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        return _choose(self.outputs(observation, "off")[0], deterministic)


class MlpPolicy(IBACPolicy):
    """For observations of any kind that SB3 can flatten."""


class CnnPolicy(IBACPolicy):
    """For images only."""

    def __init__(self, observation_space: spaces.Space[Any], *args: Any, **kwargs: Any) -> None:
        if not is_image_space(observation_space, check_channels=False):
            raise RefusedError(
                f"CnnPolicy cannot take the observation space {observation_space}.",
                "Allowed: images, that is a Box of uint8 in [0, 255] with three dimensions.",
                "Use MlpPolicy.",
            )
        super().__init__(observation_space, *args, **kwargs)


def _choose(log_probs: th.Tensor, deterministic: bool) -> th.Tensor:
    """Return the likeliest actions, or drawn ones: ``[B]``."""
    if deterministic:
        return log_probs.argmax(-1)
    # What torch's multinomial computes, from the same random numbers, without its checks: they make
    # the host wait, which a CUDA graph does not allow.
    return (log_probs.exp() / th.empty_like(log_probs).exponential_()).argmax(-1)
