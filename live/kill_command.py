"""`levibot live kill`: set the switch, and name every engine that is not flat because of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import DataError
from live.console import aligned
from live.kill_switch import KillSwitch, lift_kill, set_kill
from live.overview import EngineView, Overview, Reading, RegistryReader, replays
from live.registry import REGISTRY_FILE

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
        What the guard of each engine that runs said in the end: ``halted`` when it is flat.
    not_flat : dict of str to str
        Engines that may hold something, or may trade yet; each with what is known of it.
    remark : str
        What else a person should know; may be empty.
    unknown : bool
        Whether there is a registry that does not tell which engines there are.
    """

    switch: KillSwitch
    levels: dict[str, str] = field(default_factory=dict)
    not_flat: dict[str, str] = field(default_factory=dict)
    remark: str = ""
    unknown: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "enabled": True,
            "who": self.switch.who,
            "ts_ns": self.switch.ts_ns,
            "why": self.switch.why,
            "engines": self.levels,
            "not_flat": self.not_flat,
            "remark": self.remark,
        }

    def __str__(self) -> str:
        lines = [f"kill switch {self.switch}"]
        if self.levels:
            lines += aligned(["engine", "risk guard"], [[*one] for one in self.levels.items()])
        return "\n".join([*lines, *([self.remark] if self.remark else [])])


def kill(state: Path, who: str, why: str, wait_secs: float = WAIT_SECS) -> Killed:
    """Set the kill switch, then wait until every engine is flat.

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
        unknown = (folder.path / REGISTRY_FILE).exists()
        remark = f"no engine is known here: {reading.problem}"
        return Killed(switch, remark=remark, unknown=unknown)
    remark = _audit(folder, who, "kill on")
    deadline = time.monotonic() + wait_secs
    while (found := not_flat(reading.overview)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECS)
        fresh = Reading.of(folder)
        # What was known stays where the registry cannot be read for once.
        reading = reading if fresh.problem else fresh
    running = [one for one in reading.overview.engines if one.running]
    levels = {one.name: str(one.status.guard.level) for one in running}
    return Killed(switch, levels, found, remark)


def not_flat(overview: Overview) -> dict[str, str]:
    """Return the engines that a kill switch has not made flat, each with what is known of it.

    An engine counts where its process lives, or where its last word is that it holds something:
    who hangs or is dead closes nothing. Recorded data that were played to their end are left out.
    """
    return {one.name: why for one in overview.engines if (why := _why_not_flat(one))}


def _why_not_flat(view: EngineView) -> str:
    """Return why an engine is not known to be flat; "" if it is."""
    status = view.status
    held = {name: one for name, one in status.positions.items() if one.quantity}
    lives = view.running or view.has_process
    obeys = status.guard.level == "halted" and _KILLED in status.guard.reasons
    if not held and (obeys or not lives):
        return ""
    if not lives and status.mode == "paper" and replays(status, status.heartbeat_ns):
        return ""
    if view.running:
        how = f"its risk guard says {status.guard.level}"
    elif lives:
        age = view.heartbeat_age_secs
        how = "no heartbeat yet" if age is None else f"no heartbeat for {age:.0f} s"
    else:
        given_up = view.record is not None and view.record.stage == "given_up"
        how = f"no process ({'given up' if given_up else status.state})"
    positions = ", ".join(
        f"{one.quantity:+.12g} {name} {'without a stop' if one.stop is None else 'with a stop'}"
        for name, one in held.items()
    )
    return f"{how}, holds {positions} ({status.mode})" if held else how


def _audit(folder: RegistryReader, who: str, command: str) -> str:
    """Write the audit line; return why it could not be."""
    try:
        folder.registry().audit(who, command, "*", "by command line")
    except DataError as error:
        return f"not in the audit log: {error}"
    return ""


def require_flat(found: Killed, waited_secs: float) -> None:
    """Refuse to call it done where an engine is not flat, or nobody knows whether it is.

    Raises
    ------
    DataError
        Naming the engines.
    """
    if found.unknown:
        raise DataError(
            "the registry must say which engines are flat, it cannot be read (the switch is set, "
            "and every engine obeys its file by itself): look at the exchange"
        )
    if found.not_flat:
        named = "; ".join(f"{name}: {why}" for name, why in found.not_flat.items())
        raise DataError(
            f"every engine must be halted and flat within {waited_secs:g} s, these were not (the "
            f"switch stays set): {named}. End the process of an engine that does not react; what "
            "one without a process holds, close at the exchange, or start the engine (`levibot "
            "live start`): it closes it"
        )
