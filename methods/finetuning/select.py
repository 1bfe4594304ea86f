"""Which parameters get a Gaussian, which are trained as points, and which stay as they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from benchmark import ConfigError, nearest
from methods.finetuning.config import NamePatterns, Which, last_blocks

log = logging.getLogger("bnnbench")

WEIGHT_OWNERS = (nn.Linear, _ConvNd, nn.Embedding, nn.MultiheadAttention)
LAYERS = (nn.Linear, _ConvNd)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
PAPER_OWNERS = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.PReLU)
"""The layers that BayesAdapter's code has Bayesian forms of, weights and biases."""


@dataclass(frozen=True)
class Selection:
    """Parameter names in the network's order; every parameter is in exactly one of the three, a tied one once."""

    bayesian: tuple[str, ...]
    trained: tuple[str, ...]
    frozen: tuple[str, ...]

    def without(self, unused: Iterable[str]) -> Selection:
        """The same with the parameters `unused` frozen: without a gradient from data they have nothing to learn."""
        drop = set(unused)
        return Selection(
            tuple(name for name in self.bayesian if name not in drop),
            tuple(name for name in self.trained if name not in drop),
            self.frozen + tuple(name for name in self.bayesian + self.trained if name in drop),
        )


def select(network: nn.Module, which: Which, *, train_rest: bool) -> Selection:
    """Sort the network's parameters.

    which: see `MeanFieldConfig.select`. Parameters that do not require gradients are frozen and never Bayesian.

    Raises:
        ConfigError: no parameter is Bayesian or trainable; a pattern matches nothing, a frozen parameter or the second
            name of a tied one; a parameter has a dtype that cannot carry a Gaussian.
    """
    _check_kinds(network)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    names = [name for name, _ in network.named_parameters()]
    if len(frozen) == len(names):
        raise ConfigError(
            f"none of the {len(names)} parameters of this network requires gradients: there is nothing to train. "
            "Call network.requires_grad_(True), or unfreeze the parameters that shall be Bayesian."
        )
    if isinstance(which, NamePatterns):
        _refuse_aliases(network, which)
        chosen = _by_pattern(names, frozen, which)
    elif which == "all":
        chosen = set(names)
    elif which == "head":
        chosen = _head(network)
    elif which == "weights":
        chosen = _owned_by(network, WEIGHT_OWNERS, matrices_only=True)
    elif which == "paper":
        chosen = _owned_by(network, PAPER_OWNERS)
    else:
        chosen = set().union(*blocks_before_head(network, last_blocks(which) or 1))
    chosen -= frozen
    if not chosen:
        raise ConfigError(
            f"select '{which}' leaves no Bayesian parameter in this network. Use select: all, or "
            "select: {include: [PATTERN]} with names out of: " + ", ".join(names[:20])
        )
    _warn_of_parametrisations(chosen)
    rest = [name for name in names if name not in chosen]
    return Selection(
        tuple(name for name in names if name in chosen),
        tuple(name for name in rest if train_rest and name not in frozen),
        tuple(name for name in rest if not train_rest or name in frozen),
    )


def select_nothing(network: nn.Module) -> Selection:
    """No Bayesian parameter: everything that requires gradients is trained as a point."""
    _check_kinds(network)
    named = list(network.named_parameters())
    return Selection(
        (),
        tuple(name for name, parameter in named if parameter.requires_grad),
        tuple(name for name, parameter in named if not parameter.requires_grad),
    )


def select_these(network: nn.Module, chosen: Iterable[str]) -> Selection:
    """`chosen` as the Bayesian parameters, trainable or not; the others are points, trained where they require
    gradients.

    Raises:
        ConfigError: a parameter is no real floating-point tensor yet.
    """
    points, own = select_nothing(network), set(chosen)
    return Selection(
        tuple(name for name, _ in network.named_parameters() if name in own),
        tuple(name for name in points.trained if name not in own),
        tuple(name for name in points.frozen if name not in own),
    )


def layer_weights(network: nn.Module) -> tuple[str, ...]:
    """The matrices and filters of convolutional, linear and attention layers, in the network's order, a tied one once:
    what methods that compress a network work on. Not: biases, norms, embeddings, class tokens, buffers.

    Raises:
        ConfigError: the network has none, or a parameter that is no real floating-point tensor yet.
    """
    _check_kinds(network)
    owned = _owned_by(network, (*LAYERS, nn.MultiheadAttention), matrices_only=True)
    found = [name for name, _ in network.named_parameters() if name in owned]
    weights = tuple(name for name in found if "bias" not in name.rpartition(".")[2])  # bias_k of attention is 3-d
    if not weights:
        raise ConfigError(
            "this network has no weight of a convolutional, linear or attention layer. Its parameters: "
            + ", ".join([name for name, _ in network.named_parameters()][:20])
        )
    return weights


def layer_biases(network: nn.Module) -> tuple[str, ...]:
    """Biases of convolutional, linear and attention layers, in the network's order, a tied one once; not `bias_k` and
    `bias_v` of attention, which are tokens."""
    return _direct_parameters(network, (*LAYERS, nn.MultiheadAttention), ("bias", "in_proj_bias"))


def norm_parameters(network: nn.Module) -> tuple[str, ...]:
    """Scales and shifts of normalisation layers, in the network's order, a tied one once."""
    return _direct_parameters(network, NORMS)


