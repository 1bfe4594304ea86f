"""Which architectures timm can build, read from its source text: importing timm takes seconds, planning must not."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# timm registers a model by decorating the function of its name; decorators may stand in between.
REGISTERED = re.compile(r"^@register_model\b[^\n]*\n(?:@[^\n]*\n)*def (\w+)\(", re.MULTILINE)


@cache
def timm_names() -> frozenset[str]:
    """Every architecture that timm registers, without pretrained tags and without deprecated spellings.

    Equal to `timm.list_models()`; falls back to it where timm's source cannot be read (a zipped installation).
    """
    spec = find_spec("timm")  # locates the package without importing it
    places = list(spec.submodule_search_locations or ()) if spec else []
    sources = [path for place in places for path in sorted(Path(place, "models").glob("*.py"))]
    names = {name for path in sources for name in REGISTERED.findall(path.read_text(encoding="utf-8"))}
    if not names:
        import timm

        names = set(timm.list_models())
    return frozenset(names)
