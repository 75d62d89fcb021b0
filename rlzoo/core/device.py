"""Choosing the device, and setting a CPU up for small networks."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from rlzoo.errors import RefusedError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def available_devices() -> list[str]:
    """Return the devices that torch can use here, ``"cpu"`` first."""
    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the torch device for a name; only ``"auto"`` may fall back to the CPU.

    SB3 accepts ``cuda:7`` on a machine without CUDA and trains on the CPU without a word.

    Raises:
        RefusedError: If the device does not exist here.
    """
    name = str(device)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = available_devices()
    if name == "cpu" or name in known or (name == "cuda" and len(known) > 1):
        return torch.device(name)
    raise RefusedError(
        f"Device {name!r} is not available.",
        f"Available: {', '.join(known)}.",
        "Use --device auto to take what there is.",
    )


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has instructions for bf16.

    Elsewhere torch emulates them: 64x64 frames through the Nature network took 12 times as long as
    in fp32 on an AMD EPYC without AVX-512. Of CPUs only x86 with AVX-512 bf16 is known to gain.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def keep_large_blocks() -> bool:
    """Tell glibc to keep freed multi-megabyte blocks instead of returning them to the system.

    Without it every activation of a batch is a fresh mapping whose pages are zeroed by the kernel
    on first touch; with it a BEAR update is about 1.4 times as fast. Does nothing outside of glibc.

    Returns:
        Whether the allocator took the setting.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    limit = 1 << 30
    return bool(mallopt(_M_MMAP_THRESHOLD, limit)) and bool(mallopt(_M_TRIM_THRESHOLD, limit))


def configure_cpu(threads: int | None = None) -> int:
    """Set the number of threads on purpose, keep large blocks, and flush denormals to zero.

    Args:
        threads: Number of threads; by default what ``OMP_NUM_THREADS`` says, otherwise the number
            of usable cores up to 8 (small networks do not gain from more).

    Returns:
        The number of threads in use.
    """
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        # OpenMP allows a list (one number per level of nesting), and an empty value means unset.
        wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
        threads = int(wanted) if wanted.isdecimal() and int(wanted) else min(cores or 1, 8)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    keep_large_blocks()
    return threads


def make_deterministic() -> None:
    """Ask torch for deterministic algorithms: on one GPU the same run then gives the same bits.

    A CPU needs nothing. Must run before the first matrix product on the GPU.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
