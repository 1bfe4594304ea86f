"""What families say about a network's name that they do not take."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark import ConfigError, nearest, unknown


def check_listed(network: str, names: Iterable[str]) -> None:
    """Raise ConfigError unless `network` is one of `names`."""
    listed = list(names)
    if network not in listed:
        raise ConfigError(unknown("network", network, listed))


def check_library(network: str, library: str, names: Iterable[str], forms: str, example: str) -> None:
    """Raise ConfigError unless `network` is `library:NAME` with one of `names`.

    example: a legal spelling, where nothing nearer can be suggested.
    """
    prefix, _, name = network.partition(":")
    if prefix != library or not name:
        raise misspelt(network, f"expected '{library}:' and a name of {library}", example, forms)
    listed = set(names)
    if name in listed:
        return
    architecture, _, tag = name.partition(".")
    if tag and architecture in listed:
        reason = (
            f"the tag '{tag}' names pretrained weights, which are a setting: {{'{library}:{architecture}': "
            f"{{pretrained: '{library}:{tag}'}}}}"
        )
        raise misspelt(network, reason, f"{library}:{architecture}", forms)
    raise ConfigError(
        f"network '{network}': {library} has no architecture '{name}'.{nearest(name, listed)}\n"
        f"  legal: {forms} ({len(listed)} names)"
    )


def misspelt(network: str, reason: str, suggestion: str, forms: str) -> ConfigError:
    """For a name whose parts are not legal. suggestion: a legal spelling."""
    return ConfigError(f"network '{network}': {reason}. Did you mean '{suggestion}'?\n  legal: {forms}")
