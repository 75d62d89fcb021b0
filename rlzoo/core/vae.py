"""The variational auto-encoder of frames: 64 x 64 RGB to 16 numbers (Ha, Schmidhuber 2018).

Convolutions of 32, 64, 128 and 256 channels, kernel 4, stride 2; means and log variances; a linear
layer of 1024 and deconvolutions of 128, 64, 32 and 3 channels with kernels 5, 5, 6 and 6:
4,299,363 parameters for 16 latents. The loss of an image is the sum of squared errors of its pixels
in [0, 1] plus the divergence from the prior, of which half a nat per latent is free.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch as th
import torch.nn.functional as F  # noqa: N812 - as torch's own documentation calls it
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from rlzoo.core.safe_files import write_atomic
from rlzoo.errors import RefusedError

SIDE = 64
FREE_NATS = 0.5
FORMAT, VERSION = "rlzoo-encoder", 1
_CARD = "rlzoo"
_CHANNELS = (32, 64, 128, 256)
_FLAT = 1024


class FrameVAE(nn.Module):
    """The auto-encoder.

    Args:
        n_latents: Length of a code.
    """

    def __init__(self, n_latents: int = 16) -> None:
        super().__init__()
        self.n_latents = n_latents
        sizes = (3, *_CHANNELS)
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Conv2d(before, after, 4, 2), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten())
        self.mean, self.log_variance = nn.Linear(_FLAT, n_latents), nn.Linear(_FLAT, n_latents)
        self.spread = nn.Linear(n_latents, _FLAT)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(_FLAT, 128, 5, 2), nn.ReLU(),
            nn.ConvTranspose2d(128, 64, 5, 2), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 6, 2), nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 6, 2), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, images: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return means and log variances ``[N, z]`` of images ``[N, 3, 64, 64]`` in [0, 1]."""
        hidden = self.encoder(images)
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, codes: th.Tensor) -> th.Tensor:
        """Return images ``[N, 3, 64, 64]`` in [0, 1] of codes ``[N, z]``."""
        images: th.Tensor = self.decoder(self.spread(codes)[..., None, None])
        return images

    def loss(
        self, images: th.Tensor, generator: th.Generator | None = None
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return the loss and the squared error in it, means over the images.

        Args:
            images: ``[N, 3, 64, 64]`` in [0, 1].
            generator: Draws the codes.
        """
        mean, log_variance = self(images)
        noise = th.randn(mean.shape, generator=generator).to(mean.device)
        decoded = self.decode(mean + noise * (log_variance / 2).exp())
        error = (decoded - images).square().sum((1, 2, 3)).mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)
        return error + divergence.clamp(min=FREE_NATS * self.n_latents).mean(), error

    def encode(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the means, ``[N, z]``, of frames as the environment gives them.

        Args:
            frames: ``[N, 96, 96, 3]`` uint8; see :func:`prepare`.
        """
        with th.no_grad():
            images = to_unit(prepare(frames)).to(self.mean.weight.device)
            mean: NDArray[np.float32] = self.mean(self.encoder(images)).cpu().numpy()
        return mean


def prepare(frames: NDArray[np.uint8]) -> th.Tensor:
    """Cut the bar of indicators off and make images of 64 x 64.

    Args:
        frames: ``[N, 96, 96, 3]`` uint8. Rows from 84 on are the bar.

    Returns:
        ``[N, 3, 64, 64]`` uint8.
    """
    image = th.from_numpy(np.ascontiguousarray(frames[:, :84])).permute(0, 3, 1, 2).float()
    small = F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).byte()


def to_unit(images: th.Tensor) -> th.Tensor:
    """Return uint8 images as numbers in [0, 1]."""
    return images.float() / 255


def encoder_path(name: str, env_id: str) -> Path:
    """Return the file of an encoder.

    Args:
        name: A path, or ``"auto"``: ``encoders/<env id>.safetensors`` in ``$RLZOO_HOME``, by
            default ``~/.rlzoo``.
        env_id: What is encoded.
    """
    if name != "auto":
        return Path(name).expanduser()
    home = Path(os.environ.get("RLZOO_HOME", Path.home() / ".rlzoo"))
    return home / "encoders" / f"{env_id}.safetensors"


def save_encoder(path: Path, vae: FrameVAE, card: Mapping[str, Any]) -> None:
    """Write the weights, and what is known about them, as one safetensors file.

    Args:
        path: The file; folders are made.
        vae: The auto-encoder.
        card: Plain values: environment, backend, frames, losses …
    """
    facts = {"format": FORMAT, "version": VERSION, "n_latents": vae.n_latents, **card}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in vae.state_dict().items()}
    write_atomic(path, save(tensors, {_CARD: json.dumps(facts)}))


def load_encoder(path: Path, device: str | th.device = "cpu") -> tuple[FrameVAE, dict[str, Any]]:
    """Read what :func:`save_encoder` wrote; nothing in the file is executed.

    Returns:
        The auto-encoder, without gradients, and its card.

    Raises:
        RefusedError: If there is no such file, or it is not of this kind.
    """
    if not path.is_file():
        raise RefusedError(
            f"There is no encoder {path}.",
            "CarRacing is learnt from latents, by an encoder that is trained first.",
            "Make it with: rlzoo encoder",
        )
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            card = dict(json.loads((file.metadata() or {})[_CARD]))
            if (card["format"], card["version"]) != (FORMAT, VERSION):
                raise ValueError(f"{card['format']} {card['version']}")
            vae = FrameVAE(int(card["n_latents"]))
            vae.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (
        OSError, ValueError, KeyError, TypeError, RuntimeError, safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise RefusedError(
            f"{path} is no encoder: {type(error).__name__}: {str(error).splitlines()[0][:120]}",
            f"Allowed: a file of rlzoo encoder ({FORMAT} {VERSION}).",
            "Make it again with: rlzoo encoder",
        ) from None
    return vae.requires_grad_(False).eval().to(device), card
