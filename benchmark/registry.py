"""Discovery of plugins by entry point and by file. Lazy: a plugin is imported when it is first asked for.

The built-ins come through the same entry-point groups as anybody's plugin. Two registrations of one name are an error
that names both origins; a plugin that fails to import is an entry with its traceback, and breaks nothing else.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from benchmark.errors import ConfigError, PluginError, UnknownNameError, nearest, unknown

if TYPE_CHECKING:
    from benchmark.contracts import Method, NetworkFamily, Task

T = TypeVar("T")


@dataclass(frozen=True)
class Origin:
    """Where a registered name comes from. `target` is "module:attribute" or "path:attribute"."""

    name: str
    target: str
    package: str
    entry_point: EntryPoint | None = None
    loaded: Any = None

    def __str__(self) -> str:
        return f"{self.target} ({self.package})"


class Registry(Generic[T]):
    """The plugins of one kind. `base` ("module:class") is what every plugin must be a subclass or an instance of; it
    is imported when the first plugin is loaded, so that listing names costs nothing."""

    def __init__(self, kind: str, group: str, base: str) -> None:
        self.kind, self.group, self._base = kind, group, base
        self._added: list[Origin] = []
        self._found: dict[str, list[Origin]] | None = None
        self._instances: dict[str, T] = {}

    @property
    def base(self) -> type:
        """The class that plugins of this kind inherit from."""
        module, _, name = self._base.partition(":")
        return cast(type, getattr(importlib.import_module(module), name))

    def origins(self) -> dict[str, list[Origin]]:
        """Every registered name with its origins (more than one is a collision), sorted, nothing imported."""
        if self._found is None:
            found: dict[str, list[Origin]] = {}
            for point in entry_points(group=self.group):
                package = f"{point.dist.name} {point.dist.version}" if point.dist else "unknown package"
                origin = Origin(point.name, point.value, package, entry_point=point)
                # An editable install and its source tree may both describe one and the same entry.
                if not any(known.target == origin.target for known in found.get(point.name, [])):
                    found.setdefault(point.name, []).append(origin)
            for origin in self._added:
                found.setdefault(origin.name, []).append(origin)
            self._found = dict(sorted(found.items()))
        return self._found

    def names(self) -> list[str]:
        """All registered names, sorted."""
        return list(self.origins())

    def add(self, name: str, plugin: Any, target: str, package: str = "--plugin") -> None:
        """Register an object that is at hand (a plugin file, a test)."""
        if any(origin.target == target for origin in self._added):
            return
        self._added.append(Origin(name, target, package, loaded=plugin))
        self._found = None
        self._instances.pop(name, None)  # so that a second claim to a name in use is reported, too

    def get(self, name: str) -> T:
        """The plugin's instance.

        Raises:
            UnknownNameError: nobody registered the name; holds the nearest match and the legal names.
            PluginError: two plugins claim the name, importing it failed, or it is not what it claims to be.
        """
        if name not in self._instances:
            origins = self.origins().get(name)
            if origins is None:
                raise UnknownNameError(unknown(self.kind, name, self.names()))
            if len(origins) > 1:
                both = " and ".join(str(origin) for origin in origins)
                raise PluginError(f"{self.kind} '{name}' is registered twice, by {both}. Remove or rename one of them.")
            self._instances[name] = self._load(origins[0])
        return self._instances[name]

    def family(self, name: str) -> tuple[str, T]:
        """The plugin behind a parametrised name, with its registered name: `wrn-16-4` is built by `wrn`,
        `timm:vit_tiny_patch16_224` by `timm`. The longest registered prefix that ends at "-" or ":" wins."""
        cuts = [len(name)] + [i for i in range(len(name) - 1, 0, -1) if name[i] in "-:"]
        for cut in cuts:
            if name[:cut] in self.origins():
                return name[:cut], self.get(name[:cut])
        # A misspelt family: 'wnr-16-4' is suggested as 'wrn-16-4'.
        near = [known + name[cut:] for cut in cuts[1:] for known in self.names()]
        raise UnknownNameError(unknown(self.kind, name, self.names(), near=near))

    def _load(self, origin: Origin) -> T:
        try:
            plugin = origin.entry_point.load() if origin.entry_point is not None else origin.loaded
            instance = plugin() if inspect.isclass(plugin) else plugin
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise PluginError(
                f"{self.kind} '{origin.name}' from {origin} cannot be loaded:\n{traceback.format_exc()}"
            ) from error
        if not isinstance(instance, self.base):
            raise PluginError(
                f"{self.kind} '{origin.name}' from {origin} is a {type(instance).__name__}, not a {self.base.__name__}."
            )
        declared = getattr(instance, "name", origin.name)
        if declared != origin.name:
            raise PluginError(
                f"{self.kind} '{origin.name}' from {origin} calls itself '{declared}'; the two names must agree."
            )
        return cast(T, instance)


METHODS: Registry[Method] = Registry("method", "bnnbench.methods", "benchmark.contracts:Method")
TASKS: Registry[Task] = Registry("task", "bnnbench.tasks", "benchmark.contracts:Task")
NETWORKS: Registry[NetworkFamily] = Registry("network", "bnnbench.networks", "benchmark.contracts:NetworkFamily")


def load_plugin_file(path: str | Path) -> None:
    """Register every Method, Task and NetworkFamily that a Python file defines with a `name`.

    Raises:
        ConfigError: there is no such file, or it defines no plugin.
        PluginError: the file raises while it is imported; holds the traceback.
    """
    path = Path(path).resolve()
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"--plugin {path}: no such file.{nearest(path.name, beside)}")
    # Not hash(): the name enters the digest of a run's code, which must be equal in every process.
    module_name = f"bnnbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--plugin {path}: not a Python file (expected a name that ends in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[module_name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise PluginError(f"--plugin {path} cannot be imported:\n{traceback.format_exc()}") from error
    kinds: tuple[Registry[Any], ...] = (METHODS, TASKS, NETWORKS)
    found = False
    for value in vars(module).values():
        if not inspect.isclass(value) or value.__module__ != module_name or "name" not in vars(value):
            continue
        for registry in kinds:
            if issubclass(value, registry.base):
                registry.add(str(vars(value)["name"]), value, f"{path}:{value.__qualname__}")
                found = True
    if not found:
        raise ConfigError(f"--plugin {path} defines no Method, Task or NetworkFamily with a `name`.")
