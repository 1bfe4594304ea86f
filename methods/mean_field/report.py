"""What a fit reports about its Gaussians: sizes of the selection, where psi started and ended, the KL divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from benchmark import Fact
from methods.finetuning.flat import Flat, chunks
from methods.finetuning.select import Selection
from methods.mean_field.prior import Prior
from methods.mean_field.sigma import Initial

LEARNED = 0.05
"""Mean move of psi in nats from which on sigma counts as learned."""


def selection_facts(network: nn.Module, selection: Selection) -> dict[str, Fact]:
    """Elements of the Bayesian, trained and frozen parameters."""
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}

    def count(names: Sequence[str]) -> int:
        return sum(sizes[name] for name in names)

    return {
        "bayesian_weights": count(selection.bayesian),
        "trained_weights": count(selection.trained),
        "frozen_weights": count(selection.frozen),
    }


def selection_lists(selection: Selection) -> dict[str, str]:
    """The three lists of names, as text for the history."""
    return {
        "bayesian": " ".join(selection.bayesian),
        "trained": " ".join(selection.trained),
        "frozen": " ".join(selection.frozen),
    }


def selection_report(network: nn.Module, selection: Selection) -> str:
    """The three groups as text: how many tensors and weights, then name and shape of each tensor."""
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    lines = []
    for title, names in (
        ("Bayesian", selection.bayesian),
        ("trained as points", selection.trained),
        ("not trained", selection.frozen),
    ):
        weights = sum(network.get_parameter(name).numel() for name in names)
        lines.append(f"{title}: {len(names)} tensors, {weights:,} weights")
        lines += [f"  {name} {shapes[name]}" for name in names]
    return "\n".join(lines)


def kl_facts(prior: Prior, mu: Flat, psi: Flat) -> dict[str, float]:
    """KL/N in nats, over all Bayesian tensors and over those of two or more dimensions; mean psi."""
    total, matrices = prior.kl_over_n(mu, psi)
    return {"kl_over_n": total, "kl_over_n_matrices": matrices, "psi_mean": float(psi.flat.double().mean())}


def clamped_fraction(psi: Tensor, limits: tuple[float, float]) -> float:
    """Share of flat psi (D,) that sits on either limit of the clamp."""
    low, high = limits
    # The limits in psi's own precision: that is where clamping puts it.
    on = sum(int(((part <= psi.new_tensor(low)) | (part >= psi.new_tensor(high))).sum()) for (part,) in chunks(psi))
    return on / len(psi)


def finest_relative_sigma(mu: Flat, psi: Flat) -> float:
    """Median of sigma / |w| over the Bayesian weights."""
    # numpy: torch.median sorts, and torch.quantile takes at most 2^24 elements
    return float(np.median((psi.flat.exp() / mu.flat.abs().clamp(min=1e-30)).cpu().numpy()))


def marks(facts: Mapping[str, Fact]) -> str:
    """What a reader of the row must know: `fixed sigma` where psi was not learned, `tempered`, `local noise`; joined
    by commas, empty where there is nothing."""
    named = {
        "fixed sigma": not facts["psi_learned"],
        "tempered": facts["tempered"],
        "local noise": facts["estimator"] == "local",
    }
    return ", ".join(name for name, holds in named.items() if holds)


def psi_facts(start: Initial, end: Flat) -> dict[str, Fact]:
    """Mean and 5/50/95 % quantiles of psi at the start and at the end, mean |move|, and whether it was learned."""
    began = Flat.like(end)
    start.write_to(began)
    move = sum(float((a - b).abs_().double().sum()) for a, b in chunks(end.flat, began.flat)) / len(end)
    return {
        **_spread("psi_start", began.flat),
        **_spread("psi_end", end.flat),
        "psi_move": move,
        "psi_learned": move > LEARNED,
        "sigma_clipped": start.clipped,
    }


def _spread(prefix: str, psi: Tensor) -> dict[str, Fact]:
    values = psi.cpu().numpy()  # numpy: torch.quantile takes at most 2^24 elements
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        f"{prefix}_mean": float(values.mean(dtype=np.float64)),
        f"{prefix}_q05": float(low),
        f"{prefix}_q50": float(median),
        f"{prefix}_q95": float(high),
    }


def tempered(temperature: float, n_data: int, n_train: int) -> Mapping[str, Fact]:
    """Whether the KL term was weighted by anything but 1/N of the training data."""
    return {"tempered": temperature != 1 or n_data != n_train, "kl_temperature": temperature, "n_data": n_data}
