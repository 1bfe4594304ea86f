"""Samples of the weights as one mean and one standard deviation per weight."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from methods.finetuning.flat import CHUNK
from methods.symmetry.frames import require_one_frame
from methods.symmetry.groups import PermutationGroups
from methods.symmetry.weight_space import DiagonalGaussian

log = logging.getLogger("bnnbench")

FEW = 20
"""Samples below which a standard deviation is too uncertain, 1/sqrt(2(K - 1)), to stand without its neighbours."""
PRIOR_SAMPLES = 4
"""Weight of the tensor's mean variance beside few samples, in samples."""
FLOOR = 1e-3
"""Smallest sigma, relative to the root mean square of its tensor's means: a sigma of 0 has no logarithm."""
SMALLEST = 1e-8
"""Smallest sigma of a tensor whose means are all 0."""


@dataclass(frozen=True)
class Summary:
    """N(mu, diag(sigma^2)) of weight samples in one labelling of the units.

    mu, sigma: by name, same names and shapes; sigma > 0, but both 0 where entries are left out. left_out: name -> bool
    mask of such entries; names without any are missing. frame_id: the labelling; whatever else is combined with this
    must have the same. samples: K, those with finite values. dropped: how many had others. floored: entries whose
    sigma was raised. degenerate: tensors all of whose samples are equal.
    """

    mu: Mapping[str, Tensor]
    sigma: Mapping[str, Tensor]
    frame_id: str
    samples: int
    left_out: Mapping[str, Tensor] = field(default_factory=dict)
    dropped: int = 0
    floored: int = 0
    degenerate: tuple[str, ...] = ()

    def kept(self) -> dict[str, Tensor]:
        """Masks of entries that have a distribution, of the tensors that have others; what an unpruned posterior
        keeps."""
        return {name: ~mask for name, mask in self.left_out.items()}

    def gaussian(self) -> DiagonalGaussian:
        """For comparisons in weight space."""
        return DiagonalGaussian(self.mu, self.sigma, self.frame_id)

    def require_frame(self, frame_id: str) -> None:
        """Raise FrameError unless the weights that this is combined with have the same labelling."""
        require_one_frame(weights=frame_id, summary=self.frame_id)


def key_biases(groups: PermutationGroups, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Masks of the biases of attention keys, to be left out: softmax ignores them, so that their posterior is their
    prior. shapes: of the parameters, by name."""
    masks = {}
    for attention in groups.attentions:
        if attention.key_bias and attention.qkv_bias in shapes:
            mask = torch.zeros(shapes[attention.qkv_bias], dtype=torch.bool)
            mask.view(3, -1)[1] = True
            masks[attention.qkv_bias] = mask
    return masks


def finite_samples(samples: Mapping[str, Tensor]) -> Tensor:
    """Which samples hold neither NaN nor infinity, (K,) bool on the samples' device. samples: name -> (K, ...)."""
    each = [
        torch.stack([chunk.isfinite().all(1) for chunk in columns(tensor)]).all(0)
        for tensor in samples.values()
        if tensor.numel()
    ]
    if not each:
        raise ValueError("there are no samples to summarise; give name -> (K, ...) with at least one tensor")
    if len({len(one) for one in each}) > 1:
        raise ValueError(f"tensors hold different numbers of samples, {sorted({len(one) for one in each})}")
    return torch.stack(each).all(0)


def columns(samples: Tensor) -> Iterator[Tensor]:
    """(K, ...) in pieces (K, c) of a size at which a float64 copy is small."""
    flat = samples.reshape(len(samples), -1)
    return iter(flat.split(max(1, CHUNK // max(1, len(flat))), dim=1))


@torch.no_grad()
def summarise(samples: Mapping[str, Tensor], frame_id: str, left_out: Mapping[str, Tensor] | None = None) -> Summary:
    """Mean and standard deviation (ddof 1) per weight, summed in float64 and returned in the samples' dtype.

    samples: name -> (K, ...) aligned parameters, read one tensor at a time (twice). left_out: name -> bool mask of
    entries that the posterior does not determine; they take no part and become 0. Samples that are not finite are
    dropped. Below 20 samples, variances are shrunk: ((K - 1) sigma^2 + 4 v) / (K + 3), v the tensor's mean variance.
    No sigma is below a thousandth of the rms of its tensor's means.

    Raises:
        ValueError: fewer than two finite samples; a mask of another name or shape.
    """
    left_out = {name: mask for name, mask in (left_out or {}).items() if bool(mask.any())}
    _check_masks(samples, left_out)
    good = finite_samples(samples)
    kept, dropped = int(good.sum()), int((~good).sum())
    if kept < 2:
        raise ValueError(
            f"a standard deviation needs 2 samples, {kept} of {len(good)} are finite. Keep more states of the chain."
        )
    mu, sigma, floored, degenerate = {}, {}, 0, []
    for name, tensor in samples.items():
        mean, variance = _moments(tensor, good if dropped else None)
        mask = left_out.get(name)
        counted = None if mask is None else ~mask.to(mean.device).flatten()
        deviation, raised, constant = _deviation(mean, variance, kept, counted)
        if counted is not None:
            mean, deviation = mean * counted, deviation * counted
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        mu[name] = mean.to(dtype).view(tensor.shape[1:])
        sigma[name] = deviation.to(dtype).view(tensor.shape[1:])
        floored += raised
        degenerate += [name] if constant else []
    if degenerate:
        log.warning("all samples agree in %s: sigma is set to its floor there", ", ".join(degenerate))
    return Summary(mu, sigma, frame_id, kept, left_out, dropped, floored, tuple(degenerate))


def _moments(samples: Tensor, good: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of flat entries, float64."""
    means, variances = [], []
    for chunk in columns(samples):
        values = (chunk if good is None else chunk[good]).double()
        variance, mean = torch.var_mean(values, dim=0, correction=1)
        means.append(mean)
        variances.append(variance)
    return torch.cat(means), torch.cat(variances)


def _deviation(mean: Tensor, variance: Tensor, samples: int, counted: Tensor | None) -> tuple[Tensor, int, bool]:
    """Shrunk and floored sigma, how many entries were raised to the floor, and whether all were 0."""
    own_mean = mean if counted is None else mean[counted]
    own = variance if counted is None else variance[counted]
    if not len(own):
        return torch.zeros_like(mean), 0, False
    if samples < FEW:
        variance = ((samples - 1) * variance + PRIOR_SAMPLES * own.mean()) / (samples + PRIOR_SAMPLES - 1)
    floor = torch.clamp(FLOOR * own_mean.square().mean().sqrt(), min=SMALLEST)
    deviation = variance.sqrt()
    low = deviation < floor
    raised = low if counted is None else low & counted
    return deviation.maximum(floor), int(raised.sum()), not bool(own.any())


def _check_masks(samples: Mapping[str, Tensor], left_out: Mapping[str, Tensor]) -> None:
    for name, mask in left_out.items():
        if name not in samples or mask.dtype != torch.bool or mask.shape != samples[name].shape[1:]:
            raise ValueError(
                f"the mask of entries to be left out of '{name}' must be bool, of the shape of one sample of a tensor "
                f"that exists; got {mask.dtype} {tuple(mask.shape)}"
            )