def only_layers(network: nn.Module, selection: Selection) -> Selection:
    """The selection with no Bayesian parameter but the weights of linear and convolutional layers; what else it had is
    trained as points.

    Raises:
        ConfigError: it has no such weight.
    """
    weights = _owned_by(network, LAYERS, matrices_only=True)
    chosen = tuple(name for name in selection.bayesian if name in weights)
    if not chosen:
        raise ConfigError(
            "select finds no weight of a linear or convolutional layer among: " + ", ".join(selection.bayesian[:20])
        )
    rest = selection.trained + tuple(name for name in selection.bayesian if name not in weights)
    return Selection(chosen, rest, selection.frozen)


def _check_kinds(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if is_lazy(parameter):
            raise ConfigError(f"parameter '{name}' is not initialised yet; run the network once on an input first")
        if parameter.is_quantized or not parameter.is_floating_point():
            raise ConfigError(
                f"parameter '{name}' is {parameter.dtype}; only real floating-point weights are supported"
            )


def _owned_by(network: nn.Module, owners: tuple[type[nn.Module], ...], *, matrices_only: bool = False) -> set[str]:
    """Parameters of layers of these kinds, by the network's own names.

    A tied parameter counts as soon as one of its owners does.
    """
    own = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        own[id(parameter)]
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if (parameter.dim() >= 2 or not matrices_only) and isinstance(_owner(network, name), owners)
    }


def _direct_parameters(
    network: nn.Module, owners: tuple[type[nn.Module], ...], names: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """Parameters of layers of these kinds in the network's order. names: what they are called there; None: anything."""
    owned = {
        id(parameter)
        for module in network.modules()
        if isinstance(module, owners)
        for name, parameter in module.named_parameters(recurse=False)
        if names is None or name in names
    }
    return tuple(name for name, parameter in network.named_parameters() if id(parameter) in owned)


def _owner(network: nn.Module, name: str) -> nn.Module:
    """The layer that a parameter belongs to; for a parametrised one, the layer that is parametrised."""
    path = name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
    return network.get_submodule(path)


def _head(network: nn.Module) -> set[str]:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    members = {id(parameter) for parameter in linear[-1].parameters()} if linear else set()
    return {name for name, parameter in network.named_parameters() if id(parameter) in members}


def blocks_before_head(network: nn.Module, count: int) -> list[set[str]]:
    """Parameter names of the last `count` blocks before the head, in order; the head's own group is not a block.

    Blocks are the finest groups of the network's `group_matcher` (timm's convention), or else what shares the first
    component of its name.

    Raises:
        ConfigError: the network has fewer blocks.
    """
    blocks = [group for group in _groups(network) if not group & _head(network)]
    if len(blocks) < count:
        raise ConfigError(f"select 'last_blocks:{count}' asks for more than the {len(blocks)} blocks of this network.")
    return blocks[-count:]


def _groups(network: nn.Module) -> list[set[str]]:
    matcher = getattr(network, "group_matcher", None)
    if callable(matcher):
        from timm.models import group_parameters

        groups = group_parameters(network, matcher(coarse=False))
        return [set(names) for _, names in sorted(groups.items())]
    by_name: dict[str, set[str]] = {}
    for name, _ in network.named_parameters():
        by_name.setdefault(name.partition(".")[0], set()).add(name)
    return list(by_name.values())


def _by_pattern(names: list[str], frozen: set[str], patterns: NamePatterns) -> set[str]:
    included: set[str] = set()
    for pattern in patterns.include:
        included |= matching(pattern, names, "select.include")
    for pattern in patterns.exclude:
        included -= matching(pattern, names, "select.exclude")
    if included & frozen:
        raise ConfigError(
            f"select.include names '{min(included & frozen)}', which does not require gradients in this network; "
            "exclude it"
        )
    return included


def _refuse_aliases(network: nn.Module, patterns: NamePatterns) -> None:
    """A tied parameter goes by one name, and a pattern that means another of its names would miss it."""
    own = {id(parameter): name for name, parameter in network.named_parameters()}
    for alias, parameter in network.named_parameters(remove_duplicate=False):
        name = own[id(parameter)]
        for pattern in patterns.include + patterns.exclude:
            if alias != name and re.fullmatch(pattern, alias) and not re.fullmatch(pattern, name):
                raise ConfigError(
                    f"select '{pattern}' matches '{alias}', which is tied to '{name}': one tensor, one distribution. "
                    f"Name it '{name}'."
                )


def matching(pattern: str, names: list[str], field: str) -> set[str]:
    """The names that a regular expression matches in full.

    Raises:
        ConfigError: none; names the nearest. `field` is what the message calls the pattern.
    """
    found = {name for name in names if re.fullmatch(pattern, name)}
    if not found:
        raise ConfigError(
            f"{field} '{pattern}' matches no parameter name.{nearest(pattern, names)}\n"
            f"  legal: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
        )
    return found


def _warn_of_parametrisations(chosen: set[str]) -> None:
    underlying = sorted(name for name in chosen if "parametrizations." in name)
    if underlying:
        log.warning(
            "%d selected parameters are parametrised (weight or spectral norm); the noise goes to the underlying "
            "tensors, the first is '%s'.",
            len(underlying),
            underlying[0],
        )
