"""Fetching published weights through the libraries that publish them, into a safetensors file. Imports torch.

torchvision and timm build the network with its weights and give its state dict: their loaders mend the names of old
files (torchvision's DenseNets), and what is written has the names of the networks that this suite builds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmark import ConfigError, MissingData, nearest
from tasks.networks.file_heads import HEADER_BYTES
from tasks.networks.weight_files import Source

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def default_tag(library: str, network: str) -> str:
    """The tag that the library loads by default.

    Raises:
        ConfigError: it has no weights for the network.
    """
    return _tags(library, network)[0]


def check_tag(origin: Source) -> None:
    """Raise ConfigError when the library publishes no such weights."""
    tags = _tags(origin.library, origin.network)
    if origin.tag not in tags:
        raise ConfigError(
            f"{origin.library} has no weights '{origin.tag}' of '{origin.network}'.{nearest(origin.tag, tags)}\n"
            f"  legal: {', '.join(f'{origin.library}:{tag}' for tag in tags)}"
        )


def fetch(origin: Source, path: Path) -> None:
    """Download weights and write them to `path`, with what their inputs were normalised by.

    Raises:
        ConfigError: there are no such weights.
        MissingData: they cannot be fetched.
    """
    from safetensors.torch import save_file

    check_tag(origin)
    try:
        state, mean, std = (_from_torchvision if origin.library == "torchvision" else _from_timm)(origin)
    except Exception as error:  # sockets, TLS, HTTP and the hub's client each raise their own
        raise MissingData(
            f"{origin.library} could not fetch the weights {origin.tag} of {origin.network}: "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            f"  This machine may have no way to the network. Run the same command on one that has, with a data root "
            f"that both see, or copy the two files {origin.name}.safetensors* into {path.parent}."
        ) from error
    about = {
        "source": f"{origin.library}:{origin.network}:{origin.tag}",
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, path, metadata=about)
    _sort_metadata(path)


def _sort_metadata(path: Path) -> None:
    """safetensors writes its metadata in an order that differs from process to process; the digest of the file is part
    of what a run is. The length of the header stays."""
    with open(path, "r+b") as handle:
        length = int.from_bytes(handle.read(HEADER_BYTES), "little")
        header = json.loads(handle.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: its header has {length} bytes, and {len(text)} when its keys are sorted")
        handle.seek(HEADER_BYTES)
        handle.write(text.ljust(length))


def _tags(library: str, network: str) -> list[str]:
    """All tags, the default first."""
    tags = _torchvision_tags(network) if library == "torchvision" else _timm_tags(network)
    if not tags:
        raise ConfigError(
            f"{library} publishes no weights of '{network}'. Leave 'pretrained' out, or give the path of a file."
        )
    return tags


def _torchvision_tags(network: str) -> list[str]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(network)
    default = weights.DEFAULT.name
    return [default, *(each.name for each in weights if each.name != default)]


def _timm_tags(network: str) -> list[str]:
    import timm

    default = timm.get_pretrained_cfg(network)
    names = timm.list_pretrained(f"{network}.*")
    tags = [name.partition(".")[2] for name in names if name.startswith(f"{network}.")]
    usual = default.tag if default is not None and default.tag in tags else None
    return sorted(tags, key=lambda tag: (tag != usual, tag))


Published = tuple[dict[str, Tensor], Sequence[float], Sequence[float]]


def _from_torchvision(origin: Source) -> Published:
    from torchvision.models import get_model, get_model_weights

    from tasks.networks.torchvision_adapter import WITH_HELPERS

    weights = get_model_weights(origin.network)[origin.tag]
    settings: dict[str, Any] = {"aux_logits": False} if origin.network in WITH_HELPERS else {}
    transform = weights.transforms()
    # Networks with helpers normalise anew by themselves: their inputs are in ImageNet's normalisation, as written here.
    mean, std = getattr(transform, "mean", IMAGENET_MEAN), getattr(transform, "std", IMAGENET_STD)
    return get_model(origin.network, weights=weights, **settings).state_dict(), list(mean), list(std)


def _from_timm(origin: Source) -> Published:
    import timm

    network = timm.create_model(f"{origin.network}.{origin.tag}", pretrained=True)
    settings: Any = network.pretrained_cfg
    return network.state_dict(), list(settings["mean"]), list(settings["std"])
