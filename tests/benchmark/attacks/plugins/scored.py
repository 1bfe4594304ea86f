"""A task that can be attacked, with an OOD set, and posteriors with and without a score of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from benchmark import (
    BitReader,
    Config,
    Method,
    MethodConfig,
    Need,
    NetworkFamily,
    PointMass,
    Posterior,
    Problem,
    RunContext,
    Split,
    SplitName,
    Task,
    TaskInfo,
    Weights,
    WeightSamples,
    weights_of,
)

BLACK, WHITE = -1.0, 1.0


class BarsConfig(Config):
    """Ways of breaking the contract."""

    fault: Literal["", "name", "shape", "range", "outside"] = ""


class Bars(Task):
    """3x3 images of a bright row or column, six classes, in grey levels from -1 to 1."""

    name = "bars"
    Config = BarsConfig

    def info(self, config: BarsConfig) -> TaskInfo:
        return TaskInfo((1, 3, 3), 6, 300, 60, 90)

    def fingerprint(self, config: BarsConfig) -> str:
        return "ba25" * 16

    def load(self, config: BarsConfig, split: SplitName) -> Split | None:
        n = {"train": 300, "val": 60, "test": 90}[split]
        generator = torch.Generator().manual_seed(n)
        labels = torch.arange(n) % 6
        images = torch.zeros(n, 3, 3)
        images[torch.arange(n)[labels < 3], labels[labels < 3]] = 0.5
        images[torch.arange(n)[labels >= 3], :, labels[labels >= 3] - 3] = 0.5
        images = (images + 0.18 * torch.randn(images.shape, generator=generator)).clamp(BLACK, WHITE)
        return Split(images.unsqueeze(1), labels)

    def ood(self, config: BarsConfig) -> Mapping[str, Tensor]:
        noise = torch.rand((50, 1, 3, 3), generator=torch.Generator().manual_seed(1)) * 2 - 1
        faults = {"name": {"a/b": noise}, "shape": {"noise": noise[:, 0]}}
        return faults.get(config.fault, {"noise": noise})

    def input_range(self, config: BarsConfig) -> tuple[Tensor, Tensor]:
        white = {"range": BLACK, "outside": 0.1}.get(config.fault, WHITE)
        return torch.tensor([BLACK]), torch.tensor([white])


class BarNet(NetworkFamily):
    """One hidden layer."""

    name = "barnet"
    forms = "barnet"

    def check(self, network: str) -> None:
        pass

    def build(self, network: str, input_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 24), nn.Tanh(), nn.Linear(24, n_classes))


class Distance(WeightSamples):
    """Its score is the distance of the hidden activations from 0, averaged over draws; NaN for very bright images."""

    score_name = "activation norm"

    def score(self, network: nn.Module, draws: Sequence[Weights], inputs: Tensor) -> Tensor:
        norms = [torch.tanh(inputs.flatten(1) @ each["1.weight"].T).square().sum(dim=1) for each in draws]
        score = torch.stack(norms).mean(dim=0)
        return torch.where(inputs.flatten(1).sum(dim=1) > 3.0, torch.nan, score)


class TrainConfig(MethodConfig):
    """How many networks, from how many seeds."""

    members: int = 2


class BarSamples(Method):
    """A few networks, trained in a blink."""

    name = "bar_samples"
    Config = TrainConfig

    def fit(self, problem: Problem, ctx: RunContext, config: TrainConfig) -> Posterior:
        nets = [problem.new_network(ctx.seed_for("member", index)) for index in range(config.members)]
        for net in nets:
            optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
            for _ in range(40):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(problem.train.inputs), problem.train.labels).backward()
                optimiser.step()
        return self.posterior_type()([weights_of(net) for net in nets])

    def posterior_type(self) -> type[WeightSamples]:
        return WeightSamples


class BarScored(BarSamples):
    """The same networks with a score of their own."""

    name = "bar_scored"

    def posterior_type(self) -> type[WeightSamples]:
        return Distance


class BarPoint(Method):
    """The first of the networks alone."""

    name = "bar_point"

    def needs(self, config: Any) -> tuple[Need, ...]:
        return (Need("bar_samples"),)

    def fit(self, problem: Problem, ctx: RunContext, config: Any) -> Posterior:
        samples = ctx.needed[0].posterior
        return Rounded(next(samples.draws(1, ctx.generator("draws"))))

    def posterior_type(self) -> type[Posterior]:
        return Rounded


class Rounded(PointMass):
    """Loses digits when it is encoded, so that predictions from before are kept."""

    @classmethod
    def decode(cls, src: BitReader, network: nn.Module) -> Posterior:
        made = super().decode(src, network)
        made.weights = {name: value.half().float() for name, value in made.weights.items()}
        return made
