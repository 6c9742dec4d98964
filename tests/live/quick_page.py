"""A tearsheet that is written at once: drawing takes longer than all the rest of a small run.

tests/research/test_tearsheet.py draws, and so do the commands in test_cli.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from live.runs import TEARSHEET_FILE


def _empty(_: object, folder: Path) -> Path:
    (folder / TEARSHEET_FILE).write_text("", encoding="utf-8")
    return folder / TEARSHEET_FILE


@contextmanager
def quick_page() -> Iterator[pytest.MonkeyPatch]:
    """Let runs of this process have empty tearsheets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("live.report.write_tearsheet", _empty)
        yield patch
