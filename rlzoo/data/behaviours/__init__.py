"""Small trained policies that ship with the package: weights (safetensors) and a JSON card each.

``load_behaviour("Hopper-v4", "medium")`` gives a policy for the collector that also has the
``predict`` of SB3. Files are made by :func:`rlzoo.data.behaviours.extract.export`.
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from rlzoo.data.policies import Step
from rlzoo.errors import RefusedError, did_you_mean

FORMAT = 1
KINDS = ("squashed_gaussian", "tanh")
ACTIVATIONS = ("relu", "tanh")
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # the same in SB3's SAC and sb3-contrib's TQC and CrossQ


def space_to_card(space: spaces.Box) -> dict[str, Any]:
    """Return a one-dimensional Box as JSON-able bounds; infinities become strings."""

    def plain(values: NDArray[Any]) -> list[float | str]:
        return [float(v) if np.isfinite(v) else str(float(v)) for v in values]

    return {"low": plain(space.low), "high": plain(space.high), "dtype": str(space.dtype)}


def space_from_card(card: dict[str, Any]) -> spaces.Box:
    """Return the Box that :func:`space_to_card` wrote."""
    dtype = np.dtype(card["dtype"])
    low, high = (np.array([float(v) for v in card[k]], dtype=dtype) for k in ("low", "high"))
    return spaces.Box(low, high, dtype=dtype.type)


class Behaviour:
    """An MLP policy: squashed Gaussian, or deterministic with a tanh at the end.

    The layers are evaluated in float64 and rounded to float32 at the very end: how a BLAS orders
    its sums (which differs between processors and thread counts) then hardly ever reaches the
    action, at a cost of about 3 microseconds per action.

    Args:
        card: As in the JSON file; keys that matter here: ``kind``, ``activation``,
            ``observation_space``, ``action_space``, ``weights_sha256``.
        weights: ``layer0.weight [out, in]``, ``layer0.bias [out]`` …, ``mean.*`` and, for the
            Gaussian, ``log_std.*``.

    Raises:
        RefusedError: If the layers do not fit each other or the card.
    """

    uniforms = 0

    def __init__(self, card: dict[str, Any], weights: dict[str, NDArray[Any]]) -> None:
        if card.get("format") != FORMAT or card.get("kind") not in KINDS:
            raise RefusedError(
                f"Behaviour card has format {card.get('format')!r}, kind {card.get('kind')!r}.",
                f"Allowed: format {FORMAT}, kind {' or '.join(KINDS)}.",
            )
        self.card = card
        self.observation_space = space_from_card(card["observation_space"])
        self.action_space = space_from_card(card["action_space"])
        self._size = int(self.action_space.shape[0])
        self._gaussian = card["kind"] == "squashed_gaussian"
        self.normals = self._size if self._gaussian else 0
        self._low = self.action_space.low.astype(np.float64)
        self._span = self.action_space.high.astype(np.float64) - self._low
        self._layers = self._stack(weights)
        self._rng = np.random.default_rng()

    def _stack(self, weights: dict[str, NDArray[Any]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Return ``(weight [in, out], bias [out])`` per layer; both heads are one matrix."""
        depth = sum(name.startswith("layer") and name.endswith(".weight") for name in weights)
        heads = ["mean", "log_std"] if self._gaussian else ["mean"]
        try:
            parts = [[f"layer{i}"] for i in range(depth)] + [heads]
            layers = [
                tuple(
                    np.concatenate([weights[f"{name}.{what}"] for name in names]).astype(np.float64)
                    for what in ("weight", "bias")
                )
                for names in parts
            ]
        except KeyError as error:
            raise RefusedError(f"Behaviour weights lack {error}.") from error
        sizes = [
            int(self.observation_space.shape[0]),
            *(w.shape[0] for w, _ in layers[:-1]),
            self._size * len(heads),
        ]
        for (weight, bias), (fan_in, fan_out) in zip(layers, pairwise(sizes), strict=True):
            if weight.shape != (fan_out, fan_in) or bias.shape != (fan_out,):
                raise RefusedError(
                    f"Behaviour layer has shape {weight.shape}, expected {(fan_out, fan_in)}."
                )
        return [(np.ascontiguousarray(weight.T), bias) for weight, bias in layers]

    def _outputs(self, observations: NDArray[Any]) -> NDArray[np.float64]:
        # through float32, as SB3 sees them and as they are stored
        x = observations.astype(np.float32).astype(np.float64)
        relu = self.card["activation"] == "relu"
        for weight, bias in self._layers[:-1]:
            x = x @ weight
            x += bias
            x = np.maximum(x, 0.0, out=x) if relu else np.tanh(x, out=x)
        weight, bias = self._layers[-1]
        out: NDArray[np.float64] = x @ weight + bias
        return out

    def _actions(
        self, observations: NDArray[Any], normals: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        out = self._outputs(observations)
        value = out[:, : self._size]
        if normals is not None and self._gaussian:
            value = (
                value + np.exp(np.clip(out[:, self._size :], LOG_STD_MIN, LOG_STD_MAX)) * normals
            )
        actions = self._low + 0.5 * (np.tanh(value) + 1.0) * self._span
        return actions.astype(np.float32)

    def act(
        self, observations: NDArray[Any], step: Step, deterministic: bool = False
    ) -> NDArray[np.float32]:
        """Return ``[n, action_size]`` actions in the units of the environment."""
        return self._actions(observations, None if deterministic else step.normals)

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Any]:
        """Return the action of one observation or of a batch, and ``state``, as SB3 does.

        Samples come from the policy's own generator, see :meth:`set_random_seed`.
        """
        batch = np.asarray(observation)
        single = batch.ndim == 1
        batch = batch[None] if single else batch
        normals = None if deterministic else self._rng.standard_normal((len(batch), self._size))
        actions = self._actions(batch, normals)
        return (actions[0] if single else actions), state

    def set_random_seed(self, seed: int | None) -> None:
        """Seed the generator that :meth:`predict` samples from."""
        self._rng = np.random.default_rng(seed)

    def describe(self) -> dict[str, Any]:
        """Return kind, origin and digest of the weights."""
        keys = ("env_id", "level", "algorithm", "steps")
        return {
            "kind": "behaviour",
            **{key: self.card.get(key) for key in keys},
            "sha256": self.card["weights_sha256"],
        }


