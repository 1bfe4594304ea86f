"""Small tensors on their way to a device, without making the host wait for it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def sent(drawn: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on `device`. To CUDA it goes from pinned memory: a copy from other memory waits until the device has
    done all that it was asked for before."""
    return drawn.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else drawn.to(device)


@functools.cache
def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Float32 (C, 1, 1), sent once."""
    return sent(torch.tensor(values), device).view(-1, 1, 1)
