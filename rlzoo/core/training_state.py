"""Everything that a model needs to go on as if it had never stopped, without pickle.

SB3's ``save`` keeps weights and optimisers but no generators, and ``load`` seeds them again: a run
that goes on from it is another run. :func:`capture` takes the rest as well, for any SB3 model at a
*boundary*: an offline agent after an update, any other at the start of a rollout, where SB3 has
neither an unfinished rollout nor a transition in flight.

Not included, because they are kept elsewhere: environments (replayed, see
:class:`rlzoo.envs.training.TrainingVecEnv`) and replay buffers (:mod:`rlzoo.core.replay_files`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise
from stable_baselines3.common.save_util import recursive_getattr

from rlzoo.core import json_tree
from rlzoo.core.json_tree import NotPortableError
from rlzoo.core.safe_zip import saved_attributes
from rlzoo.core.seeding import get_states, set_states

# Set by learn() itself, or a matter of where the model runs.
_NOT_STATE = {
    "seed", "device", "verbose", "start_time", "n_envs", "_total_timesteps", "_custom_logger",
    "_num_timesteps_at_start",
}  # fmt: skip


def capture(model: BaseAlgorithm, in_rollout: bool = True) -> dict[str, Any]:
    """Return the parts of a checkpoint; tensors are not copied, attributes are.

    Args:
        model: Any SB3 model.
        in_rollout: Whether ``on_rollout_start`` was called for what comes next: SB3 draws the
            exploration matrix of gSDE before it.

    Returns:
        ``parameters``: networks and optimisers; ``variables``: other trained tensors;
        ``attributes``: counters and statistics; ``extra``: what the agent adds by
        ``get_extra_state``;
        ``volatile``: generators, noise processes and pending log values, which
        :func:`restore_volatile` puts back when everything else has been made.
    """
    _, variables = model._get_torch_save_params()
    return {
        "parameters": model.get_parameters(),
        "variables": {
            name: tensor.detach()
            for name in variables
            if (tensor := recursive_getattr(model, name)) is not None
        },
        "attributes": _attributes(model),
        "extra": model.get_extra_state() if hasattr(model, "get_extra_state") else {},
        "volatile": {
            "generators": get_states(),
            "action_space": _action_generator(model).bit_generator.state,
            "noise": [n.noise_prev for n in _processes(getattr(model, "action_noise", None))],
            "exploration": _exploration(model) if in_rollout else None,
            "log": _pending_log(model),
        },
    }


def restore(model: BaseAlgorithm, parts: Mapping[str, Any]) -> None:
    """Put weights, optimisers, counters and statistics into a freshly made model.

    Settings stay those of the model: constructor arguments are never overwritten.
    """
    model.set_parameters(parts["parameters"], exact_match=True, device=model.device)
    with th.no_grad():
        for name, tensor in parts["variables"].items():
            recursive_getattr(model, name).copy_(tensor)
    for name, value in parts["attributes"].items():
        if name not in _settings(model):
            setattr(model, name, value)
    if parts["extra"]:
        model.set_extra_state(parts["extra"])  # type: ignore[attr-defined]


def restore_volatile(model: BaseAlgorithm, parts: Mapping[str, Any]) -> None:
    """Put generators, noise and pending log values back: the last thing before training goes on.

    ``learn`` draws random numbers and resets noise on its way to the first rollout, so this is for
    the first ``on_rollout_start``.
    """
    state = parts["volatile"]
    _action_generator(model).bit_generator.state = state["action_space"]
    noises = _processes(getattr(model, "action_noise", None))
    for noise, previous in zip(noises, state["noise"], strict=True):
        noise.noise_prev = np.array(previous)
    log = state["log"]
    for name in ("name_to_value", "name_to_count", "name_to_excluded"):
        pending = getattr(model.logger, name)
        pending.clear()
        pending.update(log[name])
    set_states(state["generators"])
    if state["exploration"] is not None:
        for distribution, drawn in zip(_distributions(model), state["exploration"], strict=True):
            for name, tensor in drawn.items():
                setattr(distribution, name, tensor.to(model.device))
    elif model.use_sde:
        cast(Any, getattr(model, "actor", model.policy)).reset_noise(model.n_envs)


def _settings(model: BaseAlgorithm) -> set[str]:
    return {*inspect.signature(type(model).__init__).parameters, *_NOT_STATE}


def _attributes(model: BaseAlgorithm) -> dict[str, Any]:
    """Return plain attributes that are not settings; what holds code or spaces is a setting."""
    found, settings = {}, _settings(model)
    for name, value in saved_attributes(model).items():
        if name in settings:
            continue
        try:
            json_tree.encode(value)
        except NotPortableError:
            continue
        # A copy: the state of the start of a rollout is kept while episodes end in it, and those
        # would be counted again by whoever goes on from there.
        found[name] = copy.deepcopy(value)
    return found


def _action_generator(model: BaseAlgorithm) -> np.random.Generator:
    """The generator of the random actions before learning starts."""
    return model.action_space.np_random


def _processes(noise: Any) -> Iterator[OrnsteinUhlenbeckActionNoise]:
    """Give the noise processes that remember their last value."""
    if isinstance(noise, VectorizedActionNoise):
        for inner in noise.noises:
            yield from _processes(inner)
    elif isinstance(noise, OrnsteinUhlenbeckActionNoise):
        yield noise


def _distributions(model: BaseAlgorithm) -> list[Any]:
    """Return the action distributions that hold a drawn exploration matrix (gSDE)."""
    if not model.use_sde:
        return []
    owners = [model.policy, getattr(model.policy, "actor", None)]
    found = [getattr(owner, "action_dist", None) for owner in owners]
    return [dist for dist in found if hasattr(dist, "exploration_mat")]


def _exploration(model: BaseAlgorithm) -> list[dict[str, th.Tensor]]:
    return [
        {
            name: getattr(dist, name).detach().clone()
            for name in ("exploration_mat", "exploration_matrices")
        }
        for dist in _distributions(model)
    ]


def _pending_log(model: BaseAlgorithm) -> dict[str, dict[str, Any]]:
    """Return what was recorded since the last line of the log (the numbers of it)."""
    logger = model.logger
    values = {name: value for name, value in logger.name_to_value.items() if np.isscalar(value)}
    return {
        "name_to_value": values,
        "name_to_count": {name: logger.name_to_count[name] for name in values},
        "name_to_excluded": {name: logger.name_to_excluded.get(name, ()) for name in values},
    }
