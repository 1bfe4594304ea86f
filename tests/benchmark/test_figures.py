"""Figures of a fit: what is accepted, where it is kept, what becomes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.context import Context
from benchmark.errors import CorruptFile, PluginError
from benchmark.figures import read_figures, remove_figures, write_figure
from benchmark.runfolder import RunFolder

PNG = "data:image/png;base64,iVBORw0KGgo="
NS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def svg(content: str = "<circle r='1'/>", head: str = "") -> str:
    return f"{head}<svg {NS}>{content}</svg>"


def context(folder: Path, **settings: Any) -> Context:
    return Context(folder, ("t", "n", "m", 0), **{"checkpoint_seconds": 0.0, **settings})


def test_a_figure_comes_back_with_its_caption_and_its_content(tmp_path: Path) -> None:
    caption = 'Weights, "shared" & <not>, σ/r'
    write_figure(tmp_path, "plane-2", svg(), caption)
    [found] = read_figures(tmp_path)
    assert (found.name, found.caption) == ("plane-2", caption)
    assert found.svg == (tmp_path / "plane-2.svg").read_bytes()
    assert b'<circle r="1"/>' in found.svg
    assert [path.name for path in tmp_path.iterdir()] == ["plane-2.svg"]


def test_the_numbers_behind_a_figure_stand_beside_it_and_go_with_it(tmp_path: Path) -> None:
    write_figure(tmp_path, "curve", svg(), "a curve", "x,y\n1,2\n")
    assert (tmp_path / "curve.csv").read_text() == "x,y\n1,2\n"
    assert [figure.name for figure in read_figures(tmp_path)] == ["curve"]
    write_figure(tmp_path, "curve", svg(), "another")
    assert not (tmp_path / "curve.csv").exists()
    write_figure(tmp_path, "curve", svg(), "a curve", "x\n")
    remove_figures(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_caption_is_the_first_description_also_with_a_prefix_and_one_of_its_own(tmp_path: Path) -> None:
    prefixed = '<s:svg xmlns:s="http://www.w3.org/2000/svg"><s:desc>old</s:desc></s:svg>'
    write_figure(tmp_path, "p", prefixed, "new")
    assert read_figures(tmp_path)[0].caption == "new"


def test_a_document_type_and_style_sheets_are_dropped(tmp_path: Path) -> None:
    head = (
        '<?xml version="1.0"?><?xml-stylesheet href="http://x/y.css"?>'
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">'
    )
    write_figure(tmp_path, "p", svg(head=head), "c")
    assert read_figures(tmp_path)[0].svg.startswith(b"<svg ")


@pytest.mark.parametrize(
    "content",
    [
        "<use xlink:href='#a'/>",
        f"<image href='{PNG}'/>",
        "<rect clip-path='url(#clip)' style='fill: url(#hatch)'/>",
        "<style>.a { fill: red }</style>",
        "<metadata><Work resource='http://purl.org/dc/dcmitype/StillImage'/></metadata>",
    ],
    ids=["fragment", "embedded image", "url of a fragment", "style", "metadata"],
)
def test_references_inside_of_the_file_are_legal(tmp_path: Path, content: str) -> None:
    write_figure(tmp_path, "p", svg(content), "c")
    assert len(read_figures(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("<script>alert(1)</script>", "<script>"),
        ("<x:SCRIPT xmlns:x='http://www.w3.org/1999/xhtml'/>", "<SCRIPT>"),
        ("<foreignObject/>", "<foreignObject>"),
        ("<metadata><iframe/></metadata>", "<iframe>"),
        ("<g onload='alert(1)'/>", "onload=...> is a script"),
        ("<set attributeName='xlink:href' to='x'/>", "is a script"),
        ("<a href='javascript:alert(1)'/>", "refers to something outside"),
        ("<image xlink:href='https://example.org/a.png'/>", "refers to something outside"),
        ("<image href='data:image/svg+xml;base64,AAAA'/>", "refers to something outside"),
        ("<image href='file.png'/>", "refers to something outside"),
        ("<g style=\"fill: url('http://x')\"/>", "refers to something outside"),
        ("<g fill='URL( //x )'/>", "refers to something outside"),
        ("<style>@import 'x.css';</style>", "refers to something outside"),
        ("<style><![CDATA[ a { fill: url(x.svg#a) } ]]></style>", "refers to something outside"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value).strip()[:30],
)
def test_scripts_and_references_to_elsewhere_are_refused(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises(PluginError, match=re.escape(says)):
        write_figure(tmp_path / "figures", "p", svg(content), "c")
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("name", "text", "caption", "says"),
    [
        ("Plane", svg(), "c", "legal: 1 to 64 lower-case letters"),
        ("../p", svg(), "c", "'../p'"),
        ("", svg(), "c", "legal"),
        ("p\n", svg(), "c", "legal"),
        ("p", svg(), " ", "has no caption"),
        ("p", "<svg", "c", "not well-formed XML"),
        ("p", "", "c", "not well-formed XML"),
        ("p", "<svg/>", "c", "has the root <svg>; it must be <svg xmlns="),
        ("p", "<html/>", "c", "has the root <html>"),
        ("p", svg(head='<!DOCTYPE svg [<!ENTITY a "b">]>'), "c", "defines entities"),
        ("p", svg(f"<desc>{'x' * 2_000_000}</desc>"), "c", "the limit is 2,000,000"),
    ],
    ids=["capital", "path", "empty name", "newline", "caption", "torn", "empty", "namespace", "html", "entity", "size"],
)
def test_what_is_no_figure_is_refused_with_what_to_do(
    tmp_path: Path, name: str, text: str, caption: str, says: str
) -> None:
    with pytest.raises(PluginError, match=re.escape(says)):
        write_figure(tmp_path, name, text, caption)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_figure_is_named(tmp_path: Path) -> None:
    write_figure(tmp_path, "p", svg(), "c")
    (tmp_path / "p.svg").write_bytes(b"\xff<svg")
    with pytest.raises(CorruptFile, match=re.escape(str(tmp_path / "p.svg"))):
        read_figures(tmp_path)


def test_without_a_folder_there_are_no_figures(tmp_path: Path) -> None:
    assert read_figures(tmp_path / "none") == []
    remove_figures(tmp_path / "none")


def names(folder: Path) -> list[str]:
    return [each.name for each in read_figures(folder / "figures")]


def test_a_figure_handed_over_again_is_replaced(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    ctx.figure("a", svg(), "first")
    ctx.figure("b", svg(), "other")
    ctx.figure("a", svg("<rect/>"), "second")
    assert [(each.name, each.caption) for each in read_figures(tmp_path / "figures")] == [
        ("a", "second"),
        ("b", "other"),
    ]


def test_a_fresh_start_replaces_the_figures_of_an_earlier_attempt_and_a_resumed_one_keeps_them(tmp_path: Path) -> None:
    first = context(tmp_path)
    first.figure("old", svg(), "c")
    resumed_from = context(tmp_path)
    resumed_from.figure("early", svg(), "c")
    assert names(tmp_path) == ["early"]
    resumed_from.checkpoint.offer(dict)
    resumed = context(tmp_path)
    assert resumed.checkpoint.load() is not None
    resumed.figure("late", svg(), "c")
    assert names(tmp_path) == ["early", "late"]


def test_a_run_that_was_taken_over_writes_no_figure(tmp_path: Path) -> None:
    def superseded() -> None:
        raise RuntimeError("another attempt is in charge")

    with pytest.raises(RuntimeError, match="in charge"):
        context(tmp_path, before_save=superseded).figure("a", svg(), "c")
    assert names(tmp_path) == []


def test_figures_are_archived_with_the_other_products(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    (tmp_path / "attempts" / "0001").mkdir(parents=True)
    context(tmp_path).figure("a", svg(), "c")
    run.archive()
    assert names(tmp_path) == []
    assert names(tmp_path / "attempts" / "0001" / "products") == ["a"]
    run.archive()
