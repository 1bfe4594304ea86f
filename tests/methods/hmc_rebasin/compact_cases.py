"""Oracle cases of compact posteriors, and small posteriors made of random samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from small_problems import small_with_token
from torch import Tensor, nn

from benchmark import BitWriter, weights_of
from methods.hmc_rebasin.posterior import CompactPosterior
from methods.hmc_rebasin.summary import Summary, summarise

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "summary_oracles.json").read_text())["cases"]


def oracle(kind: str) -> list[dict[str, Any]]:
    """All cases of one kind."""
    found = [case for case in CASES if case["kind"] == kind]
    assert found
    return found


def nets_of(case: dict[str, Any], perms: list[list[int]] | None = None) -> dict[str, Tensor]:
    """float64 (K, ...) samples of a case, in the order W1, b1, W2, b2, relabelled if permutations are given."""
    nets = [{name: torch.tensor(value, dtype=torch.float64) for name, value in net.items()} for net in nets_in(case)]
    for net, perm in zip(nets, perms or [], strict=False):
        net.update(W1=net["W1"][perm], b1=net["b1"][perm], W2=net["W2"][:, perm])
    return {name: torch.stack([net[name] for net in nets]) for name in ("W1", "b1", "W2", "b2")}


def nets_in(case: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = case["inputs"]["nets"]
    return found


def flat(tensors: dict[str, Tensor], leading: int = 0) -> Tensor:
    """In one row, behind `leading` axes."""
    return torch.cat([tensor.flatten(leading) for tensor in tensors.values()], -1)


def random_samples(net: nn.Module, count: int = 60, seed: int = 0, noise: float = 0.1) -> dict[str, Tensor]:
    """Samples around the network's own parameters, with a few common directions."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(count, 1, generator=g)
    samples = {}
    for name, parameter in net.named_parameters():
        direction = torch.randn(parameter.numel(), generator=g)
        own = torch.randn(count, parameter.numel(), generator=g) * torch.rand(parameter.numel(), generator=g)
        shape = (count, *parameter.shape)
        samples[name] = (parameter.detach().flatten() + noise * (own + common * direction)).view(shape)
    return samples


def rest_of(net: nn.Module) -> dict[str, Tensor]:
    """What is not sampled: buffers."""
    parameters = {name for name, _ in net.named_parameters()}
    return {name: tensor.clone() for name, tensor in weights_of(net).items() if name not in parameters}


def summary_of(net: nn.Module, **options: Any) -> Summary:
    return summarise(random_samples(net), "frame", **options)


def posterior_of(net: nn.Module | None = None, **options: Any) -> CompactPosterior:
    net = net or small_with_token()
    summary = summary_of(net)
    return CompactPosterior.of(summary.mu, summary.sigma, rest_of(net), **options)


class Forged(BitWriter):
    """Writes something else in place of one section."""

    def __init__(self, section: str, write: str, value: Any) -> None:
        super().__init__()
        self._section, self._write, self._value, self.used = section, write, value, False

    def _add(self, name: str, kind: Any, payload: bytes) -> None:
        if name == self._section and not self.used:
            self.used, made = True, BitWriter()
            getattr(made, self._write)(name, self._value)
            kind, payload = made._sections[name].kind, made._sections[name].payload
        super()._add(name, kind, payload)
