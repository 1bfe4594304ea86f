"""The views: golden files, and what must hold whatever they look like."""

from __future__ import annotations

import base64
import csv
import difflib
import html.parser
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from leaderboard_cases import done, failed, over_seeds, spec, study

from benchmark.figures import write_figure
from benchmark.leaderboard import (
    Leaderboard,
    Record,
    as_csv,
    as_html,
    as_json,
    as_markdown,
    as_text,
    build,
    print_terminal,
    runs_as_csv,
    write_all,
)
from benchmark.metrics.record import Value

GOLDEN = Path(__file__).parent / "golden"
REFRESH = "BNNBENCH_REFRESH_GOLDEN"
HOSTILE = '<script>alert("x")</script>|**`'


def board() -> Leaderboard:
    return build(study(), title="golden")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("leaderboard.md", as_markdown(board())),
        ("per_seed.md", as_markdown(board(), per_seed=True)),
        ("leaderboard.csv", as_csv(board())),
        ("runs.csv", runs_as_csv(board())),
        ("terminal_100.txt", as_text(board(), 100)),
        ("terminal_per_seed_120.txt", as_text(board(), 120, per_seed=True)),
    ],
)
def test_views_are_as_in_the_golden_files(name: str, content: str) -> None:
    path = GOLDEN / name
    if os.environ.get(REFRESH):
        path.write_text(content, encoding="utf-8", newline="")
    golden = path.read_text(encoding="utf-8") if path.is_file() else ""
    if content != golden:
        diff = "\n".join(difflib.unified_diff(golden.splitlines(), content.splitlines(), name, "now", lineterm=""))
        pytest.fail(f"{diff}\n\nIf this is meant: {REFRESH}=1 pytest {Path(__file__).name}", pytrace=False)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_no_width_of_the_terminal_cuts_a_number_and_every_line_fits(width: int) -> None:
    text = as_text(build(over_seeds("a_method_with_a_long_name", (0.3124, 0.3225, 0.3326))), width)
    for number in ("0.3225 ±0.0251", "91.00 ±0.00", "3.10 ±0.00 (1.24)", "42.7 MiB", "x1.00 ±0.00", "1m 35s"):
        assert number in text
    assert "…" not in text
    if width >= 60:
        table = [line for line in text.splitlines() if "±0" in line or "─" in line]
        assert max(map(len, table)) <= width


def test_wide_characters_in_labels_keep_the_columns_aligned() -> None:
    from rich.cells import cell_len

    text = as_text(build(over_seeds("map", (0.31,)) + over_seeds("方法", (0.32,))), 120)
    assert len({cell_len(line[: line.index("91.00")]) for line in text.splitlines() if "91.00" in line}) == 1


def test_a_terminal_shows_bold_and_underline_and_a_file_shows_signs() -> None:
    from rich.console import Console

    out = io.StringIO()
    print_terminal(board(), console=Console(file=out, force_terminal=True, width=120, color_system="standard"))
    assert "\x1b[1m0.2880 ±0.0050\x1b[0m" in out.getvalue()
    assert "\x1b" not in as_text(board())
    assert "0.2880 ±0.0050*" in as_text(board())


def test_stale_rows_have_a_dagger_and_the_command_that_refreshes_them() -> None:
    stale = next(record for record in board().records if record.status == "stale")
    for shown in (as_text(board()), as_markdown(board()).replace("\\_", "_"), as_html(board())):
        assert f"† 1 run of earlier code (bnnbench run ... --rerun stale makes them anew): {stale.run}" in shown
    assert "2dgbnn components=64 †" in as_markdown(board())


def test_csv_holds_every_bit_and_every_state() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(board()))))
    by_key = {(line["network"], line["label"], line["metric"]): line for line in lines}
    nll = by_key["resnet18", "mean_field", "nll"]
    assert float(nll["mean"]) == pytest.approx((0.2871 + 0.2903 + 0.2866) / 3, abs=1e-15)
    assert (nll["spread"], nll["n"], nll["coverage"], nll["best"]) == ("t", "3", "3/3", "1")
    assert {line["state"] for line in lines} == {"ok", "inf", "na", "failed"}
    assert all(bool(line["mean"]) == (line["state"] == "ok") for line in lines)
    runs = list(csv.DictReader(io.StringIO(runs_as_csv(board()))))
    assert {line["run"] for line in runs} == {record.run for record in board().records}
    oom = [line for line in runs if line["status"] == "oom"]
    assert [(line["state"], line["reason"]) for line in oom] == [("failed", "CUDA out of memory")]


