"""Guards against NaN and infinity: one wait for the device, whatever the number of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlzoo.errors import FailedError


class NonFiniteError(FailedError):
    """A loss, a weight or a batch is NaN or infinite.

    Args:
        step: Step at which it was noticed.
        statistics: By name of each bad tensor, what :func:`describe` says.
        checked: Number of tensors that were looked at.
    """

    def __init__(self, step: int, statistics: Mapping[str, str], checked: int) -> None:
        self.step, self.names, self.statistics = step, list(statistics), dict(statistics)
        self.checked = checked
        shown = "; ".join(f"{name}: {text}" for name, text in list(statistics.items())[:3])
        more = f"; and {len(statistics) - 3} more" if len(statistics) > 3 else ""
        super().__init__(
            f"Step {step}: {len(statistics)} of {checked} tensors are not finite.",
            shown + more,
            "Lower the learning rate or clip gradients, and check rewards and observations.",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes; `todo` may have been replaced since.
        return type(self), (self.step, self.statistics, self.checked), {"todo": self.todo}


def describe(tensor: Tensor) -> str:
    """Return shape, counts of NaN and infinity, and the range of the finite part, in one line."""
    flat = tensor.detach().reshape(-1)
    magnitude = flat.abs().double() if flat.is_complex() else flat.double()
    finite = magnitude[magnitude.isfinite()]
    text = (
        f"shape {tuple(tensor.shape)}, {int(magnitude.isnan().sum())} NaN, "
        f"{int(magnitude.isinf().sum())} infinite"
    )
    if finite.numel():
        text += f", others in [{finite.min().item():.3g}, {finite.max().item():.3g}]"
    return text


def check_finite(named: Mapping[str, Tensor], step: int) -> None:
    """Raise if any tensor holds a NaN or an infinity.

    Args:
        named: Tensors of any shape; integer and bool tensors are always fine.
        step: Current step, for the message.

    Raises:
        NonFiniteError: Naming the step, the tensors and their statistics.
    """
    checked = {n: t for n, t in named.items() if t.is_floating_point() or t.is_complex()}
    if not checked:
        return
    flags = [tensor.detach().isfinite().all() for tensor in checked.values()]
    # The flags are gathered on the device of the first, so that the host waits once.
    if bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all()):
        return
    bad = {
        name: describe(tensor)
        for (name, tensor), flag in zip(checked.items(), flags, strict=True)
        if not bool(flag)
    }
    raise NonFiniteError(step, bad, len(checked))


def all_finite(module: nn.Module) -> bool:
    """Return whether every parameter and buffer of a module is finite."""
    try:
        check_finite(module.state_dict(), 0)
    except NonFiniteError:
        return False
    return True
