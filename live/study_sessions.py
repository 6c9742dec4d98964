"""What a study has run so far, and that one process at a time does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import ConfigError, IntegrityError
from live.runs import finite, peak_memory_mb
from research.study_tables import Record

SESSIONS_FILE = "sessions.json"
_KEYS = frozenset({"variant", "key", "folds", "seconds"})


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a study's folder, and remove what killed processes had begun to write there.

    Raises
    ------
    ConfigError
        If another process holds it.
    """
    with (folder / ".lock").open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--out must be no folder that another command works in now, {folder} is; wait for "
                "its end or choose another folder"
            ) from None
        for pattern in (".*.partial", "folds/*/.*.partial"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        yield


def json_bytes(payload: Any) -> bytes:
    """Return canonical JSON; numbers that are not finite become null."""
    return (json.dumps(finite(payload), indent=1, allow_nan=False) + "\n").encode()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True, slots=True)
class Sessions:
    """The record of all that was run in a study's folder, by walk-forward and question.

    Parameters
    ----------
    folder : Path
        Of the study; the record is its ``sessions.json``.
    found : list of dict
        variant, key (what was asked), threads, folds (kept when it ended), seconds,
        peak_memory_mb (of the process so far).
    """

    folder: Path
    found: list[Record]

    @classmethod
    def read(cls, folder: Path) -> Sessions:
        """Read the record; empty where there is none.

        Raises
        ------
        IntegrityError
            If it is damaged.
        """
        path = folder / SESSIONS_FILE
        if not path.is_file():
            return cls(folder, [])
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            whole = all(one.keys() >= _KEYS for one in found)
        except (ValueError, TypeError, AttributeError) as error:
            raise _damaged(path, repr(error)) from error
        if not isinstance(found, list) or not whole:
            raise _damaged(path, "a record lacks a part")
        return cls(folder, found)

    def begin(self, variant: str, key: str, threads: int) -> Session:
        """Begin to note how a walk-forward goes."""
        entry = {"variant": variant, "key": key, "threads": threads, "folds": 0, "seconds": 0.0}
        self.found.append(entry)
        return Session(self, entry, time.perf_counter())

    def trials(self) -> int:
        """Return how many different questions had an answer."""
        return len({one["key"] for one in self.found if one["folds"]})

    def seconds(self, key: str) -> float:
        """Return the time spent on a question, whether it was interrupted or not."""
        return float(sum(one["seconds"] for one in self.found if one["key"] == key))

    def threads(self, keys: set[str]) -> list[int]:
        """Return the numbers of threads that questions were answered with, ascending."""
        asked = (one for one in self.found if one["key"] in keys)
        return sorted({one["threads"] for one in asked if "threads" in one})


@dataclass(frozen=True, slots=True)
class Session:
    """One walk-forward that runs.

    Parameters
    ----------
    log : Sessions
        Where it is noted.
    entry : dict
        Its part of the record.
    started : float
        On the clock of `time.perf_counter`.
    """

    log: Sessions
    entry: Record
    started: float

    def note(self, folds: int) -> None:
        """Write down how many folds are kept and what it has taken so far."""
        self.entry["folds"] = folds
        self.entry["seconds"] = round(time.perf_counter() - self.started, 3)
        self.entry["peak_memory_mb"] = peak_memory_mb()
        write_whole(self.log.folder / SESSIONS_FILE, json_bytes(self.log.found))


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} must be the record of what was run, is damaged ({why}); remove it and go on: "
        "folds are kept, but the time spent and the configurations tried until now are then "
        "not counted"
    )
