"""What a person does with a risk guard: see its state, halt it, release it.

Where a process has the state, it is asked through a file and answers within a look; where none has,
the state itself is changed, under the lock that a starting process needs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from catalog.errors import ConfigError, DataError
from catalog.timestamps import NS_PER_DAY, format_time
from live.console import aligned
from strategies.guard_holds import Holds
from strategies.guard_requests import (
    Answer,
    GuardRequest,
    read_answer,
    remove_request,
    write_request,
)
from strategies.guard_state import HOLDS, PERSON, GuardState
from strategies.guard_store import GuardStore, is_claimed

ANSWER_SECS = 10.0
"""How long an answer is waited for: a process looks once a second."""
_POLL_SECS = 0.05


class GuardStatus(NamedTuple):
    """A guard's state as stored: at most one look old where a process runs."""

    path: Path
    running: bool
    state: GuardState

    def to_json(self) -> dict[str, Any]:
        """Return the status for programs."""
        state = self.state
        return {
            "state_file": str(self.path),
            "running": self.running,
            "level": state.level(),
            "at": _time(state.ts),
            "holds": [
                {
                    "reason": one.reason,
                    "since": _time(one.ts),
                    "detail": one.detail,
                    "ends": _ends(one.reason),
                }
                for one in state.holds.values()
            ],
            "equity": state.equity,
            "day_start_equity": state.day_start_equity,
            "peak_equity": state.peak_equity,
            "consecutive_losses": state.consecutive_losses,
            "history": [{**_plain(one), "ts": _time(one.ts)} for one in state.history],
        }

    def __str__(self) -> str:
        state = self.state
        known = "a process runs with it" if self.running else "no process runs with it"
        lines = [f"{state.level()} at {_time(state.ts)} ({self.path}; {known})"]
        lines += [
            f"  {one.reason} since {_time(one.ts)}, ends {_ends(one.reason)}: {one.detail}"
            for one in state.holds.values()
        ]
        if state.equity is not None:
            lines.append(
                f"equity {state.equity:.2f} USDT, at the start of the day "
                f"{_money(state.day_start_equity)}, highest {_money(state.peak_equity)}"
            )
        if state.history:
            header = ["time", "event", "level", "reason", "detail"]
            rows = [
                [_time(one.ts), one.kind, one.level, one.reason, one.detail]
                for one in state.history[-20:]
            ]
            lines += ["", *aligned(header, rows)]
        return "\n".join(lines)


def status(path: Path) -> GuardStatus:
    """Return what is stored.

    Raises
    ------
    DataError
        If nothing is.
    """
    store = GuardStore(path)
    if not path.exists():
        raise DataError(
            f"the risk guard's state {path} must be a file, there is none: check --state"
        )
    return GuardStatus(path, is_claimed(path), store.load())


def halt(path: Path, who: str, why: str, timeout_secs: float = ANSWER_SECS) -> str:
    """End trading until a person releases it, and return what there is to say.

    Raises
    ------
    DataError
        If the process does not answer, or a file cannot be written.
    """
    with _claimed(path) as store:
        if store is not None:
            state = store.load()
            holds = _at_present(state)
            holds.hold("manual", f"{who}: {why}")
            store.save(state)
            return f"halted: {holds.reasons}; it counts from the next start on"
    return _ask(path, GuardRequest.now("halt", who, why), timeout_secs).text


def release(path: Path, who: str, timeout_secs: float = ANSWER_SECS) -> str:
    """End every hold, and return what there is to say. Losses count anew from here.

    Raises
    ------
    ConfigError
        If something is open or may be, or the kill-switch file is there.
    DataError
        If the process does not answer, or a file cannot be written or is not there.
    """
    if not path.exists():
        raise DataError(
            f"the risk guard's state {path} must be a file, there is none: check --state"
        )
    with _claimed(path) as store:
        if store is not None:
            state = store.load()
            if state.exposed:
                raise ConfigError(
                    "trading must be known to be flat before a release, was not when the last "
                    "process ended: start it (it flattens what it finds), then release"
                )
            return _released(store, state, who)
    answer = _ask(path, GuardRequest.now("release", who, ""), timeout_secs)
    if not answer.done:
        raise ConfigError(f"the release was refused: {answer.text}")
    return answer.text


def _released(store: GuardStore, state: GuardState, who: str) -> str:
    holds = Holds(state)
    reasons = holds.reasons
    holds.clear(time.time_ns())
    # Looked for anew, before anything is traded, by the next process.
    state.kill_switch = False
    holds.tell("release", reasons, f"released by {who}")
    store.save(state)
    return f"released: {reasons or 'there was no hold'}"


def _at_present(state: GuardState) -> Holds:
    """Return the holds of a state at this moment; none is ended by the day."""
    state.ts = max(state.ts, time.time_ns())
    state.day = state.ts // NS_PER_DAY
    return Holds(state)


def _ask(path: Path, request: GuardRequest, timeout_secs: float) -> Answer:
    write_request(path, request)
    deadline = time.monotonic() + timeout_secs
    while time.monotonic() < deadline:
        answer = read_answer(path, request.number)
        if answer is not None:
            return answer
        time.sleep(_POLL_SECS)
    if request.action == "release":
        remove_request(path)
    stays = " (the request stays)" if request.action == "halt" else ""
    raise DataError(
        f"the process with the risk guard's state {path} must answer within {timeout_secs:g} s, "
        f"did not{stays}: use the kill-switch file of its policy, or stop the process"
    )


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[GuardStore | None]:
    """Give the state's store while no other process can start; None where one has it."""
    store = GuardStore(path)
    try:
        store.claim(wait_secs=0.0)
    except ConfigError:
        yield None
        return
    try:
        yield store
    finally:
        store.give_up()


def _ends(reason: str) -> str:
    return "by a person" if HOLDS[reason] == PERSON else "with the UTC day, or by a person"


def _time(ts: int) -> str:
    return format_time(ts) if ts else "the start"


def _money(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _plain(event: Any) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("kind", "level", "reason", "detail")}
