"""Residual networks with the module names of torchvision: `conv1`, `layer1`, `layer2`, ..., `fc`.

Two kinds: with a norm `bn1` behind the stem, blocks are convolution, norm, activation (He et al. 2016, basic and
bottleneck); with a norm `bn` before the classifier, they are norm, activation, convolution (wide residual networks).

Groups: the stream that the blocks of a stage add to (`S1`, ...; `S0` is that of the stem, where the first block does
not add to it), and the units inside of a block (`layer1.0.h1`, `layer1.0.h2`). A projection in a shortcut begins a new
stream. A shortcut that appends zero channels goes on with the old one, followed by a new group.
"""

from __future__ import annotations

from torch import nn

from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.families.draft import Draft, Units
from methods.symmetry.families.layers import CONVOLUTIONS, is_norm, passes
from methods.symmetry.groups import Axis, PermutationGroups

SHORTCUTS = ("downsample", "shortcut")


def residual(network: nn.Module) -> PermutationGroups | None:
    """The groups of a residual network; None when it has not the children above.

    Raises:
        UnsupportedArchitecture: it has, but something in it is not as in these networks.
    """
    children = dict(network.named_children())
    if not {"conv1", "layer1", "fc"} <= children.keys():
        return None
    before = "bn" in children
    if before == ("bn1" in children):
        raise UnsupportedArchitecture("a residual network has either 'bn1' behind 'conv1' or 'bn' before 'fc'")
    stages = [f"layer{number}" for number in range(1, 1 + sum(name.startswith("layer") for name in children))]
    _check_children("", network, {"conv1", "bn" if before else "bn1", "fc", *stages})
    draft = Draft(network)
    stream = _stem(draft, children, before=before)
    for number, stage in enumerate(stages, start=1):
        if stage not in children:
            raise UnsupportedArchitecture(f"the stages are not numbered from 1 on: '{stage}' is missing")
        for index, block in _blocks(stage, children[stage]):
            name = f"S{number}" if index == "0" else f"S{number}.{index}"
            stream = _block(draft, f"{stage}.{index}", block, stream, name, before=before)
    if before:
        draft.norm("bn", children["bn"], stream)
    draft.dense("fc", children["fc"], stream, None)
    return draft.finished()


def _stem(draft: Draft, children: dict[str, nn.Module], *, before: bool) -> Units:
    conv = children["conv1"]
    if not isinstance(conv, nn.Conv2d):
        raise UnsupportedArchitecture(f"the stem 'conv1' is a {type(conv).__name__}, not one convolution")
    _, first = _blocks("layer1", children["layer1"])[0]
    group = draft.group("S1" if passes(_shortcut("layer1.0", first)) else "S0", conv.out_channels)
    stream = draft.dense("conv1", conv, Units(None, None), group)
    if not before:
        draft.norm("bn1", children["bn1"], stream)
    draft.tap(group, "layer1.0", "input")
    return stream


def _blocks(path: str, stage: nn.Module) -> list[tuple[str, nn.Module]]:
    blocks = list(stage.named_children())
    if not isinstance(stage, nn.Sequential) or not blocks:
        raise UnsupportedArchitecture(f"the stage '{path}' is no sequence of blocks")
    return blocks


def _block(draft: Draft, path: str, block: nn.Module, stream: Units, name: str, *, before: bool) -> Units:
    """Label a block's tensors; the stream behind it. name: of the group that its shortcut may begin."""
    convs = _convolutions(path, block)
    units = stream
    for number, conv in enumerate(convs, start=1):
        norm = f"bn{number}"
        if before:
            _norm(draft, f"{path}.{norm}", block, norm, units)
        if number < len(convs):
            out: Axis = draft.group(f"{path}.h{number}", conv.out_channels)
            draft.tap(out, f"{path}.conv{number + 1}", "input")
        else:
            out = _behind_shortcut(draft, path, block, stream, conv.out_channels, name).axis
        units = draft.dense(f"{path}.conv{number}", conv, units, out)
        if not before:
            _norm(draft, f"{path}.{norm}", block, norm, units)
    _tap_newest(draft, path, units)
    return units


