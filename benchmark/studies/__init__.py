"""The studies that come with the suite, as YAML files."""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where they are."""
