"""Locks of files: one process has it, and who that is can be read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.locks import HeldError, hold

HOLDER = """
import sys, pathlib
from catalog.locks import hold
held = hold(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_who_holds_it_is_named_until_its_process_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        began = time.monotonic()
        with pytest.raises(HeldError) as found:
            hold(path, wait_secs=0.1)
        assert found.value.holder == str(other.pid)
        assert time.monotonic() - began >= 0.1
        other.kill()
        other.wait()
        with hold(path):
            assert path.read_text() == f"{os.getpid()}\n"


def test_it_is_free_again_once_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path), pytest.raises(HeldError, match=f"held by process {os.getpid()}"):
        hold(path)
    hold(path).close()


def test_a_place_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hold(tmp_path / "nowhere" / "lock")
