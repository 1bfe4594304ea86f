"""Which classification networks torchvision has, read from its source text: importing it takes seconds."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# torchvision registers a network by decorating the function of its name; decorators may stand in between.
REGISTERED = re.compile(r"^@register_model\(\)\n(?:@[^\n]*\n|^ [^\n]*\n|^\)\n)*def (\w+)\(", re.MULTILINE)


@cache
def torchvision_names() -> frozenset[str]:
    """Equal to `torchvision.models.list_models(torchvision.models)`, on which it falls back where the source cannot be
    read (a zipped installation)."""
    spec = find_spec("torchvision")  # locates the package without importing it
    places = list(spec.submodule_search_locations or ()) if spec else []
    sources = [path for place in places for path in sorted(Path(place, "models").glob("*.py"))]
    names = {name for path in sources for name in REGISTERED.findall(path.read_text(encoding="utf-8"))}
    if not names:
        from torchvision import models

        names = set(models.list_models(models))
    return frozenset(names)
