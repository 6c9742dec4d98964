"""Where the risk guard's state outlives its process: one small file, written atomically.

A file that is there but cannot be believed is not an empty one: whoever trusted it would trade
after a halt. It comes back as a state on hold, and its bytes are kept beside it for people.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from pydantic import TypeAdapter, ValidationError

from catalog.errors import ConfigError, DataError
from catalog.locks import HeldError, hold
from catalog.transactions import sync_folder
from strategies.guard_state import HOLDS, GuardState, Hold

_FORMAT = 1
_ADAPTER = TypeAdapter(GuardState)


class GuardStore:
    """The file of one guard. Two guards must not share one.

    Parameters
    ----------
    path : str or Path
        A JSON file; its folder is made at the first save.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._written = b""
        self._lock: IO[str] | None = None

    def claim(self, wait_secs: float = 2.0) -> None:
        """Keep other processes from the file until `give_up`, or until this process ends.

        Parameters
        ----------
        wait_secs : float
            How long to wait for another process, seconds: one that only looks needs little time.

        Raises
        ------
        ConfigError
            If another process has it.
        DataError
            If the place cannot be written to.
        """
        if self._lock is not None:
            return
        lock = beside(self.path, "lock")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = hold(lock, wait_secs)
        except OSError as error:
            raise DataError(
                f"the risk guard's state must be stored, {lock} could not be written ({error}): "
                f"make room or give another path, then start again"
            ) from error
        except HeldError as error:
            raise ConfigError(
                f"the risk guard's state {self.path} must belong to one process, process "
                f"{error.holder} has it: stop that one or give another path"
            ) from None

    def give_up(self) -> None:
        """Let other processes have the file."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self) -> GuardState:
        """Return what was saved last; a fresh state if nothing ever was. Never raises.

        A file that cannot be read or believed gives a state with the hold ``state_damaged``, which
        only a person releases.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return GuardState()
        except OSError as error:
            return _damaged(f"{self.path} cannot be read: {error}")
        try:
            return _decode(raw)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            # Not moved: a second restart would find nothing and trade.
            with contextlib.suppress(OSError):
                shutil.copyfile(self.path, beside(self.path, "damaged"))
            return _damaged(f"{self.path} is damaged: {str(error)[:200]}")

    def save(self, state: GuardState) -> None:
        """Write a state so that a crash leaves the old one or the new one; the same is not written.

        Raises
        ------
        DataError
            If it cannot be written. Trading must end then: a restart would not know what this
            process knows.
        """
        encoded = _encode(state)
        if encoded == self._written:
            return
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(encoded)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise DataError(
                f"the risk guard's state must be stored, {self.path} could not be written "
                f"({error}): make room or give another path, then start again"
            ) from error
        self._written = encoded


def beside(path: Path, what: str) -> Path:
    """Return the file that belongs to a state's file: its lock, a request, an answer."""
    return path.with_name(f"{path.name}.{what}")


def is_claimed(path: Path) -> bool:
    """Return whether a process has a state's file now; needs no right to write."""
    try:
        handle = beside(path, "lock").open(encoding="utf-8")
    except OSError:
        return False
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kill_switch_seen(path: str | Path) -> str:
    """Return why the kill switch counts as set; "" if the file is not there.

    A place that cannot be looked at counts as set.
    """
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, ValueError) as error:
        return f"the place of the kill-switch file {path} cannot be looked at: {error}"
    return f"the kill-switch file {path} is there"


def _encode(state: GuardState) -> bytes:
    content = _ADAPTER.dump_python(state, mode="json")
    record = {"format": _FORMAT, "checksum": _checksum(content), "state": content}
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _decode(raw: bytes) -> GuardState:
    record = json.loads(raw)
    if not isinstance(record, dict) or set(record) != {"format", "checksum", "state"}:
        raise ValueError("a record must have the keys format, checksum and state")
    if record["format"] != _FORMAT:
        raise ValueError(f"format must be {_FORMAT}, was {record['format']!r}")
    if record["checksum"] != _checksum(record["state"]):
        raise ValueError("checksum must be that of the state, was another")
    try:
        # From JSON, where a list may stand for any sequence; values are otherwise strict.
        state = _ADAPTER.validate_json(json.dumps(record["state"]))
    except ValidationError as error:
        raise ValueError(f"state does not fit: {error.errors()[0]}") from error
    unknown = sorted(set(state.holds) - set(HOLDS))
    if unknown or any(name != hold.reason for name, hold in state.holds.items()):
        raise ValueError(f"holds must be by reason and known, were {', '.join(state.holds)}")
    return state


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(detail: str) -> GuardState:
    return GuardState(holds={"state_damaged": Hold("state_damaged", 0, detail)})
