"""Where the parts of a state folder lie: engines, registry, logs, events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from live.engine_status import check_engine_name
from live.kill_switch import kill_file
from live.registry import REGISTRY_FILE


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folder that all processes of one account share.

    Parameters
    ----------
    root : Path
        Such as ``state``; made by who writes.
    """

    root: Path

    @property
    def registry(self) -> Path:
        """Return the registry's file."""
        return self.root / REGISTRY_FILE

    @property
    def kill(self) -> Path:
        """Return the file of the kill switch."""
        return kill_file(self.root)

    @property
    def shared_book(self) -> Path:
        """Return the file that says what all engines together hold."""
        return self.root / "book.db"

    @property
    def logs(self) -> Path:
        """Return the folder of the logs."""
        return self.root / "logs"

    @property
    def supervisor_lock(self) -> Path:
        """Return the file that keeps a second supervisor away."""
        return self.root / "supervisor.lock"

    def engine(self, name: str) -> Path:
        """Return the folder of an engine's own files."""
        return self.root / "engines" / check_engine_name(name)

    def guard(self, name: str) -> Path:
        """Return the state file of an engine's risk guard."""
        return self.engine(name) / "guard.json"

    def console(self, name: str) -> Path:
        """Return the file that takes what an engine's process prints."""
        return self.engine(name) / "console.log"

    def events(self, name: str) -> Path:
        """Return the folder of an engine's event log."""
        return self.root / "events" / check_engine_name(name)
