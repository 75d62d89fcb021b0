"""DER's networks, and how it acts: greedily on the expectation, with the noise of the weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import (
    get_flattened_obs_dim,
    is_image_space,
    preprocess_obs,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlzoo.agents.der.augment import random_shift
from rlzoo.agents.der.c51 import atoms, expectation
from rlzoo.agents.der.noisy import BiasFan, NoisyLinear, draw, summed
from rlzoo.agents.der.patches import PatchEncoder, fits
from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, check_arguments
from rlzoo.errors import RefusedError

Encoder = Literal["data-efficient", "nature", "small"]

# Channels, kernel, stride of each convolution; no padding.
_CONVOLUTIONS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "data-efficient": ((32, 5, 5), (64, 5, 5)),
    "nature": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    "small": ((32, 3, 1), (64, 3, 1)),  # [ours] for images of a few pixels
}


@dataclass(frozen=True)
class Head:
    """What the network predicts, and with which layers; the agent's arguments of the same names.

    Args:
        n_atoms: Atoms of the distribution; 1 for plain Q values.
        v_min: Smallest atom.
        v_max: Largest atom.
        dueling: Separate streams for value and advantages.
        sigma: ``sigma_0`` of the noisy layers; None for plain linear layers.
    """

    n_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    dueling: bool = True
    sigma: float | None = 0.1


class DERNetwork(nn.Module):
    """Encoder, then a hidden layer and an output layer for each of the streams.

    Args:
        encoder: Maps preprocessed observations to features ``[B, n_features]``.
        n_features: Their width.
        n_actions: Number of actions, ``A``.
        width: Width of the hidden layer of a stream.
        head: See :class:`Head`.
        shared_hidden: Both streams share their hidden layer.
        bias_fan: See :class:`~rlzoo.agents.der.noisy.NoisyLinear`.
    """

    def __init__(
        self,
        encoder: nn.Sequential,
        n_features: int,
        n_actions: int,
        width: int,
        head: Head,
        shared_hidden: bool,
        bias_fan: BiasFan,
    ) -> None:
        super().__init__()
        self.encoder, self.n_actions, self.n_atoms = encoder, n_actions, head.n_atoms

        def linear(n_inputs: int, n_outputs: int) -> nn.Module:
            if head.sigma is None:
                return nn.Linear(n_inputs, n_outputs)
            return NoisyLinear(n_inputs, n_outputs, head.sigma, bias_fan)

        self.advantage_hidden = linear(n_features, width)
        self.advantage = linear(width, n_actions * head.n_atoms)
        self.value_hidden = (
            linear(n_features, width) if head.dueling and not shared_hidden else None
        )
        self.value = linear(width, head.n_atoms) if head.dueling else None
        found = [layer for layer in self.modules() if isinstance(layer, NoisyLinear)]
        self._noisy_layers = tuple(found)  # walking through all modules takes longer than drawing

    def reset_noise(self) -> None:
        """Draw new noise for every noisy layer."""
        draw(self._noisy_layers)

    def summed_noise(self) -> AbstractContextManager[None]:
        """Form the noisy weights once for all evaluations within this context."""
        return summed(self._noisy_layers)

    def forward(self, inputs: th.Tensor, noisy: bool, shares: th.Tensor | None = None) -> th.Tensor:
        """Map preprocessed observations to logits (or Q values), ``[B, A, N]``.

        Args:
            inputs: As :meth:`DERPolicy.inputs` returns them.
            noisy: With the last drawn noise.
            shares: Of each action in the mean of the advantages, ``[A]``; None: equal.
        """
        features = self.encoder(inputs)
        hidden = _apply(self.advantage_hidden, features, noisy).relu()
        advantage = _apply(self.advantage, hidden, noisy).view(-1, self.n_actions, self.n_atoms)
        if self.value is None:
            return advantage
        if self.value_hidden is not None:
            hidden = _apply(self.value_hidden, features, noisy).relu()
        value = _apply(self.value, hidden, noisy).unsqueeze(1)
        if shares is None:
            return value + advantage - advantage.mean(1, keepdim=True)
        return value + advantage - (shares @ advantage).unsqueeze(1)


def _apply(layer: nn.Module, inputs: th.Tensor, noisy: bool) -> th.Tensor:
    output: th.Tensor = layer(inputs, noisy) if isinstance(layer, NoisyLinear) else layer(inputs)
    return output


class DERPolicy(BasePolicy):
    """Online and target network, and the optimiser of the online one.

    Args:
        observation_space: Images are scaled to [0, 1], all else is flattened.
        action_space: Discrete.
        lr_schedule: Learning rate.
        net_arch: Hidden widths. The last one is that of the streams; those before it are plain
            layers in front of them, without images only. None: [256] for images, else [128, 128].
        encoder: Convolutions for images: ``"data-efficient"`` (paper), ``"nature"`` (DQN), or
            ``"small"`` (two of 3x3) for images below 25 pixels.
        shared_hidden: The streams share their hidden layer (Dopamine).
        bias_fan: Scale of the biases' noise: ``"out"`` (Kaixhin's code) or ``"in"`` (Dopamine).
        adam_eps: ``epsilon`` of Adam.
        head: Set by the agent.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Discrete,
        lr_schedule: Schedule,
        net_arch: Sequence[Annotated[int, AT_LEAST_ONE]] | None = None,
        encoder: Encoder = "data-efficient",
        shared_hidden: bool = False,
        bias_fan: BiasFan = "out",
        adam_eps: Annotated[float, POSITIVE] = 1.5e-4,
        head: Head | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_arguments(DERPolicy.__init__, arguments, owner=type(self).__name__)
        super().__init__(observation_space, action_space)
        self.net_arch = None if net_arch is None else list(net_arch)
        self.encoder, self.shared_hidden, self.bias_fan = encoder, shared_hidden, bias_fan
        self.adam_eps, self.head = adam_eps, head or Head()
        self.is_image = is_image_space(observation_space, check_channels=False)
        self.q_net, self.q_net_target = self._make_network(), self._make_network()
        self.q_net_target.load_state_dict(self.q_net.state_dict())
        self.q_net_target.requires_grad_(False)
        z = atoms(self.head.v_min, self.head.v_max, self.head.n_atoms)
        self.register_buffer("support", z, persistent=False)
        self.optimizer = th.optim.Adam(
            self.q_net.parameters(), lr=lr_schedule(1), eps=adam_eps, fused=True
        )

    support: th.Tensor

    def _make_network(self) -> DERNetwork:
        widths = self.net_arch or ([256] if self.is_image else [128, 128])
        encoder, n_features = (
            _convolutions(self.observation_space, self.encoder, widths)
            if self.is_image
            else _layers(self.observation_space, widths[:-1])
        )
        n_actions = int(spaces.flatdim(self.action_space))
        return DERNetwork(
            encoder, n_features, n_actions, widths[-1], self.head, self.shared_hidden,
            self.bias_fan,
        )  # fmt: skip

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "encoder": self.encoder,
            "shared_hidden": self.shared_hidden,
            "bias_fan": self.bias_fan,
            "adam_eps": self.adam_eps,
            "head": self.head,
        }

    def set_training_mode(self, mode: bool) -> None:
        """Switch as in SB3; called three times per step, so that nothing is done for nothing."""
        if self.training != mode:
            for module in self.modules():
                module.__dict__["training"] = mode  # plain; setting an attribute searches others

    def inputs(self, observation: PyTorchObs, shift: int = 0) -> th.Tensor:
        """Return what the networks take: floats, images in [0, 1] or their patches.

        Args:
            observation: A batch.
            shift: Shift images at random by up to so many pixels.
        """
        if isinstance(observation, th.Tensor) and observation.dtype == th.uint8 and self.is_image:
            encoder = self.q_net.encoder
            if isinstance(encoder, PatchEncoder) and not shift and observation.device.type == "cpu":
                return encoder.patches(observation)
            return random_shift(observation.float().div_(255), shift)  # no second copy, unlike SB3
        found = preprocess_obs(observation, self.observation_space)
        if not isinstance(found, th.Tensor):
            raise TypeError(f"DER takes array observations, not {type(observation).__name__}")
        return found

    def values(self, outputs: th.Tensor) -> th.Tensor:
        """Return Q values of what the network gives: ``[B, A, N]`` to ``[B, A]``."""
        if self.head.n_atoms == 1:
            return outputs.squeeze(-1)
        return expectation(outputs, self.support)

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        """Return actions, ``[B]``."""
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if not deterministic:
            self.q_net.reset_noise()
        return self.values(self.q_net(self.inputs(observation), not deterministic)).argmax(-1)