def test_json_is_plain_and_finite() -> None:
    text = json.dumps(as_json(board()), allow_nan=False)
    row = json.loads(text)["tables"][0]["rows"][0]
    assert row["metrics"]["nll"]["seeds"] == {"0": 0.2871, "1": 0.2903, "2": 0.2866}
    assert row["metrics"]["ece15"]["calibrated"] is True


class Page(html.parser.HTMLParser):
    """Tags that are open, references to elsewhere, scripts, text."""

    void = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_well_formed_and_needs_nothing_from_elsewhere() -> None:
    text = as_html(board())
    page = Page(text)
    assert page.open == []
    assert [reference for reference in page.references if not reference.startswith("data:")] == []
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "url(" not in text
    assert "@import" not in text
    for part in (
        "0.2880 ±0.0050",
        "seed 2",
        "CUDA out of memory",
        "Test CPU",
        "0123456789abcdef",
        "2.13.0",
        "∞",
        "n/a",
    ):
        assert part in page.text
    assert "mean_i" in page.text or "log-likelihood" in page.text.lower()


def test_hostile_names_and_messages_stay_text_in_every_view() -> None:
    records = [*over_seeds("map", (0.3,), given={"note": HOSTILE}), failed(spec("pwfn"), message=f"{HOSTILE}\nmore")]
    records.append(done(spec("map", network=HOSTILE)))
    shown = build(records, title=HOSTILE)
    page = Page(as_html(shown))
    assert page.scripts == 1
    assert HOSTILE in page.text
    table = [line for line in as_markdown(shown).splitlines() if line.startswith("| map note")]
    assert table[0].count("|") - table[0].count("\\|") == len(shown.tables[0].columns) + 4
    assert "<script>" not in as_markdown(shown).replace("\\<script\\>", "")
    assert HOSTILE in as_text(shown, 200)


def test_write_all_writes_every_view_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    paths = write_all(board(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [
        "leaderboard.md",
        "leaderboard.csv",
        "runs.csv",
        "leaderboard.json",
        "leaderboard.html",
    ]
    assert sorted(paths) == sorted((tmp_path / "new" / "folder").iterdir())
    assert paths[0].read_text(encoding="utf-8") == as_markdown(board())


def test_a_temperature_at_the_end_of_its_range_is_marked_and_explained() -> None:
    scaled = Value.ok(0.2748, 899, extra={"at_bound": True})
    shown = as_text(build([done(spec("map"), nll_ts=scaled), done(spec("mean_field"), nll_ts=0.04)]), width=100)
    assert "0.2748§" in shown
    assert "§ the temperature is at the end of its range" in shown
    assert "0.0400§" not in shown


def with_figures(folder: Path, seeds: int) -> list[Record]:
    records = over_seeds("mean_field", [0.3] * seeds)
    for seed in range(seeds):
        svg = f'<svg xmlns="http://www.w3.org/2000/svg"><text>picture {seed}</text></svg>'
        write_figure(folder / str(seed), "plane", svg, f"{HOSTILE} of seed {seed}")
    return [replace(record, figures=folder / str(record.spec.seed)) for record in records]


def test_html_embeds_the_figures_of_the_first_finished_seed_as_images_with_caption_and_alt_text(tmp_path: Path) -> None:
    first, *others = with_figures(tmp_path, 3)
    failed_first = replace(failed(first.spec), figures=first.figures)
    for records, seed in (([first, *others], 0), ([failed_first, *others], 1)):
        text = as_html(build(records))
        page = Page(text)
        assert page.open == []
        assert page.scripts == 1
        images = [each for each in page.references if each.startswith("data:image/svg+xml;base64,")]
        assert [base64.b64decode(each.partition(",")[2]) for each in images] == [
            (tmp_path / str(seed) / "plane.svg").read_bytes()
        ]
        assert f"{HOSTILE} of seed {seed}" in page.text
        assert f'alt="plane: mean_field on resnet18, seed {seed}"' in text


def test_a_damaged_figure_is_told_in_the_report_and_costs_nothing_else(tmp_path: Path) -> None:
    records = with_figures(tmp_path, 1)
    (tmp_path / "0" / "plane.svg").write_text("<svg")
    page = Page(as_html(build(records)))
    assert "plane.svg is damaged" in page.text
    assert "0.3000" in page.text
