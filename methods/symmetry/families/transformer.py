"""Vision transformers with the module names of timm: `patch_embed`, `blocks`, `norm`, `head`.

Groups: the stream `R`, one for the whole network, because a skip connection is an identity and a layer norm allows no
other relabelling; the heads `H0`, `H1`, ... and the hidden units `M0`, `M1`, ... of the blocks. Class, distillation and
register tokens, layer scale, norms of queries and keys, and a norm behind the pooling are known. Not: attention
pooling, gated or normed attention outputs, relative positions, gated feed-forward layers, parallel blocks.
"""

from __future__ import annotations

from torch import nn

from methods.symmetry.errors import UnsupportedArchitecture
from methods.symmetry.families.draft import Draft, Units
from methods.symmetry.families.layers import is_norm, passes
from methods.symmetry.groups import Attention, PermutationGroups

TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")
NORMS = ("norm", "norm_pre", "fc_norm", "norm1", "norm2", "ls1", "ls2")


def transformer(network: nn.Module) -> PermutationGroups | None:
    """The groups of a vision transformer; None when it has not the children above.

    Raises:
        UnsupportedArchitecture: it has, but something in it is not as in timm's `VisionTransformer`.
    """
    children = dict(network.named_children())
    if not {"patch_embed", "blocks", "norm", "head"} <= children.keys():
        return None
    draft = Draft(network)
    stream = _embedding(draft, children["patch_embed"])
    for name, tensor in network.named_parameters(recurse=False):
        if name in TOKENS:
            stream.read(tensor.shape[-1], name)
            draft.put(name, (*[None] * (tensor.ndim - 1), stream.axis))
    for index, block in children["blocks"].named_children():
        _block(draft, index, block, stream)
    for name, module in children.items():
        if name in ("head", "head_dist") and isinstance(module, nn.Linear):
            draft.dense(name, module, stream, None)
        elif name not in ("patch_embed", "blocks"):
            _norm_or_nothing(draft, name, module, stream)
    draft.tap(stream.axis, "norm", "input", axis=2)
    return draft.finished()


def _embedding(draft: Draft, patches: nn.Module) -> Units:
    proj = getattr(patches, "proj", None)
    if not isinstance(proj, nn.Conv2d):
        raise UnsupportedArchitecture("'patch_embed.proj' is no convolution")
    stream = draft.dense("patch_embed.proj", proj, Units(None, None), draft.group("R", proj.out_channels))
    for name, module in patches.named_children():
        if name != "proj":
            _norm_or_nothing(draft, f"patch_embed.{name}", module, stream)
    return stream


def _norm_or_nothing(draft: Draft, path: str, module: nn.Module, units: Units) -> None:
    if is_norm(module) and path.rpartition(".")[2] in NORMS:
        draft.norm(path, module, units)
    elif not (passes(module) or type(module).__name__ == "PatchDropout"):
        raise UnsupportedArchitecture(f"'{path}', a {type(module).__name__}, is no part of a vision transformer")


def _block(draft: Draft, index: str, block: nn.Module, stream: Units) -> None:
    path = f"blocks.{index}"
    for name, module in block.named_children():
        if name == "attn":
            _attention(draft, f"{path}.attn", module, stream, f"H{index}")
        elif name == "mlp":
            _feed_forward(draft, f"{path}.mlp", module, stream, f"M{index}")
        else:
            _norm_or_nothing(draft, f"{path}.{name}", module, stream)


def _attention(draft: Draft, path: str, attn: nn.Module, stream: Units, name: str) -> None:
    """Rows of `qkv` are (q k v, head, entry), columns of `proj` (head, entry)."""
    parts = dict(attn.named_children())
    qkv, proj, heads = parts.pop("qkv", None), parts.pop("proj", None), getattr(attn, "num_heads", None)
    if not (isinstance(qkv, nn.Linear) and isinstance(proj, nn.Linear) and isinstance(heads, int)):
        raise UnsupportedArchitecture(f"'{path}' has no linear layers 'qkv' and 'proj' and no number of heads")
    width = proj.in_features // heads
    if proj.in_features != heads * width or qkv.out_features != 3 * heads * width:
        raise UnsupportedArchitecture(f"'{path}' has {qkv.out_features} rows in 'qkv' for {proj.in_features} in 'proj'")
    qk_norms = {f"{path}.{key}": parts.pop(key) for key in ("q_norm", "k_norm") if not passes(parts.get(key))}
    for norm_path, norm in qk_norms.items():
        draft.norm(norm_path, norm, Units(None, width))  # over the entries of a head, the same for every head
    _refuse_others(path, parts)
    group = draft.group(name, heads)
    stream.read(qkv.in_features, f"{path}.qkv.weight")
    stream.read(proj.out_features, f"{path}.proj.weight")
    draft.put(f"{path}.qkv.weight", (None, group, None, stream.axis), (3, heads, width, qkv.in_features))
    if qkv.bias is not None:
        draft.put(f"{path}.qkv.bias", (None, group, None), (3, heads, width))
    draft.put(f"{path}.proj.weight", (stream.axis, group, None), (proj.out_features, heads, width))
    if proj.bias is not None:
        draft.put(f"{path}.proj.bias", (stream.axis,))
    has_bias = qkv.bias is not None
    plain = not qk_norms
    draft.attentions.append(Attention(path, group, heads, width, rotates_qk=plain, key_bias=has_bias and plain))


def _feed_forward(draft: Draft, path: str, mlp: nn.Module, stream: Units, name: str) -> None:
    parts = dict(mlp.named_children())
    first, second = parts.pop("fc1", None), parts.pop("fc2", None)
    if not (isinstance(first, nn.Linear) and isinstance(second, nn.Linear)):
        raise UnsupportedArchitecture(f"'{path}' has no linear layers 'fc1' and 'fc2'")
    if first.out_features != second.in_features:
        raise UnsupportedArchitecture(f"'{path}' makes {first.out_features} units and uses {second.in_features}: gated")
    hidden = draft.dense(f"{path}.fc1", first, stream, draft.group(name, first.out_features))
    for child, module in parts.items():
        _norm_or_nothing(draft, f"{path}.{child}", module, hidden)
    draft.dense(f"{path}.fc2", second, hidden, stream.axis)
    if second.out_features != stream.width:
        raise UnsupportedArchitecture(f"'{path}.fc2' gives {second.out_features} units to a stream of {stream.width}")
    draft.tap(hidden.axis, f"{path}.fc2", "input", axis=2)


def _refuse_others(path: str, parts: dict[str, nn.Module]) -> None:
    for child, module in parts.items():
        if not passes(module):
            raise UnsupportedArchitecture(f"'{path}.{child}', a {type(module).__name__}, is no part of plain attention")
