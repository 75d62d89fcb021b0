"""``rlzoo encoder``: frames of a random policy, and the auto-encoder that is trained on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rlzoo.core.arguments import AT_LEAST_ONE, POSITIVE, check_range
from rlzoo.core.car_racing import ACTIONS, ENV_ID, physical
from rlzoo.core.device import configure_cpu, resolve_device
from rlzoo.core.safe_files import write_atomic
from rlzoo.core.seeding import check_seed, stream
from rlzoo.core.vae import FrameVAE, encoder_path, prepare, save_encoder, to_unit
from rlzoo.envs import make_vec
from rlzoo.errors import RefusedError
from rlzoo.runs.progress import Progress, Silent

KEEP = 0.9
"""Probability that the random policy takes the same action again: it drives instead of shaking."""
SHOWN = 12
_HELD = 0.05  # share of the frames that are kept for the final error, at most 500


@dataclass(frozen=True)
class EncoderRequest:
    """What to train.

    Args:
        out: The file; None for the one that ``encoder: auto`` finds.
        frames: Number of frames.
        epochs: Times that each is learnt from.
        n_latents: Length of a code.
        batch_size: Frames per update.
        learning_rate: Of Adam. [page] 1e-4.
        seed: Seed of everything random.
        n_envs: Environments side by side.
        backend: ``"envpool"`` or ``"gymnasium"``, which must be that of the agent.
        device: Torch device.
        threads: Torch threads on the CPU.
        overwrite: Replace a file that exists.
    """

    out: Path | None = None
    frames: int = 10_000
    epochs: int = 10
    n_latents: int = 16
    batch_size: int = 100
    learning_rate: float = 1e-4
    seed: int = 0
    n_envs: int = 16
    backend: str = "envpool"
    device: str = "auto"
    threads: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class EncoderResult:
    """What was trained.

    Args:
        file: Weights and card.
        picture: Held-out frames above what is made of their codes.
        card: What the file says about itself.
    """

    file: Path
    picture: Path
    card: dict[str, Any]


def train_encoder(request: EncoderRequest, progress: Progress | None = None) -> EncoderResult:
    """Collect frames of CarRacing, train an auto-encoder, and store it.

    Raises:
        RefusedError: For anything out of range, a file that exists, or a missing package.
    """
    progress = progress or Silent()
    seed = check_seed(request.seed)
    for name in ("frames", "epochs", "n_latents", "batch_size", "n_envs"):
        check_range(name, getattr(request, name), AT_LEAST_ONE)
    check_range("learning_rate", request.learning_rate, POSITIVE)
    file = request.out or encoder_path("auto", ENV_ID)
    if file.exists() and (file.is_dir() or not request.overwrite):
        raise RefusedError(f"{file} exists already.", "", "Give another --out, or --overwrite.")
    device = resolve_device(request.device)
    configure_cpu(request.threads)
    images = collect(request, seed, progress)
    held = images[: max(1, min(500, int(_HELD * len(images))))]
    th.manual_seed(stream(seed, "encoder"))
    vae = FrameVAE(request.n_latents).to(device)
    losses = _fit(vae, images[len(held) :], request, seed, device, progress)
    error = _error(vae, held, device)
    card = {
        "env_id": ENV_ID, "backend": request.backend, "frames": len(images),
        "epochs": request.epochs, "seed": seed, "loss": losses[-1], "error_held_out": error,
        "learning_rate": request.learning_rate, "batch_size": request.batch_size,
    }  # fmt: skip
    save_encoder(file, vae, card)
    picture = file.with_suffix(".png")
    write_atomic(picture, _picture(vae, held[:: max(1, len(held) // SHOWN)][:SHOWN], device))
    return EncoderResult(file, picture, card)


def collect(request: EncoderRequest, seed: int, progress: Progress) -> th.Tensor:
    """Return frames ``[N, 3, 64, 64]`` uint8 of a policy that draws actions and keeps them."""
    with _environments(request, seed) as env:
        rng = np.random.default_rng(stream(seed, "frames"))
        count = env.num_envs
        progress.start("collecting frames", request.frames, "frames")
        frames = np.asarray(env.reset())
        actions = rng.uniform(-1, 1, (count, ACTIONS)).astype(np.float32)
        kept = [prepare(frames)]
        while sum(map(len, kept)) < request.frames:
            new = rng.random(count) > KEEP
            actions[new] = rng.uniform(-1, 1, (int(new.sum()), ACTIONS))
            frames = np.asarray(env.step(physical(th.from_numpy(actions)).numpy())[0])
            kept.append(prepare(frames))
            progress.update(len(kept) * count)
        progress.stop()
    images = th.cat(kept)
    order = th.from_numpy(rng.permutation(len(images))[: request.frames])
    return images[order]


@contextmanager
def _environments(request: EncoderRequest, seed: int) -> Iterator[VecEnv]:
    count = min(request.n_envs, request.frames)
    env = make_vec(ENV_ID, count, stream(seed, "encoder", "envs"), backend=request.backend)
    try:
        yield env
    finally:
        env.close()


def _fit(
    vae: FrameVAE, images: th.Tensor, request: EncoderRequest, seed: int, device: th.device,
    progress: Progress,
) -> list[float]:  # fmt: skip
    """Train; return the mean loss of every epoch."""
    optimizer = th.optim.Adam(vae.parameters(), request.learning_rate)
    rng = np.random.default_rng(stream(seed, "batches"))
    noise = th.Generator().manual_seed(stream(seed, "codes"))
    batches = max(1, len(images) // request.batch_size)
    progress.start("training the encoder", batches * request.epochs, "updates")
    losses: list[float] = []
    for epoch in range(request.epochs):
        total = 0.0
        order = np.array_split(rng.permutation(len(images)), batches)
        for number, rows in enumerate(order, 1):
            batch = to_unit(images[th.from_numpy(rows)]).to(device)
            loss, _ = vae.loss(batch, noise)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach())
            done = epoch * batches + number
            last = number == batches
            progress.update(done, f"loss {total / number:.1f}" if last else "")
        losses.append(total / batches)
    progress.stop()
    return losses


def _error(vae: FrameVAE, images: th.Tensor, device: th.device) -> float:
    """Return the mean squared error per image, summed over its pixels, decoded from the means."""
    total = 0.0
    with th.no_grad():
        for part in th.split(images, 100):
            target = to_unit(part).to(device)
            total += float((vae.decode(vae(target)[0]) - target).square().sum())
    return total / len(images)


def _picture(vae: FrameVAE, images: th.Tensor, device: th.device) -> bytes:
    """Return a PNG: frames, and below each what its code says."""
    import io

    from PIL import Image

    with th.no_grad():
        decoded = vae.decode(vae(to_unit(images).to(device))[0]).cpu()
    rows = [images.float() / 255, decoded]
    picture = th.cat([th.cat(list(row), 2) for row in rows], 1).permute(1, 2, 0)
    pixels: NDArray[np.uint8] = (picture.numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
