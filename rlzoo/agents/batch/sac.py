"""SAC on a fixed data set: the paper's first example of bootstrapping error."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch as th
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac.policies import MlpPolicy, SACPolicy

from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, UNIT
from rlzoo.core.offline_sb3 import OfflineSB3


class SACBatch(OfflineSB3, SAC):
    """SB3's SAC whose ``train`` is driven by ``learn`` over a data set, with no constraint at all.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of SB3's ``SACPolicy``.
        env: Environment, id of one, or None when ``dataset`` is given. It is never stepped.
        dataset: Data to learn from; see :class:`~rlzoo.core.offline.OfflineAlgorithm`.
        learning_rate: As in SB3.
        batch_size: As in SB3.
        tau: As in SB3.
        gamma: As in SB3.
        ent_coef: Weight of the entropy, or ``"auto"``, ``"auto_0.1"``; as in SB3.
        target_entropy: As in SB3; ``"auto"`` is minus the number of actions.
        policy_kwargs: As in SB3; ``net_arch`` is [256, 256] by default.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"sb3": {}}

    def __init__(
        self,
        policy: str | type[SACPolicy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 3e-4,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        tau: Annotated[float, UNIT] = 0.005,
        gamma: Annotated[float, UNIT] = 0.99,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
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
            policy, env, dataset, learning_rate, arguments, batch_size=batch_size, tau=tau,
            gamma=gamma, ent_coef=ent_coef, target_entropy=target_entropy,
            policy_kwargs=policy_kwargs, stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log, verbose=verbose, seed=seed, device=device,
        )  # fmt: skip
        if _init_setup_model:
            self._setup_model()
