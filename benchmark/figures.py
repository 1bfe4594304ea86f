"""Figures that a method makes of its fit: SVG files in the run folder, each with its caption inside."""

from __future__ import annotations

import contextlib
import re
import xml.dom.minidom
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.dom.minidom import Document, Element, Text
from xml.parsers.expat import ExpatError

from benchmark.errors import CorruptFile, PluginError
from benchmark.files import write_bytes

MOST_BYTES = 2_000_000
SVG = "http://www.w3.org/2000/svg"
_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_ACTIVE = ("script", "foreignobject", "iframe", "object", "embed", "link", "audio", "video")
_INSIDE = re.compile(r"\s*(#|data:image/(png|jpeg|gif|webp)[;,])", re.IGNORECASE)
_CSS_REFERENCE = re.compile(
    r"@import|\burl\(\s*['\"]?(?!\s*['\"]?(#|data:image/(png|jpeg|gif|webp)[;,]))", re.IGNORECASE
)


@dataclass(frozen=True)
class Figure:
    """name: of the file, without `.svg`. svg: its bytes, UTF-8. caption: one or more sentences of plain text."""

    name: str
    svg: bytes
    caption: str


def write_figure(folder: Path, name: str, svg: str, caption: str, data: str | None = None) -> None:
    """Check the figure and write `folder/NAME.svg`, whole or not at all, with the caption as the image's description;
    before it `folder/NAME.csv`, if there are data.

    Raises:
        PluginError: an illegal name, no caption, not an SVG image, 2 MB or more, scripts, references to elsewhere.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"the name of a figure is {name!r}; legal: 1 to 64 lower-case letters, digits, - and _, as in 'plane-2'"
        )
    if not caption.strip():
        raise PluginError(f"figure '{name}' has no caption. Say in a sentence what it shows.")
    image = _parsed(name, svg)
    _describe(image, caption.strip())
    content = image.toxml().encode()  # without the DOCTYPE, which refers to elsewhere
    if len(content) >= MOST_BYTES:
        raise PluginError(
            f"figure '{name}' has {len(content):,} bytes; the limit is {MOST_BYTES:,}. Draw dense parts as an image "
            "inside the SVG, or fewer marks."
        )
    folder.mkdir(parents=True, exist_ok=True)
    numbers = folder / f"{name}.csv"
    numbers.unlink(missing_ok=True)  # of the figure that this one replaces
    if data is not None:
        write_bytes(numbers, data.encode())
    write_bytes(folder / f"{name}.svg", content)


def read_figures(folder: Path) -> list[Figure]:
    """The figures in a folder, by name; none where there is no folder.

    Raises:
        CorruptFile: one is not what `write_figure` writes.
    """
    return [_read(path) for path in sorted(folder.glob("[!.]*.svg"))]


def remove_figures(folder: Path) -> None:
    """Remove the figures of an earlier attempt."""
    for path in (*folder.glob("*.svg"), *folder.glob("*.csv")):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _read(path: Path) -> Figure:
    data = path.read_bytes()
    try:
        image = _parsed(path.stem, data.decode())
    except (UnicodeDecodeError, PluginError) as error:
        raise CorruptFile(f"{path} is damaged: {error}") from error
    first = image.firstChild
    caption = _text(first) if isinstance(first, Element) and first.localName == "desc" else ""
    return Figure(path.stem, data, caption)


def _parsed(name: str, svg: str) -> Element:
    """The root of a harmless SVG."""
    try:
        document = xml.dom.minidom.parseString(svg.encode())
    except ExpatError as error:
        raise PluginError(f"figure '{name}' is not well-formed XML ({error}). Hand over the text of an SVG.") from error
    if document.doctype is not None and document.doctype.internalSubset:
        raise PluginError(f"figure '{name}' defines entities in its DOCTYPE. Leave the DOCTYPE out.")
    [root] = document.getElementsByTagName("*")[:1]
    if (root.namespaceURI, root.localName) != (SVG, "svg"):
        raise PluginError(f"figure '{name}' has the root <{root.tagName}>; it must be <svg xmlns='{SVG}'>.")
    for element in _elements(root):
        _refuse_active(name, element)
    return root


def _elements(root: Element) -> Iterator[Element]:
    yield root
    yield from root.getElementsByTagName("*")


def _refuse_active(name: str, element: Element) -> None:
    """An image stands alone and does nothing: it is opened in browsers, next to results of others."""
    tag = element.localName
    if tag.lower() in _ACTIVE:
        raise PluginError(f"figure '{name}' has an element <{tag}>. Leave it out: figures are still images.")
    for attribute, value in element.attributes.items():
        plain = attribute.rpartition(":")[2].lower()
        if plain.startswith("on") or (plain == "attributename" and value.lower().endswith("href")):
            raise PluginError(f"figure '{name}': <{tag} {attribute}=...> is a script. Leave it out.")
        if (plain in ("href", "src") and not _INSIDE.match(value)) or _CSS_REFERENCE.search(value):
            raise _external(name, f"<{tag} {attribute}={value[:60]!r}>")
    if tag.lower() == "style" and _CSS_REFERENCE.search(_text(element)):
        raise _external(name, f"<{tag}>")


def _external(name: str, where: str) -> PluginError:
    return PluginError(
        f"figure '{name}': {where} refers to something outside of the file. Embed it: '#id' and "
        "data:image/png;base64,... are legal."
    )


def _text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if isinstance(child, Text))


def _describe(root: Element, caption: str) -> None:
    """The caption as the first `desc`, which is how SVG describes an image to whoever does not see it."""
    document = Document()
    description = document.createElementNS(SVG, f"{root.prefix}:desc" if root.prefix else "desc")
    description.appendChild(document.createTextNode(caption))
    root.insertBefore(description, root.firstChild)
