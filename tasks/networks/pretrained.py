"""The setting `pretrained` of every network family: which weights a network starts from, and where they lie.

Published weights are data sets, which `bnnbench data prepare` fetches. A file of the user's is copied below the data
root when a study is planned, under the digest of its content: the run is the same wherever the file was, a compute node
that sees the data root finds it, and what happens to the original later changes nothing. Below a data root that cannot
be written nothing is copied: runs read the file where it was, on machines that share the user's cache, for as long as
it is the same (see `StoredFile`).
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from benchmark import (
    Config,
    ConfigError,
    DataSet,
    MissingData,
    NetworkFamily,
    Weights,
    check_data,
    data_root,
    digest_of,
)
from tasks.networks.weight_files import PUBLISHED_BYTES, OwnFile, PublishedWeights, Source, StoredFile

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
LIBRARIES = ("torchvision", "timm")
FILE = "file"
"""What `pretrained` holds for a file of the user's when it is settled: the digest says which."""
LEGAL = (
    "true (the network's usual published weights), false, torchvision:TAG or timm:TAG, e.g. torchvision:IMAGENET1K_V2, "
    f"a path that ends in {', '.join(SUFFIXES)}"
)


class NetworkConfig(Config):
    """Settings of a network beside its name."""

    pretrained: bool | str = Field(False, description=f"weights to start from: {LEGAL}")
    digest: str = Field(
        "", description="SHA-256 of the file of weights; found while planning, or given to insist on it"
    )

    @field_validator("pretrained")
    @classmethod
    def _names_weights(cls, value: bool | str) -> bool | str:
        if isinstance(value, bool) or value == FILE or value.lower().endswith(SUFFIXES):
            return value
        library, _, tag = value.partition(":")
        if library in LIBRARIES and tag:
            return value
        raise ValueError(f"'{value}' names no weights.\n  legal: {LEGAL}")

    @model_validator(mode="after")
    def _digest_belongs_to_weights(self) -> NetworkConfig:
        if self.digest and (len(self.digest) != 64 or set(self.digest) - set("0123456789abcdef")):
            raise ValueError(f"digest '{self.digest}' is no SHA-256: 64 digits of 0-9 and a-f")
        if self.digest and not self.pretrained:
            raise ValueError("a digest without weights: say which by 'pretrained', or leave out 'digest'")
        if self.pretrained == FILE and not self.digest:
            raise ValueError(f"pretrained: {FILE} is a file that its digest names: give the path, or 'digest' as well")
        return self

    def identity(self) -> dict[str, Any]:
        """Nothing for a network that starts untrained, whose runs are those of before there were weights."""
        return self.model_dump(mode="json") if self.pretrained else {}

    @property
    def path(self) -> Path | None:
        """The user's file, relative to the current folder unless it is absolute; None for other weights."""
        text = str(self.pretrained)
        return Path(os.path.expanduser(text)).absolute() if text.lower().endswith(SUFFIXES) else None


