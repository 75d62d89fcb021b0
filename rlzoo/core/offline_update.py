"""Offline agents whose update never waits for the device: plumbing around one function.

The agent writes ``_update(...)``: draws a batch, steps its optimisers, returns the values to log
as one tensor. Here are the loop around it, CUDA graphs, learning rates, log sums and guards.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch as th

from rlzoo.core.capture import Captured, adopt_loaded, make_adam, set_rate, wants_cuda_graph
from rlzoo.core.model_file import ModelPath
from rlzoo.core.offline import OfflineAlgorithm
from rlzoo.errors import RefusedError


class DeviceUpdates(OfflineAlgorithm):
    """Runs an update without synchronisation, captured as a CUDA graph where that is wanted.

    A subclass sets :attr:`SUMMED`, calls :meth:`_prepare_updates` at the end of ``_setup_model``
    and implements :meth:`_next_update`. Its optimisers are attributes ``<part>_optimizer``.
    """

    SUMMED: ClassVar[tuple[str, ...]] = ()
    """Names of the values that an update returns; their means are logged as ``train/<name>``."""

    capture: bool | Literal["auto"]

    def _check_capture(self) -> None:
        if self.capture is True and self.device.type != "cuda":
            raise RefusedError(
                f"{type(self).__name__}: capture=True on device {self.device}.",
                "Allowed on CUDA only; leave it at 'auto'.",
            )

    def _prepare_updates(self, rates: dict[str, float]) -> None:
        """Start sums and rates.

        Args:
            rates: Learning rate of every part by name. The first part follows ``learning_rate``,
                the others keep their ratio to it when that is a schedule.
        """
        self._rates = rates
        self._current_rate: float | None = None
        self._sums = th.zeros(len(self.SUMMED), device=self.device)
        self._n_summed = 0
        self._on_new_data()

    def _adam(self, parameters: Any, rate: float) -> th.optim.Adam:
        return make_adam(parameters, rate, wants_cuda_graph(self.capture, self.device))

    def _next_update(self, batch_size: int) -> partial[th.Tensor]:
        """Return the next update; those of equal arguments share one graph."""
        raise NotImplementedError

    def _optimizers(self) -> dict[str, th.optim.Adam]:
        return {name: getattr(self, f"{name}_optimizer") for name in self._rates}

    def set_parameters(
        self,
        load_path_or_dict: ModelPath | dict[str, Any],
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Load parameters as in SB3; learning rates stay those of this agent."""
        super().set_parameters(load_path_or_dict, exact_match, device)
        for optimizer in self._optimizers().values():
            adopt_loaded(optimizer, wants_cuda_graph(self.capture, self.device))
        self._current_rate = None
        self._on_new_data()  # a graph captured before does not know the tensors of the new states

    def _on_new_data(self) -> None:
        self._captured: dict[tuple[Any, ...], Captured] = {}

    def _set_learning_rates(self) -> None:
        rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", rate)
        if rate == self._current_rate:
            return
        self._current_rate = rate
        main, *others = self._rates
        # A schedule that starts at zero gives no scale: the other rates then stay constant.
        scale = rate / self._rates[main] if self._rates[main] else 1.0
        optimizers = self._optimizers()
        set_rate(optimizers[main], rate)
        for name in others:
            set_rate(optimizers[name], scale * self._rates[name])

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Take ``gradient_steps`` updates."""
        self.policy.set_training_mode(True)
        self._set_learning_rates()
        for _ in range(gradient_steps):
            self._sums += self._run(self._next_update(batch_size))
            self._n_updates += 1
            self._n_summed += 1

    def _run(self, update: partial[th.Tensor]) -> th.Tensor:
        if not wants_cuda_graph(self.capture, self.device):
            return update()
        if update.args not in self._captured:
            self._captured[update.args] = Captured(update)
        return self._captured[update.args]()

    @staticmethod
    def _differentiate(loss: th.Tensor, module: th.nn.Module) -> None:
        """Set the gradients of one module; no other module gets any."""
        parameters = list(module.parameters())
        gradients = th.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def _finite_candidates(self) -> dict[str, th.Tensor]:
        return {name: self._sums[i] for i, name in enumerate(self.SUMMED)}

    def _log_training(self) -> None:
        """Record means over the updates since the last line."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self._n_summed:
            for name, value in zip(
                self.SUMMED, (self._sums / self._n_summed).tolist(), strict=True
            ):
                self.logger.record(f"train/{name}", value)
            self._sums.zero_()
            self._n_summed = 0

    def _excluded_save_params(self) -> list[str]:
        private = ["_captured", "_sums", "_n_summed", "_rates", "_current_rate"]
        return [*super()._excluded_save_params(), *private]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"{name}_optimizer" for name in self._rates)], []
