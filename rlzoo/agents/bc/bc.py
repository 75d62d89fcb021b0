"""Behaviour cloning, the first baseline of BEAR (arXiv 1906.00949): no rewards, no critics."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from rlzoo.agents.bc.policies import BCPolicy, Model
from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, UNIT
from rlzoo.core.offline_update import DeviceUpdates
from rlzoo.errors import RefusedError


class BC(DeviceUpdates):
    """Fits the actions of the data by supervised learning.

    ``[2019]`` marks values of aviralkumar2907/BEAR (``PRESETS["bc_vae"]``), ``[ours]`` our own.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of ``BCPolicy``.
        env: Environment, id of one, or None when ``dataset`` is given. It is never stepped.
        dataset: Data to learn from; see :class:`~rlzoo.core.offline.OfflineAlgorithm`.
        model: ``"mlp"``: mean squared error of the action; ``"gaussian"``: likelihood of a
            tanh-squashed Gaussian; ``"cvae"``: the auto-encoder of BEAR and BCQ. [2019] cvae.
        learning_rate: Of Adam. [2019] 1e-3, [ours] 3e-4.
        batch_size: Transitions per update. [2019] 100, [ours] 256.
        gamma: Not used in learning, kept because users of SB3 pass it to every agent.
        capture: Replay the update as a CUDA graph: True, False, or ``"auto"`` (on CUDA only).
        policy_kwargs: ``net_arch``, ``latent_clip``; see ``BCPolicy``.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BCPolicy}
    SUMMED: ClassVar[tuple[str, ...]] = ("behavior_loss", "action_error", "vae_kl")

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "mlp": {},
        "gaussian": {"model": "gaussian"},
        "bc_vae": {
            "model": "cvae",
            "learning_rate": 1e-3,
            "batch_size": 100,
            "policy_kwargs": {"net_arch": [750, 750], "latent_clip": 0.25},
        },
    }

    policy: BCPolicy

    def __init__(
        self,
        policy: str | type[BCPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        dataset: Any = None,
        model: Model = "mlp",
        learning_rate: Annotated[float, POSITIVE] | Schedule = 3e-4,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        gamma: Annotated[float, UNIT] = 0.99,
        capture: bool | Literal["auto"] = "auto",
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: Annotated[int, AT_LEAST_ONE] = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(
            policy, env, dataset, learning_rate, arguments, batch_size=batch_size, gamma=gamma,
            policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device,
        )  # fmt: skip
        self.model, self.capture = model, capture
        self._check_capture()
        if _init_setup_model:
            self._setup_model()

    def _policy_arguments(self) -> dict[str, Any]:
        return {**super()._policy_arguments(), "model": self.model}

    def _setup_model(self) -> None:
        super()._setup_model()
        rate = self.lr_schedule(1)
        self.behavior_optimizer = self._adam(self.policy.behavior.parameters(), rate)
        self._prepare_updates({"behavior": rate})

    def _next_update(self, batch_size: int) -> partial[th.Tensor]:
        return partial(self._update, batch_size)

    def _update(self, batch_size: int) -> th.Tensor:
        """One step on the model's own loss; returns the values named in ``SUMMED``."""
        batch = self.replay_buffer.sample(batch_size, self._vec_normalize_env)  # type: ignore[union-attr]
        loss, error, kl = self.policy.behavior.loss(batch.observations, batch.actions)
        self._differentiate(loss, self.policy.behavior)
        self.behavior_optimizer.step()
        return th.stack((loss, error, kl)).detach()

    def learn_online(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a clone of its own actions learns nothing from them."""
        raise RefusedError(
            "BC cannot go on by interaction: it would imitate itself.",
            "Allowed: agents with a critic.",
            "Take bear, bcq, td3-batch or sac-batch.",
        )
