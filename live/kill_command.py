"""`levibot live kill`: set the switch, and see to it that the engines say that they obey."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import DataError
from live.console import aligned
from live.kill_switch import KillSwitch, lift_kill, set_kill
from live.overview import EngineView, Reading, RegistryReader

WAIT_SECS = 5.0
"""How long engines are waited for; they look several times a second and report once a second."""
_POLL_SECS = 0.1
_KILLED = "kill_switch"


@dataclass(frozen=True, slots=True)
class Killed:
    """What came of a kill switch.

    Parameters
    ----------
    switch : KillSwitch
        What its file says.
    levels : dict of str to str
        What the guard of each engine that ran said in the end: ``halted`` when it is flat.
    silent : tuple of str
        Engines that ran and have not said that they obey.
    remark : str
        What else a person should know; may be empty.
    """

    switch: KillSwitch
    levels: dict[str, str] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "enabled": True,
            "who": self.switch.who,
            "ts_ns": self.switch.ts_ns,
            "why": self.switch.why,
            "engines": self.levels,
            "silent": list(self.silent),
            "remark": self.remark,
        }

    def __str__(self) -> str:
        lines = [f"kill switch {self.switch}"]
        if self.levels:
            lines += aligned(["engine", "risk guard"], [[*one] for one in self.levels.items()])
        return "\n".join([*lines, *([self.remark] if self.remark else [])])


def kill(state: Path, who: str, why: str, wait_secs: float = WAIT_SECS) -> Killed:
    """Set the kill switch, then wait until every engine that runs says that it obeys.

    Parameters
    ----------
    state : Path
        The state folder.
    who, why : str
        For the file and the audit log.
    wait_secs : float
        How long to wait for the engines at most.

    Raises
    ------
    DataError
        If the switch cannot be set.
    """
    switch = set_kill(state, who, why)
    folder = RegistryReader(state)
    try:
        return _await_engines(folder, switch, who, wait_secs)
    finally:
        folder.close()


def unkill(state: Path, who: str) -> str:
    """Lift the kill switch and return what there is to say.

    Raises
    ------
    DataError
        If it cannot be removed.
    """
    folder = RegistryReader(state)
    try:
        remark = _audit(folder, who, "kill off")
    finally:
        folder.close()
    found = lift_kill(state)
    if found is None:
        return "the kill switch was not set"
    text = (
        f"the kill switch is lifted; it was {found}. The risk guards stay halted until each is "
        f"released: levibot guard release --state {state}/engines/ENGINE/guard.json"
    )
    return f"{text}\n{remark}" if remark else text


def _await_engines(
    folder: RegistryReader, switch: KillSwitch, who: str, wait_secs: float
) -> Killed:
    reading = Reading.of(folder)
    if reading.problem:
        return Killed(switch, remark=f"no engine is known here: {reading.problem}")
    remark = _audit(folder, who, "kill on")
    running = [one.name for one in reading.overview.engines if one.running]
    deadline = time.monotonic() + wait_secs
    while True:
        overview = Reading.of(folder).overview
        views = [one for name in running if (one := overview.engine(name)) is not None]
        silent = tuple(one.name for one in views if not _obeys(one))
        if not silent or time.monotonic() >= deadline:
            levels = {one.name: str(one.status.guard.level) for one in views}
            return Killed(switch, levels, silent, remark)
        time.sleep(_POLL_SECS)


def _obeys(view: EngineView) -> bool:
    """Return whether an engine is flat because of the switch, or has ended."""
    guard = view.status.guard
    flat = guard.level == "halted" and _KILLED in guard.reasons
    return flat or view.status.state in ("stopped", "failed")


def _audit(folder: RegistryReader, who: str, command: str) -> str:
    """Write the audit line; return why it could not be."""
    try:
        folder.registry().audit(who, command, "*", "by command line")
    except DataError as error:
        return f"not in the audit log: {error}"
    return ""


def require_obeyed(found: Killed, waited_secs: float) -> None:
    """Refuse to call it done where an engine has not said that it obeys.

    Raises
    ------
    DataError
        Naming the engines.
    """
    if found.silent:
        raise DataError(
            f"every engine must say within {waited_secs:g} s that it is halted and flat, "
            f"{', '.join(found.silent)} did not (the switch stays set): look at `levibot live "
            "top`, and end the process of an engine that does not react"
        )
