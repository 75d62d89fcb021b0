"""TD3 on a fixed data set: "naive RL" in the figures of BEAR's paper."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch as th
from stable_baselines3 import TD3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3.policies import MlpPolicy, TD3Policy

from rlzoo.core.arguments import AT_LEAST_ONE, NON_NEGATIVE, POSITIVE, UNIT
from rlzoo.core.offline_sb3 import OfflineSB3


class TD3Batch(OfflineSB3, TD3):
    """SB3's TD3 whose ``train`` is driven by ``learn`` over a data set, with no constraint at all.

    Args:
        policy: ``"MlpPolicy"`` or a subclass of SB3's ``TD3Policy``.
        env: Environment, id of one, or None when ``dataset`` is given. It is never stepped.
        dataset: Data to learn from; see :class:`~rlzoo.core.offline.OfflineAlgorithm`.
        learning_rate: As in SB3; 1e-3 in BEAR's repository as well.
        batch_size: As in SB3; 100 in BEAR's repository.
        tau: As in SB3.
        gamma: As in SB3.
        policy_delay: Updates of the critics per update of the actor.
        target_policy_noise: Standard deviation of the noise on target actions.
        target_noise_clip: Clip of that noise.
        policy_kwargs: As in SB3; ``net_arch`` is [400, 300] by default.
        stats_window_size: As in SB3.
        tensorboard_log: As in SB3.
        verbose: As in SB3.
        seed: Seed in [0, 2**32 - 1], or None.
        device: As in SB3, but an absent device is refused.
        _init_setup_model: As in SB3.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": MlpPolicy}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"sb3": {}, "neurips2019": {"batch_size": 100}}

    def __init__(
        self,
        policy: str | type[TD3Policy] = "MlpPolicy",
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: Annotated[float, POSITIVE] | Schedule = 1e-3,
        batch_size: Annotated[int, AT_LEAST_ONE] = 256,
        tau: Annotated[float, UNIT] = 0.005,
        gamma: Annotated[float, UNIT] = 0.99,
        policy_delay: Annotated[int, AT_LEAST_ONE] = 2,
        target_policy_noise: Annotated[float, NON_NEGATIVE] = 0.2,
        target_noise_clip: Annotated[float, NON_NEGATIVE] = 0.5,
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
            gamma=gamma, policy_delay=policy_delay, target_policy_noise=target_policy_noise,
            target_noise_clip=target_noise_clip, policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size, tensorboard_log=tensorboard_log, verbose=verbose,
            seed=seed, device=device,
        )  # fmt: skip
        if _init_setup_model:
            self._setup_model()
