"""SB3's own off-policy classes, trained on a fixed data set by their unchanged ``train``."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th

from rlzoo.core.offline import OfflineAlgorithm


class OfflineSB3(OfflineAlgorithm):
    """Put before a class of SB3: ``class TD3Batch(OfflineSB3, TD3)``.

    Networks, optimisers and update are SB3's; data, ``learn`` and files are those of
    :class:`~rlzoo.core.offline.OfflineAlgorithm`.
    """

    # SB3's class names its own action spaces; its buffer is replaced by the data set.
    SB3_ARGUMENTS: ClassVar[dict[str, Any]] = {"buffer_size": 1, "_init_setup_model": False}

    def _build(self) -> None:
        super(OfflineAlgorithm, self)._setup_model()
        self.replay_buffer = None

    def _finite_candidates(self) -> dict[str, th.Tensor]:
        # SB3 logs floats and keeps no sums on the device: the weights themselves are looked at.
        return {f"policy/{name}": tensor for name, tensor in self.policy.state_dict().items()}
