"""What the README says works: its study is valid, its plugin runs, its networks and verbs exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli.main import VERBS
from benchmark.plan import plan
from benchmark.study import read_study

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, contains: str) -> str:
    """The fenced block of a language that holds some text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in blocks if contains in text)


def test_the_study_of_the_readme_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(block("yaml", "name: digits-small"), encoding="utf-8")
    planned = plan(read_study(str(path)))
    labels = {spec.label for spec in planned.rows.values()}
    assert labels == {
        "map", "map_temperature", "deep_ensemble members=3", "mean_field epochs=6", "mean_field epochs=12",
    }  # fmt: skip
    assert len(planned.excluded) == 3


def test_every_verb_of_the_readme_exists() -> None:
    named = set(re.findall(r"^bnnbench (\w+)", README, flags=re.MULTILINE))
    assert named <= set(VERBS)


def test_the_plugin_of_the_readme_runs_in_at_most_forty_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = block("python", "class Noise(Method)")
    assert len([line for line in text.splitlines() if line.strip()]) <= 40
    Path("my_method.py").write_text(text, encoding="utf-8")
    arguments = ["run", "--plugin", "my_method.py", "--task", "digits", "--network", "wrn-10-1", "--method", "map"]
    arguments += ["--method", "noise: {scale: [0.02, 0.1]}", "--budget", "0.05", "--draws", "2"]
    program = Path(sys.executable).with_name("bnnbench")
    done = subprocess.run([program, *arguments, "--launcher", "inline"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 done" in done.stdout
