"""All views of one leaderboard as files."""

from __future__ import annotations

import json
from pathlib import Path

from benchmark.files import write_bytes
from benchmark.leaderboard.csvview import as_csv, runs_as_csv
from benchmark.leaderboard.html import as_html
from benchmark.leaderboard.jsonview import as_json
from benchmark.leaderboard.markdown import as_markdown
from benchmark.leaderboard.table import Leaderboard


def write_all(leaderboard: Leaderboard, folder: Path) -> list[Path]:
    """Write `leaderboard.{md,csv,json,html}` and `runs.csv` into `folder`; every file is replaced whole or not at all.

    All views are made before the first one is written. Returns the paths in that order.
    """
    contents = {
        "leaderboard.md": as_markdown(leaderboard),
        "leaderboard.csv": as_csv(leaderboard),
        "runs.csv": runs_as_csv(leaderboard),
        "leaderboard.json": json.dumps(as_json(leaderboard), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "leaderboard.html": as_html(leaderboard),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_bytes(folder / name, content.encode())
    return [folder / name for name in contents]
