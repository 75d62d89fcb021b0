"""Taking the actor out of an SB3 model, and writing it as a behaviour that can ship."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from rlzoo.data.behaviours import FORMAT, Behaviour, space_to_card
from rlzoo.errors import RefusedError

CARD_FIELDS = {
    "env_id": str,
    "level": str,
    "steps": int,
    "command": str,
    "commit": str,
    "episodes": int,
    "return_mean": float,
    "return_std": float,
    "deterministic_return_mean": float,
    "deterministic_return_std": float,
}
"""What the caller of :func:`export` has to say: origin, and undiscounted returns of ``episodes``
episodes (100 for shipped ones) of the sampled and of the deterministic policy."""


def extract(model: Any, card: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the card and the float32 weights of an SB3 SAC, TQC, CrossQ, TD3 or DDPG actor.

    Batch normalisation (CrossQ) is folded into the linear layers with its running statistics.

    Args:
        model: The model; flat observations, no gSDE.
        card: Facts to store, see :data:`CARD_FIELDS`; more are allowed.

    Raises:
        RefusedError: If the actor is not such an MLP.
    """
    actor = getattr(model.policy, "actor", None)
    space, actions = model.observation_space, model.action_space
    flat = all(isinstance(s, spaces.Box) and len(s.shape) == 1 for s in (space, actions))
    if actor is None or not flat or getattr(actor, "use_sde", False):
        raise RefusedError(
            f"Cannot take a behaviour out of {type(model).__name__} with {space}.",
            "Allowed: SAC, TQC, CrossQ, TD3 or DDPG with flat observations and without gSDE.",
        )
    gaussian = hasattr(actor, "latent_pi")
    if gaussian:
        chain = _Chain([*actor.latent_pi])
        heads = {"mean": chain.head(actor.mu), "log_std": chain.head(actor.log_std)}
    else:
        modules: list[nn.Module] = list(actor.mu)  # ... linear, tanh
        chain = _Chain(modules[:-2])
        heads = {"mean": chain.head(modules[-2])}
    named = {**{f"layer{i}": layer for i, layer in enumerate(chain.layers)}, **heads}
    weights = {
        f"{name}.{what}": np.ascontiguousarray(value.numpy().astype(np.float32))
        for name, layer in named.items()
        for what, value in zip(("weight", "bias"), layer, strict=True)
    }
    full = {
        **card,
        "format": FORMAT,
        "kind": "squashed_gaussian" if gaussian else "tanh",
        "activation": chain.activation or "relu",
        "algorithm": type(model).__name__,
        "observation_space": space_to_card(space),
        "action_space": space_to_card(actions),
    }
    return full, weights


class _Chain:
    """Linear layers of a Sequential, in float64, with batch normalisation folded in."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.activation: str | None = None
        self._affine: tuple[torch.Tensor, torch.Tensor] | None = None
        for module in modules:
            self._take(module)

    def _take(self, module: nn.Module) -> None:
        from sb3_contrib.common.torch_layers import BatchRenorm

        if isinstance(module, nn.Linear):
            self.layers.append(self.head(module))
            self._affine = None
        elif isinstance(module, BatchRenorm) and self._affine is None:
            scale = _double(module.scale) if module.affine else torch.ones(1, dtype=torch.double)
            shift = _double(module.bias) if module.affine else torch.zeros(1, dtype=torch.double)
            scale = scale / (_double(module.ra_var) + module.eps).sqrt()
            self._affine = (scale, shift - scale * _double(module.ra_mean))
        elif isinstance(module, (nn.ReLU, nn.Tanh)) and self.activation in (None, _name(module)):
            self.activation = _name(module)
        else:
            raise RefusedError(
                f"Cannot store the layer {module} of an actor.",
                "Allowed: Linear, BatchRenorm, and one of ReLU and Tanh throughout.",
            )

    def head(self, linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``(weight, bias)`` of a linear layer behind what came so far."""
        if not isinstance(linear, nn.Linear):
            raise RefusedError(f"Cannot store the layer {linear} of an actor.", "Allowed: Linear.")
        weight, bias = _double(linear.weight), _double(linear.bias)
        if self._affine is not None:
            scale, shift = self._affine
            weight, bias = weight * scale, bias + weight @ shift
        return weight, bias


def _name(module: nn.Module) -> str:
    return type(module).__name__.lower()


def _double(tensor: Any) -> torch.Tensor:
    value: torch.Tensor = tensor.detach().cpu().double()
    return value


def export(model: Any, path: str | Path, card: Mapping[str, Any]) -> Behaviour:
    """Write ``<path>.safetensors`` and ``<path>.json``, and return the behaviour.

    Args:
        model: SB3 SAC, TQC, CrossQ, TD3 or DDPG model.
        path: Without a suffix, such as ``behaviours/hopper-medium``.
        card: :data:`CARD_FIELDS`, and anything else worth telling; JSON-able.

    Raises:
        RefusedError: If the card lacks a field or the actor cannot be stored.
    """
    from safetensors.numpy import save

    missing = [name for name in CARD_FIELDS if name not in card]
    if missing:
        raise RefusedError(f"The card of {path} lacks {', '.join(missing)}.")
    full, weights = extract(model, {k: CARD_FIELDS.get(k, lambda v: v)(v) for k, v in card.items()})
    data = save(weights)
    full["weights_sha256"] = hashlib.sha256(data).hexdigest()
    behaviour = Behaviour(full, weights)
    text = json.dumps(full, indent=2, sort_keys=True) + "\n"
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # the card last: without it the weights are not found, so a kill in between leaves nothing odd
    for suffix, content in ((".safetensors", data), (".json", text.encode())):
        temporary = target.with_name(f"{target.name}{suffix}.tmp")
        temporary.write_bytes(content)
        os.replace(temporary, target.with_name(target.name + suffix))
    return behaviour
