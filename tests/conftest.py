"""Fixtures that every test folder shares."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Let closed terminals be heard by what tests start, also where they run under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT mean what it does in a fresh process.

    What a shell starts in the background ignores interrupts, and whatever ran in this process
    before may have put a handler of its own in Python's place.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real market data, which lies beside the project and never inside it."""
    folder = Path(os.environ.get("LEVIBOT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real market data is absent: no folder {folder.name} beside the project")
    return folder
