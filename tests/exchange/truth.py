"""The truth log: every step, command and event of an exchange, a line of JSON each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from catalog.errors import ConfigError

NAME = "truth.jsonl"


class TruthLog:
    """Appends to a file; the file of an earlier life is read first.

    Parameters
    ----------
    folder : Path, optional
        Where; None keeps nothing.
    header : dict
        What the exchange is made of: a file that was begun with another is refused.

    Raises
    ------
    ConfigError
        If the file belongs to another exchange.
    """

    def __init__(self, folder: Path | None, header: dict[str, Any]) -> None:
        self.path = None if folder is None else folder / NAME
        self.replaying = False
        self._lines: list[dict[str, Any]] = []
        self._file: IO[str] | None = None
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._load(header)
        self._file = self.path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write({"exchange": header})

    def _load(self, header: dict[str, Any]) -> None:
        assert self.path is not None
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            # A line that was cut off by the end of an earlier life.
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines:
            return
        if lines[0].get("exchange") != json.loads(json.dumps(header)):
            raise ConfigError(
                f"{self.path} must have been begun with the same settings, was begun with others: "
                f"state them again, or use another folder"
            )
        self._lines = lines[1:]

    def read(self) -> list[dict[str, Any]]:
        """Return the lines of an earlier life."""
        return self._lines

    def step(self, number: int, ts: int, messages: Iterable[Any]) -> None:
        """Note a step and what accounts were told in it."""
        events = [{"key": one.name, **one.payload} for one in messages if one.channel == "user"]
        self._write({"n": number, "ts": ts, **({"events": events} if events else {})})

    def command(self, number: int, command: dict[str, Any]) -> None:
        """Note a command that came after a step."""
        self._write({"n": number, **command})

    def note(self, number: int, what: dict[str, Any]) -> None:
        """Note something that changes no state: a refusal, a fault, a connection."""
        self._write({"n": number, "note": what})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None or self.replaying:
            return
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
