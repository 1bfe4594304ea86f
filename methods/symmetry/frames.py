"""Frames: the common labelling that aligned weights live in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from methods.symmetry.errors import FrameError


def frame_of(reference: Mapping[str, Tensor]) -> str:
    """Names the frame of what has been matched to these weights: 16 hexadecimal digits of SHA-256 over names, shapes,
    dtypes and values, whatever the order of names."""
    digest = hashlib.sha256()
    for name in sorted(reference):
        tensor = reference[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def require_one_frame(**frames: str) -> None:
    """What things are -> their frames: nothing happens if all are one.

    Raises:
        FrameError: they are not, so that weights of different units would be combined.
    """
    if len(set(frames.values())) > 1:
        named = ", ".join(f"{what.replace('_', ' ')} {frame}" for what, frame in frames.items())
        raise FrameError(
            f"weights of different frames cannot be combined: {named}. Their entries belong to different units; align "
            "all samples to one reference, or match one mean to the other and permute its standard deviations along"
        )
