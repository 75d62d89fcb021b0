"""One seed gives named streams, and generator states can be written down without pickle.

``stream(seed, "env", 3)`` is the first 32 bits of the SHA-256 of ``"seed/env/3"``: the same on
every machine, independent between names, and never the seed itself. Evaluation and training streams
therefore cannot overlap by accident.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any

import numpy as np
import torch

from rlzoo.errors import RefusedError

MAX_SEED = 2**32 - 1


def check_seed(seed: Any) -> int:
    """Return the seed as an int.

    Raises:
        RefusedError: If it is not an integer in ``[0, 2**32 - 1]`` (the range that NumPy, torch
            and Gymnasium all accept).
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise RefusedError(f"seed={seed!r} is not an integer.", f"Allowed: 0 to {MAX_SEED}.")
    if not 0 <= int(seed) <= MAX_SEED:
        raise RefusedError(f"seed={seed} is out of range.", f"Allowed: 0 to {MAX_SEED}.")
    return int(seed)


def stream(seed: int, *names: str | int) -> int:
    """Return the seed of a named stream, in ``[0, 2**32 - 1]``.

    Args:
        seed: The seed of the run.
        names: Path of the stream, as in ``stream(seed, "collect", slot, episode)``. A slash in a
            name is part of the name: ``"a/b"`` and ``"a", "b"`` are two streams.
    """
    # Escaped as in a JSON pointer.
    path = "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "little")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (every device) from one seed."""
    random.seed(stream(seed, "python"))
    np.random.seed(stream(seed, "numpy"))  # noqa: NPY002 - SB3 draws from the global generator
    torch.manual_seed(stream(seed, "torch"))


def get_states() -> dict[str, Any]:
    """Return the states of the global generators as JSON-able values (ints, strings, lists)."""
    # The legacy layout, a tuple, is asked for by name; the type stubs know only the general case.
    numpy_state: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    kind, keys, position, has_gauss, gauss = numpy_state
    version, internal, gauss_next = random.getstate()
    states: dict[str, Any] = {
        "python": [version, list(internal), gauss_next],
        "numpy": [kind, keys.tobytes().hex(), int(position), int(has_gauss), float(gauss)],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if torch.cuda.is_available():
        states["cuda"] = [bytes(s.tolist()).hex() for s in torch.cuda.get_rng_state_all()]
    return states


def set_states(states: dict[str, Any]) -> None:
    """Restore what :func:`get_states` returned."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    words = np.frombuffer(bytes.fromhex(keys), dtype=np.uint32)
    np.random.set_state((kind, words, position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(states["torch"])), dtype=torch.uint8))
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(
            [torch.tensor(list(bytes.fromhex(s)), dtype=torch.uint8) for s in states["cuda"]]
        )
