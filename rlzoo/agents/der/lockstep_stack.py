"""Networks and Adam of several agents as tensors with an axis for the agents.

While they are stacked, the tensors of each agent (parameters of both networks, moments of Adam) are
views of its part: the agent acts, and is saved, as always. Fewer actions than the most are padded
with rows of zeros, behind an agent's own, which stay zero: they are in no mean, no choice and no
loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch as th
from gymnasium import spaces
from torch import nn
from torch.func import functional_call, vmap

from rlzoo.agents.der.der import DER
from rlzoo.agents.der.noisy import NoisyLinear
from rlzoo.agents.der.policies import DERNetwork
from rlzoo.core.capture import adopt_loaded
from rlzoo.errors import RefusedError

Tensors = dict[str, th.Tensor]


class NoiseLayout:
    """Where the noise of each layer lies in a row of numbers, and which of it an agent has.

    Args:
        networks: Of ``S`` agents; noisy layers of the same names.
    """

    def __init__(self, networks: Sequence[DERNetwork]) -> None:
        layers = [_noisy_layers(network) for network in networks]
        self.slices: dict[str, tuple[slice, slice]] = {}
        own: list[list[th.Tensor]] = [[] for _ in networks]
        start = 0
        for name in layers[0]:
            parts = []
            for kind in ("noise_in", "noise_out"):
                sizes = [len(getattr(found[name], kind)) for found in layers]
                for places, size in zip(own, sizes, strict=True):
                    places.append(th.arange(start, start + size))
                parts.append(slice(start, start + max(sizes)))
                start += max(sizes)
            self.slices[name] = (parts[0], parts[1])
        self.width = start
        empty = th.zeros(0, dtype=th.int64)
        self.places = [th.cat([empty, *places]) for places in own]
        """Of the numbers of each agent, in the order in which it draws them alone."""

    def of(self, row: th.Tensor) -> Tensors:
        """Return the noise of all layers by name of the buffer, from ``[S, width]``."""
        return {
            f"{name}.{kind}": row[:, part]
            for name, parts in self.slices.items()
            for kind, part in zip(("noise_in", "noise_out"), parts, strict=True)
        }


class Stack:
    """What :class:`~rlzoo.agents.der.lockstep.LockStep` updates.

    Args:
        agents: With equal settings.
        layout: Of the noise.
        graph: Whether updates will be captured as a CUDA graph.

    Raises:
        RefusedError: If their optimisers have taken different numbers of steps.
    """

    def __init__(self, agents: Sequence[DER], layout: NoiseLayout, graph: bool) -> None:
        self.agents, self._layout = list(agents), layout
        counts = [int(spaces.flatdim(agent.action_space)) for agent in agents]
        device = agents[0].device
        own = th.tensor(counts, device=device)[:, None]
        self.mask = th.arange(max(counts), device=device) < own
        """Whether an agent has an action, ``[S, A]``."""
        self.shares = self.mask / own
        self._network = agents[counts.index(max(counts))].q_net  # only its structure is used
        steps = [_steps(agent) for agent in agents]
        if len(set(steps)) > 1:
            raise RefusedError(
                f"The agents have taken {', '.join(map(str, sorted(set(steps))))} updates.",
                "Allowed in lock-step: agents that are new, or have taken as many.",
            )
        self.online = self._join([agent.q_net for agent in agents])
        self.target = self._join([agent.q_net_target for agent in agents])
        for tensor in self.online.values():
            tensor.requires_grad_()
        self.optimizer = th.optim.Adam(
            self.online.values(), lr=agents[0].lr_schedule(1.0), fused=True,
            eps=agents[0].policy.adam_eps,
        )  # fmt: skip
        adopt_loaded(self.optimizer, graph)
        self._join_moments(steps[0])

    # ------------------------------------------------------------------ joining

    def _join(self, networks: Sequence[nn.Module]) -> Tensors:
        """Stack the parameters of networks, which become views of the result."""
        named = [dict(network.named_parameters()) for network in networks]
        return {name: _stacked([found[name] for found in named]) for name in named[0]}

    def _join_moments(self, steps: int) -> None:
        """Stack the moments of Adam; they exist from the start, so that an agent can be saved."""
        for name, joined in self.online.items():
            owners = [
                (a.policy.optimizer, dict(a.q_net.named_parameters())[name]) for a in self.agents
            ]
            state: dict[str, Any] = {"step": th.tensor(float(steps), device=joined.device)}
            for key in ("exp_avg", "exp_avg_sq"):
                parts = [o.state[p].get(key, th.zeros_like(p)) for o, p in owners]
                state[key] = _stacked(parts)
                for (optimizer, parameter), part in zip(owners, parts, strict=True):
                    optimizer.state[parameter][key] = part
            for optimizer, parameter in owners:
                optimizer.state[parameter]["step"] = state["step"]
            self.optimizer.state[joined] = state
        for agent in self.agents:
            rate = self.optimizer.param_groups[0]["lr"]
            if isinstance(rate, th.Tensor):
                agent.policy.optimizer.param_groups[0]["lr"] = rate

    @th.no_grad()
    def release(self) -> None:
        """Give every agent tensors of its own; this stack is not to be used any more."""
        for agent in self.agents:
            for network in (agent.q_net, agent.q_net_target):
                for parameter in network.parameters():
                    parameter.data = parameter.data.clone()
                    parameter.grad = None
            optimizer = agent.policy.optimizer
            for state in optimizer.state.values():
                state.update({key: value.clone() for key, value in state.items()})
            for group in optimizer.param_groups:
                group["lr"] = (
                    group["lr"].clone() if isinstance(group["lr"], th.Tensor) else group["lr"]
                )

    # ----------------------------------------------------------------- updating

    def clip(self, largest: float | None) -> th.Tensor:
        """Scale the gradients of each agent down by its norm; return the norms, ``[S]``."""
        gradients = [p.grad for p in self.online.values() if p.grad is not None]
        parts = [th.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients]
        norms = th.linalg.vector_norm(th.stack(parts), dim=0)
        if largest is not None:
            factors = (largest / (norms + 1e-6)).clamp_(max=1)  # as clip_grads_with_norm_
            for gradient in gradients:
                gradient.mul_(factors.view(-1, *(1 for _ in gradient.shape[1:])))
        return cast(th.Tensor, norms)

    @th.no_grad()
    def copy_target(self) -> None:
        """Copy the online to the target networks."""
        th._foreach_copy_(list(self.target.values()), list(self.online.values()))

    # --------------------------------------------------------------- evaluating

    def with_noise(self, row: th.Tensor) -> Tensors:
        """Return the online parameters and noise, for one evaluation of few rows."""
        return self.online | self._layout.of(row)

    def summed(self, parameters: Tensors, row: th.Tensor) -> Tensors:
        """Return parameters to which the noise ``[S, width]`` is added, for many rows."""
        noise, result = self._layout.of(row), dict(parameters)
        for name in self._layout.slices:
            out = noise[f"{name}.noise_out"]
            outer = out.unsqueeze(2) * noise[f"{name}.noise_in"].unsqueeze(1)
            for kind, factor in (("weight", outer), ("bias", out)):
                mean, spread = parameters[f"{name}.{kind}"], parameters[f"{name}.{kind}_sigma"]
                result[f"{name}.{kind}"] = th.addcmul(mean, spread, factor)
        return result

    def evaluate(self, tensors: Tensors, inputs: th.Tensor, noisy: bool = False) -> th.Tensor:
        """Map inputs ``[S, B, ...]`` to logits (or Q values), ``[S, B, A, N]``.

        Args:
            tensors: Parameters, with noise added, or beside them.
            inputs: As ``DERPolicy.inputs`` returns them.
            noisy: The noise is beside the parameters.
        """

        def one(tensors: Tensors, shares: th.Tensor, inputs: th.Tensor) -> th.Tensor:
            output: th.Tensor = functional_call(self._network, tensors, (inputs, noisy, shares))
            return output

        outputs: th.Tensor = vmap(one)(tensors, self.shares, inputs)
        return outputs

    def best(self, outputs: th.Tensor) -> th.Tensor:
        """Return the best actions that agents have, ``[S, B]``."""
        values: th.Tensor = self.agents[0].policy.values(outputs)
        return values.masked_fill(~self.mask.unsqueeze(1), -th.inf).argmax(-1)


def _noisy_layers(network: nn.Module) -> dict[str, NoisyLinear]:
    return {name: x for name, x in network.named_modules() if isinstance(x, NoisyLinear)}


def _steps(agent: DER) -> int:
    """Return the steps that an agent's optimiser has taken."""
    states = agent.policy.optimizer.state.values()
    return max((int(state["step"]) for state in states if "step" in state), default=0)


@th.no_grad()
def _stacked(parts: Sequence[th.Tensor]) -> th.Tensor:
    """Stack tensors, padded along their first axis; they become views of the result."""
    longest = max(parts, key=len)
    result = th.zeros(len(parts), *longest.shape, dtype=longest.dtype, device=longest.device)
    for row, part in zip(result, parts, strict=True):
        view = row[: len(part)]
        view.copy_(part)
        part.data = view
    return result
