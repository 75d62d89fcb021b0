"""The auto-encoder of frames: its size, its loss, and its file (paper page, 4.3 and 8)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch as th
from safetensors.torch import save_file

from rlzoo.core.vae import FrameVAE, encoder_path, load_encoder, prepare, save_encoder, to_unit
from rlzoo.errors import RefusedError


@pytest.fixture(scope="module")
def vae() -> FrameVAE:
    th.manual_seed(0)
    return FrameVAE()


def frames(n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 96, 96, 3), np.uint8)


def test_the_count_of_the_page(vae: FrameVAE) -> None:
    assert sum(p.numel() for p in vae.parameters()) == 4_299_363
    assert sum(p.numel() for p in FrameVAE(32).parameters()) == 4_348_547  # World Models


def test_shapes(vae: FrameVAE) -> None:
    images = to_unit(prepare(frames()))
    assert images.shape == (3, 3, 64, 64)
    mean, log_variance = vae(images)
    assert mean.shape == log_variance.shape == (3, 16)
    decoded = vae.decode(mean)
    assert decoded.shape == images.shape
    assert decoded.min().item() >= 0
    assert decoded.max().item() <= 1
    codes = vae.encode(frames())
    assert (codes.shape, codes.dtype) == ((3, 16), np.float32)
    np.testing.assert_allclose(codes, mean.detach(), rtol=1e-4, atol=1e-5)  # not a sample


def test_the_bar_of_indicators_is_not_seen() -> None:
    with_bar, without = frames(), frames()
    without[:, 84:] = 0
    assert th.equal(prepare(with_bar), prepare(without))
    without[:, 83] = 255 - without[:, 83]
    assert not th.equal(prepare(with_bar), prepare(without))


def test_colours_stay_what_they_are() -> None:
    plain = np.zeros((1, 96, 96, 3), np.uint8)
    plain[:] = (10, 128, 255)
    small = prepare(plain)
    assert small.dtype == th.uint8
    assert th.equal(small[0, :, 5, 7], th.tensor([10, 128, 255], dtype=th.uint8))
    assert (small == small[:, :, :1, :1]).all()
    top = plain.copy()
    top[:, :42] = 0  # the upper half of what is kept
    assert int(prepare(top)[0, 1, 30, 0]) == 0
    assert int(prepare(top)[0, 1, 33, 0]) == 128


def test_the_loss_by_hand(vae: FrameVAE) -> None:
    images = to_unit(prepare(frames()))
    generator = th.Generator().manual_seed(7)
    loss, error = vae.loss(images, generator)
    mean, log_variance = (part.detach() for part in vae(images))
    noise = th.randn(mean.shape, generator=th.Generator().manual_seed(7))
    decoded = vae.decode(mean + noise * (log_variance / 2).exp()).detach()
    squared = ((decoded - images) ** 2).reshape(3, -1).sum(1)
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    assert float(kl.max()) < 8  # half a nat for each of 16: the floor counts
    assert loss.item() == pytest.approx(float(squared.mean()) + 8, rel=1e-5)
    assert error.item() == pytest.approx(float(squared.mean()), rel=1e-5)
    far = FrameVAE()
    with th.no_grad():
        far.mean.bias.fill_(3.0)
        beyond, its_error = far.loss(images, th.Generator().manual_seed(7))
    assert float(beyond - its_error) > 16 * 3  # above the floor the divergence itself counts


def test_codes_tell_images_apart() -> None:
    """Whoever ignores the codes answers grey: 0.25 of every number, 3,072 of an image."""
    th.manual_seed(0)
    vae = FrameVAE()
    images = th.zeros(8, 3, 64, 64)
    images[::2] = 1
    optimizer = th.optim.Adam(vae.parameters(), 1e-3)
    error = th.zeros(())
    for _ in range(60):
        loss, error = vae.loss(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error.item() < 1_000


def test_files_come_back(vae: FrameVAE, tmp_path: Path) -> None:
    file = tmp_path / "new" / "e.safetensors"
    save_encoder(file, vae, {"backend": "envpool", "frames": 3})
    loaded, card = load_encoder(file)
    assert card["backend"] == "envpool"
    assert card["n_latents"] == 16
    assert not any(p.requires_grad for p in loaded.parameters())
    np.testing.assert_array_equal(loaded.encode(frames()), vae.encode(frames()))


def test_other_files_are_refused(tmp_path: Path, vae: FrameVAE) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "boom",))

    plain, foreign, small, other = (tmp_path / f"{n}.safetensors" for n in "abcd")
    plain.write_bytes(pickle.dumps(Bomb()))
    save_file({"x": th.zeros(1)}, foreign)
    card = {"format": "rlzoo-encoder", "version": 1, "n_latents": 16}
    save_file({"x": th.zeros(1)}, small, {"rlzoo": json.dumps(card)})
    save_file(vae.state_dict(), other, {"rlzoo": json.dumps({**card, "version": 2})})
    for file in (plain, foreign, small, other):
        with pytest.raises(RefusedError, match="is no encoder") as caught:
            load_encoder(file)
        assert len(str(caught.value).splitlines()) == 3
    assert not (tmp_path / "boom").exists()
    with pytest.raises(RefusedError, match="rlzoo encoder"):
        load_encoder(tmp_path / "absent.safetensors")


def test_where_an_encoder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLZOO_HOME", str(tmp_path))
    assert encoder_path("auto", "CarRacing-v3") == tmp_path / "encoders/CarRacing-v3.safetensors"
    assert encoder_path("here.safetensors", "CarRacing-v3") == Path("here.safetensors")
