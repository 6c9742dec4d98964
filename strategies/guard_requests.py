"""What a person asks of a guard whose process runs: a file beside its state, answered by another.

The process looks for a request at each look, so nothing but the file system joins the two. A
request that cannot be read is one to halt: whoever wrote it wanted something, and trading less is
the safe reading.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ConfigDict, TypeAdapter, ValidationError

from catalog.errors import DataError
from catalog.timestamps import NS_PER_SECOND
from strategies.guard_store import beside

REQUEST, ANSWER = "request", "answer"
MAX_REQUEST_AGE_SECS = 30.0
"""An older release is refused: whoever asked for it did not know of what has happened since."""


@dataclass(frozen=True, slots=True)
class GuardRequest:
    """What a person asks for.

    Parameters
    ----------
    action : {"halt", "release"}
        End trading, or end every hold.
    who, why : str
        For people; `who` is written into the history.
    ts : int
        When it was written, UTC nanoseconds.
    number : str
        What the answer refers to.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    action: Literal["halt", "release"]
    who: str
    why: str
    ts: int
    number: str

    @classmethod
    def now(cls, action: Literal["halt", "release"], who: str, why: str) -> GuardRequest:
        """Return a request of this moment."""
        return cls(action, who, why, time.time_ns(), uuid.uuid4().hex)

    def age_secs(self, ts: int) -> float:
        """Return how old it is at a time, seconds."""
        return (ts - self.ts) / NS_PER_SECOND


class Answer(NamedTuple):
    """What came of a request: whether it was done, and what there is to say."""

    number: str
    done: bool
    text: str


_ADAPTER = TypeAdapter(GuardRequest)


def write_request(state_file: Path, request: GuardRequest) -> None:
    """Ask the process that has the state.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    _write(beside(state_file, REQUEST), _ADAPTER.dump_json(request))


def read_request(state_file: Path) -> GuardRequest | str | None:
    """Return what is asked for; in words why it cannot be read; None if nothing is."""
    path = beside(state_file, REQUEST)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"{path} cannot be read: {error}"
    try:
        return _ADAPTER.validate_json(raw)
    except ValidationError as error:
        return f"{path} is no request: {error.errors()[0]['msg']}"


def remove_request(state_file: Path) -> bool:
    """Take the request away; return whether none is left."""
    try:
        beside(state_file, REQUEST).unlink(missing_ok=True)
    except OSError:
        return False
    return True


def write_answer(state_file: Path, answer: Answer) -> None:
    """Say what came of a request.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    _write(beside(state_file, ANSWER), json.dumps(answer._asdict()).encode())


def read_answer(state_file: Path, number: str) -> Answer | None:
    """Return the answer to a request; None as long as there is none."""
    try:
        content = json.loads(beside(state_file, ANSWER).read_bytes())
        answer = Answer(str(content["number"]), bool(content["done"]), str(content["text"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if answer.number == number else None


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"{path} must be written, could not be ({error}): make room or check its folder"
        ) from error
