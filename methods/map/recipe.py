"""From settings to an optimiser and a learning rate: what `auto` means, what decays, how the rate moves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from methods.map.config import TrainingConfig
from methods.optimisers import Adam, Group, Optimiser, Sgd
from methods.training import cosine

SGD_LR, LARGE_SGD_LR, SGD_L2 = 0.1, 0.05, 5e-4
LARGE = 1_000_000
"""Parameters from which on a network takes the lower SGD rate. On digits, in batches of 64, the loss of resnet18 jumps
at 0.1 (from 0.14 to 0.71 in epoch 7 of 10) and falls steadily at 0.05; wrn-10-1 is better at 0.1 than at 0.05."""
ADAMW_LR, PLAIN_ADAMW_LR, ADAMW_DECAY = 2e-3, 5e-3, 0.05
"""Plain: networks without layer norm (perceptrons), which take a higher rate."""


@dataclass(frozen=True)
class Recipe:
    """The resolved optimiser of one network. decay: coupled L2 coefficient for sgd, decoupled decay for adamw."""

    optimiser: str
    lr: float
    decay: float

    @property
    def l2(self) -> float:
        """lambda of the term lambda/2 ||w||^2 in the loss; 0 for adamw, whose decay is not the gradient of a prior."""
        return self.decay if self.optimiser == "sgd" else 0.0

    @property
    def decoupled(self) -> float:
        """The decay of adamw, by which weights shrink by lr * decay per step; 0 for sgd."""
        return self.decay if self.optimiser == "adamw" else 0.0


def recipe_for(network: nn.Module, config: TrainingConfig) -> Recipe:
    """Replace every `auto` by the value for this network."""
    optimiser = config.optimiser
    if optimiser == "auto":
        optimiser = "sgd" if has_batch_norm(network) else "adamw"
    if optimiser == "sgd":
        size = sum(parameter.numel() for parameter in network.parameters())
        lr, decay = SGD_LR if size < LARGE else LARGE_SGD_LR, SGD_L2
    else:
        lr, decay = ADAMW_LR if has_layer_norm(network) else PLAIN_ADAMW_LR, ADAMW_DECAY
    return Recipe(
        optimiser,
        lr if config.lr == "auto" else config.lr,
        decay if config.weight_decay == "auto" else config.weight_decay,
    )


def has_batch_norm(network: nn.Module) -> bool:
    """Whether the network normalises with statistics of the batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def has_layer_norm(network: nn.Module) -> bool:
    """Whether there is layer norm, as in transformers (subclasses included, as timm's)."""
    return any(isinstance(module, nn.LayerNorm) for module in network.modules())


def decays(network: nn.Module) -> dict[str, bool]:
    """Which parameters decay: tensors of two or more dimensions, thus no bias and no gain or shift of a norm.

    Names in the network's own `no_weight_decay()` (a convention of timm: position embeddings, class tokens) do not.
    """
    listed = getattr(network, "no_weight_decay", None)
    exempt = set(listed()) if callable(listed) else set()
    return {name: value.dim() >= 2 and name not in exempt for name, value in network.named_parameters()}


def build_optimiser(network: nn.Module, recipe: Recipe) -> Optimiser:
    """The recipe's optimiser over the parameters that take gradients, in two groups: decaying, and the others."""
    rule = decays(network)
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    decaying = Group([value for name, value in trained if rule[name]], recipe.decay)
    others = Group([value for name, value in trained if not rule[name]], 0.0)
    groups = [group for group in (decaying, others) if group.parameters]
    return Sgd(groups) if recipe.optimiser == "sgd" else Adam(groups, decoupled=True)


def rate(t: int, total: int, peak: float, config: TrainingConfig) -> float:
    """The learning rate of step t = 0 .. total - 1: linear warm-up, then the schedule.

    `steps` drops at the first step t with t / total >= milestone, so that 0.3 of 200 epochs is the start of epoch 61.
    """
    warmup = round(config.warmup * total)
    if t < warmup:
        return peak * (t + 1) / warmup
    if config.schedule == "cosine":
        return cosine(t - warmup, total - warmup, peak, peak * config.min_lr)
    if config.schedule == "steps":
        passed = sum(t / total >= milestone for milestone in config.milestones)
        return peak * config.step_factor**passed
    return peak
