"""A small task, network and posteriors that tests of attacks share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from benchmark.attacks.gradient import Victim
from benchmark.contracts import Posterior, Weights
from benchmark.data import Split
from benchmark.posteriors import PointMass, WeightSamples
from benchmark.weights import copy_of, weights_of

BLACK, WHITE = torch.tensor([-1.0, 0.5]), torch.tensor([1.0, 3.5])
"""Two channels of different range, so that their lengths differ."""
SHAPE = (2, 3, 3)


def network(seed: int = 0) -> nn.Sequential:
    """Norm and dropout included, which behave differently in training mode."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(18), nn.Linear(18, 16), nn.Tanh(), nn.Dropout(0.5))
    return made.append(nn.Linear(16, 4))


def data(n: int = 40, seed: int = 3) -> Split:
    """Noisy copies of four templates, one per class; the brightest and darkest pixels are white and black."""
    templates = 0.5 + 0.5 * (torch.rand((4, *SHAPE), generator=torch.Generator().manual_seed(0)) - 0.5)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    share = (templates[labels] + 0.12 * torch.randn((n, *SHAPE), generator=generator)).clamp(0, 1)
    inputs = BLACK.view(-1, 1, 1) + share * (WHITE - BLACK).view(-1, 1, 1)
    return Split(inputs.clamp(BLACK.view(-1, 1, 1), WHITE.view(-1, 1, 1)), labels)


def trained(seed: int = 0, epochs: int = 150) -> nn.Sequential:
    """A network that has learnt `data(400, 5)` well."""
    net, split = network(seed).train(), data(400, 5)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(epochs):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(split.inputs), split.labels).backward()
        optimiser.step()
    return net.eval()


class Halved(WeightSamples):
    """A link of its own: logits at temperature two."""

    def log_probs(self, logits: Tensor) -> Tensor:
        return (logits / 2).log_softmax(dim=-1)


class Scored(PointMass):
    """Its score is the mean squared distance from mid-grey."""

    score_name = "contrast"

    def score(self, network: nn.Module, draws: Sequence[Weights], inputs: Tensor) -> Tensor:
        middle = (BLACK + WHITE).view(-1, 1, 1) / 2
        return (inputs - middle).square().flatten(1).mean(dim=1)


class Noise(Posterior):
    """Gaussian noise around a network, yielded in one dict that is overwritten."""

    def __init__(self, net: nn.Module, scale: float = 0.1) -> None:
        self.centre, self.scale = copy_of(weights_of(net)), scale

    def draws(self, n: int, generator: torch.Generator) -> Iterator[Weights]:
        reused = copy_of(self.centre)
        for _ in range(n):
            for name, value in self.centre.items():
                step = self.scale * torch.randn(value.shape, generator=generator)
                reused[name].copy_(value + step if value.dim() > 1 else value)
            yield reused


def ensemble(nets: Sequence[nn.Module], kind: type[WeightSamples] = WeightSamples) -> Victim:
    """The victim that is the mixture of some networks."""
    posterior = kind([weights_of(net) for net in nets])
    return Victim(nets[0], posterior, posterior.members)
