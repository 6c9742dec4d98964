"""The kill switch: one file in the state folder, which every engine's risk guard looks for.

While the file is there, each engine cancels its orders, closes its positions and opens nothing. No
other process has to be alive for that: the API and `levibot live kill` only make the file, and so
may a person (``touch state/kill``). It stays until it is lifted, over restarts of anything. Lifting
it releases nothing: a person releases each guard afterwards (docs/guard.md).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from catalog.errors import DataError
from catalog.timestamps import format_time
from catalog.transactions import sync_folder, write_synced

KILL_FILE = "kill"
_MOST_BYTES = 4_096
_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """Who set the switch, when and why, as far as its file says so.

    Parameters
    ----------
    who : str
        A user's name or an address; ``unknown`` where the file was made by hand.
    ts_ns : int or None
        When it was set, UTC nanoseconds.
    why : str
        The reason that was given; may be empty.
    """

    who: str = _UNKNOWN
    ts_ns: int | None = None
    why: str = ""

    def __str__(self) -> str:
        when = "" if self.ts_ns is None else f" at {format_time(self.ts_ns)}"
        return f"set by {self.who}{when}" + (f": {self.why}" if self.why else "")


def kill_file(state: Path) -> Path:
    """Return the file of a state folder's kill switch; a risk policy's `kill_switch_file`."""
    return state / KILL_FILE


def read_kill(state: Path) -> KillSwitch | None:
    """Return who set the switch and why; None if it is not set.

    A file that cannot be read, or that says something else, counts as set.
    """
    path = kill_file(state)
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return KillSwitch(why=f"{path} cannot be looked at: {error}")
    try:
        with path.open("rb") as file:
            return _parsed(file.read(_MOST_BYTES))
    except FileNotFoundError:
        # A link to nowhere is there for the guard as well.
        return KillSwitch() if path.is_symlink() else None
    except OSError as error:
        return KillSwitch(why=f"{path} cannot be read: {error}")


def set_kill(state: Path, who: str, why: str) -> KillSwitch:
    """Set the switch and return what it says; one that is set already stays as it is.

    The file is there before anything is written into it: neither a full disk nor a slow one
    delays what it stands for.

    Parameters
    ----------
    state : Path
        The state folder.
    who, why : str
        For people: 200 characters of each are kept.

    Raises
    ------
    DataError
        If there is no such folder, or the file cannot be made.
    """
    path = kill_file(state)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return read_kill(state) or KillSwitch()
    except OSError as error:
        raise DataError(
            f"the kill switch {path} must be made in the state folder of the engines, could not be "
            f"({error}): check --state, or stop the engines' processes"
        ) from error
    switch = KillSwitch(who[:200], time.time_ns(), why[:200])
    temporary = state / f".{KILL_FILE}.{os.getpid()}.tmp"
    try:
        write_synced(temporary, json.dumps(asdict(switch)).encode() + b"\n")
        temporary.replace(path)
        sync_folder(state)
    except OSError:
        # The empty file stands for the same.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return switch


def lift_kill(state: Path) -> KillSwitch | None:
    """Remove the switch and return what it said; None if it was not set.

    Raises
    ------
    DataError
        If the file cannot be removed.
    """
    found = read_kill(state)
    path = kill_file(state)
    try:
        path.unlink(missing_ok=True)
        sync_folder(state)
    except OSError as error:
        raise DataError(
            f"the kill switch {path} must be removed to be lifted, could not be ({error}): remove "
            "it by hand"
        ) from error
    return found


def _parsed(raw: bytes) -> KillSwitch:
    """Return what a file says; it counts whatever it says."""
    try:
        content: Any = json.loads(raw)
        who, ts_ns, why = content["who"], content["ts_ns"], content["why"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return KillSwitch(why=raw.decode("utf-8", "replace").strip()[:200])
    known = isinstance(ts_ns, int) and 0 <= ts_ns < 2**63
    return KillSwitch(str(who)[:200], ts_ns if known else None, str(why)[:200])