class MlpPolicy(DERPolicy):
    """For observations of any kind that SB3 can flatten."""


class CnnPolicy(DERPolicy):
    """For images only."""

    def __init__(self, observation_space: spaces.Space[Any], *args: Any, **kwargs: Any) -> None:
        if not is_image_space(observation_space, check_channels=False):
            raise RefusedError(
                f"CnnPolicy cannot take the observation space {observation_space}.",
                "Allowed: images, that is a Box of uint8 in [0, 255] with three dimensions.",
                "Use MlpPolicy.",
            )
        super().__init__(observation_space, *args, **kwargs)


def _convolutions(
    space: spaces.Space[Any], name: str, widths: Sequence[int]
) -> tuple[nn.Sequential, int]:
    channels, *size = space.shape or ()
    if len(widths) > 1:
        raise RefusedError(
            f"net_arch={list(widths)} has {len(widths)} layers.",
            "Allowed for images: one, the width of the streams behind the convolutions.",
        )
    layers: list[nn.Module] = []
    for n_outputs, kernel, stride in _CONVOLUTIONS[name]:
        layers += [nn.Conv2d(channels, n_outputs, kernel, stride), nn.ReLU()]
        channels, size = n_outputs, [(n - kernel) // stride + 1 for n in size]
        if min(size) < 1:
            raise RefusedError(
                f"Images of shape {space.shape} are too small for the encoder {name!r}.",
                "Allowed: at least 25 ('data-efficient'), 36 ('nature') or 5 ('small') pixels.",
                "Set policy_kwargs.encoder=small.",
            )
    layers.append(nn.Flatten())
    encoder = PatchEncoder(space.shape or (), *layers) if fits(layers) else nn.Sequential(*layers)
    return encoder, channels * size[0] * size[1]


def _layers(space: spaces.Space[Any], widths: Sequence[int]) -> tuple[nn.Sequential, int]:
    n_features, layers = get_flattened_obs_dim(space), [nn.Flatten()]
    sequence: list[nn.Module] = list(layers)
    for width in widths:
        sequence += [nn.Linear(n_features, width), nn.ReLU()]
        n_features = width
    return nn.Sequential(*sequence), n_features
