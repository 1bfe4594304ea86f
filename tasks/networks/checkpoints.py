"""Weights from files of other programs: read as tensors and nothing else, named as the network names them, checked.

Files are safetensors, or what `torch.save` wrote, read with `weights_only`: a file that would run code is refused.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import ConfigError, Weights
from tasks.networks.file_heads import is_safetensors
from tasks.networks.fitting import fitted
from tasks.networks.layouts import translated

HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema", "state_dict_ema", "model_ema")
"""Where training scripts put the state dict, beside the optimizer's and the epoch; the first that is there is taken."""


def weights_for(name: str, path: Path, network: nn.Module) -> Weights:
    """The weights in a file, by the network's names, float32 on its device; without a classifier of other classes,
    which a warning names.

    name: the network's spelling, for messages. network: with the initialisation that a classifier keeps.

    Raises:
        ConfigError: the file cannot be read or does not fit; with a table of names and shapes.
    """
    wanted = {key: value for key, value in network.state_dict().items() if value.is_floating_point()}
    tensors = {key: value for key, value in read(path).items() if value.is_floating_point() and not _counts(key)}
    places = translated(tensors, network, wanted)
    state: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if places[key] in state:
            others = sorted(other for other in tensors if places[other] == places[key])
            raise ConfigError(
                f"network '{name}': {path} holds more than one tensor for '{places[key]}': {', '.join(others)}. Save "
                "the state dict of one network."
            )
        state[places[key]] = tensor
    about = metadata(path)
    weights, notes = fitted(f"network '{name}'", path, state, network, wanted, about)
    for note in notes:
        warnings.warn(f"network '{name}': {note}", stacklevel=2)
    return weights


def _counts(key: str) -> bool:
    """Batch norm's count of batches, which no prediction depends on; some files have it in floating point."""
    return key.endswith("num_batches_tracked")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU.

    Raises:
        ConfigError: it is not safetensors and not what `torch.save` wrote, is damaged, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path) if is_safetensors(path) else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(_refused(path, error)) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as weights ({path.stat().st_size:,} bytes): {cause}\n"
            "  It is damaged, cut off, or neither safetensors nor written by torch.save. Copy it anew."
        ) from error
    return _state_dict(path, found)


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself; nothing for other files."""
    if not is_safetensors(path):
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        return dict(handle.metadata() or {})


def _state_dict(path: Path, found: Any) -> dict[str, Tensor]:
    level = found
    while isinstance(level, Mapping):
        tensors = {str(key): value for key, value in level.items() if isinstance(value, Tensor)}
        inner = next((level[key] for key in HOLDERS if isinstance(level.get(key), Mapping)), None)
        if inner is None:
            if tensors:
                return {key: value.detach() for key, value in tensors.items()}
            break
        level = inner
    held = f"keys {', '.join(map(str, list(level)[:10]))}" if isinstance(level, Mapping) else type(level).__name__
    raise ConfigError(
        f"{path} holds no state dict: {held}. Expected a mapping of names to tensors, or one under "
        f"{', '.join(HOLDERS)}. Save it so: torch.save(network.state_dict(), PATH)"
    )


def _refused(path: Path, error: Exception) -> str:
    text = str(error)
    cause = next((line.strip() for line in text.splitlines() if "GLOBAL" in line or "Unsupported" in line), "")
    return (
        f"{path} is refused: it holds Python objects beside tensors, and reading them could run code, or it is no file "
        f"of torch.save.{' ' + cause if cause else ''}\n"
        "  Where you trust it, write the tensors alone: "
        "torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW)"
    )
