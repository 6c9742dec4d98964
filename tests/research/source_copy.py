"""A copy of the sources, for runs on a cluster that others' edits must not disturb."""

from __future__ import annotations

import shutil
from pathlib import Path

from research.cluster import PACKAGES

_ROOT = Path(__file__).resolve().parents[2]


def copied_sources(folder: Path) -> Path:
    """Copy the packages and the tests into a folder, and return where they lie.

    Whoever works on the sources meanwhile would be refused as a machine with other code is.
    """
    sources = folder / "sources"
    for package in (*PACKAGES, "tests"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_ROOT / package, sources / package, ignore=skipped)
    return sources