class PretrainedFamily(NetworkFamily):
    """A family of networks that can start from weights in a file, and from published ones where it knows some."""

    Config = NetworkConfig

    @abstractmethod
    def source(self, network: str, tag: str) -> Source:
        """Where the published weights of a network come from. tag: as in `pretrained: LIBRARY:TAG`, empty for `true`.

        Raises:
            ConfigError: there are none.
        """

    def check_published(self, network: str, input_shape: Shape) -> None:
        """Raise ConfigError where the published weights cannot fit the network that such images get."""
        return

    def data(self, network: str, config: NetworkConfig, input_shape: Shape) -> Sequence[DataSet]:
        """The file of weights.

        Raises:
            ConfigError: there are no such published weights for this network and image size.
        """
        if not config.pretrained:
            return ()
        weights = self._weights(network, config)
        if isinstance(weights, PublishedWeights):
            self.check_published(network, input_shape)
        return (weights,)

    def data_set(self, name: str) -> DataSet | None:
        """`weights-LIBRARY.NETWORK.TAG`, and `weights-NETWORK` for the usual weights of a network of this family."""
        prefix, _, text = name.partition("-")
        if prefix != "weights" or not text:
            return None
        published = re.fullmatch(rf"({'|'.join(LIBRARIES)})\.([^.]+)\.([^.]+)", text)
        if published:
            return PublishedWeights(Source(*published.groups()))
        try:
            self.check(text)
            return PublishedWeights(self.source(text, ""))
        except ConfigError:
            return None

    def settled(self, network: str, config: NetworkConfig, input_shape: Shape) -> NetworkConfig:
        """The same weights named by library, tag and digest; a file of the user's by digest, after it has been copied
        to ROOT/weights/files (see the head of the module).

        Raises:
            ConfigError: the file has another digest than the settings insist on.
            MissingData: the file is missing, or cut off.
            EnvironmentProblem: neither the copy nor the note of its place can be written.
        """
        if not config.pretrained or config.pretrained == FILE:
            return config
        weights = self._weights(network, config)
        check_data([weights])
        digest = weights.fingerprint(data_root())
        if config.digest and config.digest != digest:
            raise ConfigError(
                f"network '{network}': {weights.file(data_root())} has the SHA-256 {digest}, and 'digest' insists on "
                f"{config.digest}. Restore that file, or leave out 'digest'."
            )
        if isinstance(weights, PublishedWeights):
            return NetworkConfig(pretrained=weights.origin.spelling, digest=digest)
        if isinstance(weights, OwnFile):
            weights.keep(data_root())
        return NetworkConfig(pretrained=FILE, digest=digest)

    def start(self, network: str, config: NetworkConfig, built: nn.Module) -> Weights:
        """All weights of the file but a classifier of other classes; see `checkpoints.weights_for`.

        Raises:
            ConfigError: the file does not fit the network, or is not the one that the run was planned with.
            MissingData: it is not there.
        """
        if not config.pretrained:
            return {}
        from tasks.networks.checkpoints import weights_for

        path = self._weights(network, config).file(data_root())
        if not path.is_file():
            raise MissingData(
                f"network '{network}': the weights {path} are missing. Bring them back, or plan the study again, which "
                "says how to get them."
            )
        if config.digest and digest_of(path) != config.digest:
            raise ConfigError(
                f"network '{network}': {path} has the SHA-256 {digest_of(path)}, and the run was planned with "
                f"{config.digest}. Restore the file, or plan the study again: other weights are another run."
            )
        return weights_for(network, path, built)

    def _weights(self, network: str, config: NetworkConfig) -> OwnFile | StoredFile | PublishedWeights:
        path = config.path
        if path is not None:
            return OwnFile(path)
        if config.pretrained == FILE:
            return StoredFile(config.digest)
        origin = self.source(network, "" if config.pretrained is True else str(config.pretrained))
        return PublishedWeights(origin, PUBLISHED_BYTES.get(origin.network, 0))


def no_published_weights(network: str, instead: str) -> ConfigError:
    """For a family that knows none. instead: what to do, a sentence."""
    return ConfigError(
        f"network '{network}' has no published weights that 'pretrained' could name. {instead}\n  legal: false, or a "
        f"path that ends in {', '.join(SUFFIXES)}"
    )


def source_among(network: str, spelling: str, name: str, libraries: Sequence[str]) -> Source:
    """`LIBRARY:TAG` as a source, for a network that these libraries call `name`.

    Raises:
        ConfigError: the library is another one.
    """
    library, _, tag = spelling.partition(":")
    if library not in libraries:
        legal = ", ".join(f"{each}:TAG" for each in libraries)
        raise ConfigError(
            f"network '{network}': weights of {library} ('{spelling}') are not for it.\n  legal: true, false, {legal}, "
            f"or a path that ends in {', '.join(SUFFIXES)}"
        )
    return Source(library, name, tag)
