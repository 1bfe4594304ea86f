"""Finding the last block of a network: which weights get copies, where the block begins, where its features are.

Blocks are groups of parameter names. A group's modules are the outermost ones that hold nothing but its parameters
(for a vision transformer the last block and the final norm); the one that runs first is the entrance, and the output of
the one that finishes last is the feature map, in these networks the one that is pooled (before a ReLU outside of it).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Split, forward, weights_of
from methods.finetuning.intercept import RuledWeight
from methods.finetuning.modes import only_norms_training
from methods.finetuning.points import floating
from methods.finetuning.probe import keep_used
from methods.finetuning.select import Selection, blocks_before_head
from methods.last_block_ensemble.block import Place, features_of, run_members
from methods.last_block_ensemble.members import ByMember, Layout

log = logging.getLogger("bnnbench")

EXAMPLES = 4
RELATIVE_NOISE = 0.1
TOLERANCE = 0.1
"""Largest error of an expanded pass, in units of the difference between two members: a mistaken row has about 1."""


@dataclass(frozen=True)
class LastBlock:
    """place: see there. selection: `bayesian` are the weights with copies. without_copies: trained weights of the block
    that no layer with a formula uses."""

    place: Place
    selection: Selection
    without_copies: tuple[str, ...]


def locate(network: nn.Module, blocks: int, train: Split, seed: int) -> LastBlock:
    """The last `blocks` blocks of `network`, tried out on a few examples of `train`.

    Raises:
        ConfigError: too few blocks; the network ignores replaced weights, or no layer of the block can have copies; the
            features do not have one row per example.
    """
    names = set().union(*blocks_before_head(network, blocks))
    modules = list(_outermost(network, names))
    inside = {f"{path}.{name}" for path in modules for name, _ in network.get_submodule(path).named_parameters()}
    selection = keep_used(network, _selection(network, names & inside), train, seed)
    examples = train.first(EXAMPLES).inputs
    with only_norms_training(network, False), torch.no_grad():
        place = _trace(network, modules, examples)
        raw = _without_formula(network, selection.bayesian, examples)
        selection = _selection(network, set(selection.bayesian) - raw).without(selection.frozen)
        place = _checked(network, place, selection.bayesian, examples, seed)
    kept = tuple(name for name in selection.trained if name in names)
    if kept:
        log.info("Trained as points, because no layer with copies uses them: %s", ", ".join(kept))
    return LastBlock(place, selection, kept)


def _selection(network: nn.Module, copied: set[str]) -> Selection:
    named = list(network.named_parameters())
    if not any(name in copied and parameter.requires_grad for name, parameter in named):
        raise ConfigError(
            "no weight of the network's last block can have copies: they need linear, convolution or normalisation "
            "layers that require gradients. Set blocks to take in more of the network."
        )
    return Selection(
        tuple(name for name, parameter in named if name in copied and parameter.requires_grad),
        tuple(name for name, parameter in named if name not in copied and parameter.requires_grad),
        tuple(name for name, parameter in named if not parameter.requires_grad),
    )


def _outermost(network: nn.Module, names: set[str]) -> Iterator[str]:
    """Paths of the outermost modules whose parameters are all in `names`, in the order of registration."""
    own = {id(parameter): name for name, parameter in network.named_parameters()}

    def visit(path: str, module: nn.Module) -> Iterator[str]:
        held = {own[id(parameter)] for parameter in module.parameters()}
        if held and held <= names:
            yield path
        elif held & names:
            for name, child in module.named_children():
                yield from visit(f"{path}.{name}".removeprefix("."), child)

    return visit("", network)


def _trace(network: nn.Module, modules: list[str], inputs: Tensor) -> Place:
    """The module that is entered first and the one that is left last."""
    entered: list[str] = []
    left: list[str] = []
    hooks = []
    for path in modules:
        module = network.get_submodule(path)
        hooks.append(module.register_forward_pre_hook(lambda module, args, path=path: entered.append(path)))
        hooks.append(module.register_forward_hook(lambda module, args, output, path=path: left.append(path)))
    try:
        forward(network, weights_of(network), inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not left:
        raise ConfigError(f"the network does not run the modules of its last block: {', '.join(modules)}")
    return Place(entered[0], left[-1])


class _Discovering(ByMember):
    """One member; remembers which weights it has no formula for."""

    def __init__(self, stacks: Mapping[str, Tensor], layout: Layout) -> None:
        super().__init__(stacks, layout)
        self.raw: set[str] = set()

    def whole(self, weight: RuledWeight) -> Tensor:
        self.raw.add(weight.key)
        return self._stacks[weight.key][0]


def _without_formula(network: nn.Module, names: tuple[str, ...], inputs: Tensor) -> set[str]:
    own = weights_of(network)
    layout = Layout.all_pairs(len(inputs), 1, inputs.device)
    rule = _Discovering({name: own[name][None] for name in names}, layout)
    forward(network, {**own, **rule.weights()}, inputs)
    return rule.raw


def _checked(network: nn.Module, place: Place, names: tuple[str, ...], inputs: Tensor, seed: int) -> Place:
    """`place`, or the network's own input as the entrance where a path around the entrance makes expansion fail."""
    stacks = _two_members(network, names, seed)
    for candidate in (place, Place("", place.exit)):
        try:
            correct = _agrees(network, candidate, stacks, inputs)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            log.debug("Expanding the batch at '%s' fails.", candidate.entrance, exc_info=error)
            correct = False
        if correct:
            if candidate != place:
                log.warning(
                    "'%s' is not the only way into the last block: members run the whole network.", place.entrance
                )
            return candidate
    raise ConfigError(
        f"the last block of this network cannot run with one member per example: '{place.exit}' mixes examples, or "
        "its leading dimension does not count them"
    )


def _two_members(network: nn.Module, names: tuple[str, ...], seed: int) -> dict[str, Tensor]:
    """The network's own weights and a disturbed copy."""
    own = weights_of(network)
    generator = torch.Generator(own[names[0]].device).manual_seed(seed)
    stacks = {}
    for name in names:
        weight = floating(own[name])
        noise = torch.randn(weight.shape, dtype=weight.dtype, device=weight.device, generator=generator)
        scale = RELATIVE_NOISE * weight.square().mean().sqrt().clamp(min=0.01)
        stacks[name] = torch.stack([weight, weight + scale * noise])
    return stacks


def _agrees(network: nn.Module, place: Place, stacks: Mapping[str, Tensor], inputs: Tensor) -> bool:
    """Whether one expanded pass gives the logits and features of one pass per member."""
    own = weights_of(network)
    apart = []
    for member in range(2):
        with features_of(network, place.exit) as kept:
            logits = forward(network, {**own, **{name: stack[member] for name, stack in stacks.items()}}, inputs)
        apart.append((logits, kept["features"]))
    layout = Layout.all_pairs(len(inputs), 2, inputs.device)
    together = run_members(network, place, own, stacks, inputs, layout)
    return all(
        float((found - torch.cat([first, second])).abs().max()) <= TOLERANCE * float((first - second).abs().max())
        for found, first, second in zip(together, *apart, strict=True)
    )