def _convolutions(path: str, block: nn.Module) -> list[nn.Conv2d]:
    """`conv1` and `conv2`, perhaps `conv3`, of a block that has no other parts than theirs."""
    own = {child: part for child, part in block.named_children() if child not in SHORTCUTS}
    convs = {child: part for child, part in own.items() if isinstance(part, nn.Conv2d)}
    names = [f"conv{number}" for number in range(1, 1 + len(convs))]
    if len(convs) not in (2, 3) or list(convs) != names:
        raise UnsupportedArchitecture(
            f"the block '{path}' has the convolutions {', '.join(convs) or '(none)'}, not conv1, conv2 (, conv3)"
        )
    _check_children(path, block, {*names, *(f"bn{name[4:]}" for name in names), *SHORTCUTS})
    return list(convs.values())


def _norm(draft: Draft, path: str, block: nn.Module, name: str, units: Units) -> None:
    module = getattr(block, name, None)
    if module is not None and not passes(module):
        draft.norm(path, module, units)


def _shortcut(path: str, block: nn.Module) -> nn.Module | None:
    found = [child for child in SHORTCUTS if getattr(block, child, None) is not None]
    if len(found) > 1:
        raise UnsupportedArchitecture(f"the block '{path}' has two shortcuts, {' and '.join(found)}")
    return getattr(block, found[0]) if found else None


def _behind_shortcut(draft: Draft, path: str, block: nn.Module, stream: Units, width: int, name: str) -> Units:
    """The stream to which a block of `width` channels adds."""
    shortcut = _shortcut(path, block)
    if shortcut is None or passes(shortcut):
        if width != stream.width:
            raise UnsupportedArchitecture(f"the block '{path}' adds {width} channels to {stream.width}")
        return stream
    child = next(child for child in SHORTCUTS if getattr(block, child, None) is shortcut)
    if _appends_zeros(shortcut):
        return _widened(draft, f"{path}.{child}", shortcut, stream, width, name)
    return _projected(draft, f"{path}.{child}", shortcut, stream, draft.group(name, width))


def _appends_zeros(shortcut: nn.Module) -> bool:
    """Subsampling in space and `extra` zero channels behind the others: a module with these two numbers and no more."""
    numbers = all(isinstance(getattr(shortcut, name, None), int) for name in ("extra", "stride"))
    return numbers and not [*shortcut.children(), *shortcut.parameters(), *shortcut.buffers()]


def _widened(draft: Draft, path: str, shortcut: nn.Module, stream: Units, width: int, name: str) -> Units:
    extra = width - (stream.width or 0)
    if shortcut.extra != extra or extra < 0:
        raise UnsupportedArchitecture(f"'{path}' appends {shortcut.extra} channels to {stream.width} of {width}")
    if extra == 0:
        return stream
    return Units((*_parts(stream.axis), draft.group(name, extra)), width)


def _projected(draft: Draft, path: str, shortcut: nn.Module, stream: Units, group: str) -> Units:
    """One convolution, perhaps with norms and poolings before or behind it."""
    if isinstance(shortcut, nn.Conv2d):
        return draft.dense(path, shortcut, stream, group)
    if not isinstance(shortcut, nn.Sequential):
        raise UnsupportedArchitecture(f"the shortcut '{path}' is a {type(shortcut).__name__}, not a projection")
    units = stream
    for child, module in shortcut.named_children():
        if is_norm(module):
            draft.norm(f"{path}.{child}", module, units)
        elif isinstance(module, CONVOLUTIONS) and units is stream:
            units = draft.dense(f"{path}.{child}", module, stream, group)
        elif not passes(module):
            raise UnsupportedArchitecture(f"'{path}.{child}', a {type(module).__name__}, is no part of a projection")
    if units is stream:
        raise UnsupportedArchitecture(f"the shortcut '{path}' has no convolution")
    return units


def _check_children(path: str, module: nn.Module, known: set[str]) -> None:
    for child, part in module.named_children():
        if child not in known and not passes(part):
            place = f"{path}.{child}" if path else child
            raise UnsupportedArchitecture(f"'{place}', a {type(part).__name__}, is no part of a residual network")


def _parts(axis: Axis) -> tuple[str | int, ...]:
    return (axis,) if isinstance(axis, str) else axis or ()


def _tap_newest(draft: Draft, path: str, stream: Units) -> None:
    """Read the newest group of the stream behind this block. The last block that does so is that of its stage."""
    *older, newest = _parts(stream.axis)
    start = sum(part if isinstance(part, int) else draft.sizes[part] for part in older)
    draft.tap(str(newest), path, "output", start=start)