def __getattr__(name: str) -> Any:
    if name == "export":  # needs torch and SB3, so only on demand
        from rlzoo.data.behaviours.extract import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _folder(folder: Path | None) -> Traversable:
    return resources.files(__package__) if folder is None else folder


def _cards(folder: Path | None) -> dict[tuple[str, str], tuple[str, dict[str, Any]]]:
    """Return ``(env_id, level) -> (stem, card)`` of the shipped behaviours."""
    found = {}
    where = _folder(folder)
    if not where.is_dir():
        raise RefusedError(f"{where} is not a folder of behaviours.")
    for entry in sorted(where.iterdir(), key=lambda e: e.name):
        if not entry.name.endswith(".json"):
            continue
        try:
            card = json.loads(entry.read_text(encoding="utf-8"))
            found[card["env_id"], card["level"]] = (entry.name.removesuffix(".json"), card)
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RefusedError(f"{entry.name} is not a card of a behaviour.") from error
    return found


def available(folder: Path | None = None) -> list[tuple[str, str]]:
    """Return the sorted ``(env_id, level)`` of the behaviours that ship with the package.

    Args:
        folder: Look here instead.
    """
    return sorted(_cards(folder))


def load_behaviour(env_id: str, level: str, folder: Path | None = None) -> Behaviour:
    """Return a shipped behaviour.

    Args:
        env_id: Such as ``"Hopper-v4"``.
        level: ``"medium"`` or ``"expert"``.
        folder: Look here instead of in the package.

    Raises:
        RefusedError: If there is none, or if the weights are not those that the card names.
    """
    cards = _cards(folder)
    if (env_id, level) not in cards:
        names = [f"{env} {name}" for env, name in cards]
        wanted = f"{env_id} {level}"
        raise RefusedError(
            f"No behaviour {wanted!r} ships with rlzoo. {did_you_mean(wanted, names)}".rstrip(),
            f"Shipped: {', '.join(names) or 'none'}.",
            "Give a model file as the policy instead.",
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load

    stem, card = cards[env_id, level]
    try:
        data = (_folder(folder) / f"{stem}.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise RefusedError(
            f"The weights {stem}.safetensors are missing.", todo="Reinstall rlzoo."
        ) from error
    if hashlib.sha256(data).hexdigest() != card.get("weights_sha256"):
        raise RefusedError(
            f"The weights {stem}.safetensors ({len(data)} bytes) are not those of their card.",
            f"Expected sha256 {card.get('weights_sha256')}.",
            "Reinstall rlzoo.",
        )
    try:
        return Behaviour(card, load(data))
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, RefusedError):
            raise
        raise RefusedError(f"Behaviour {stem} is damaged: {error}") from error
