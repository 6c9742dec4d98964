"""Engines of an earlier supervisor: found by what was recorded of them, and ended in order.

A supervisor that was killed leaves its engines trading, which does no harm; two processes of one
engine would. So the next supervisor ends what it finds before it starts its own.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import NamedTuple

from live.engine_process import ENGINE_OF_VARIABLE
from live.engine_status import EngineStatus
from live.processes import ProcessId, processes_marked
from live.registry import Registry


class Orphan(NamedTuple):
    """A process of an engine that this supervisor did not start."""

    engine: str
    process: ProcessId


def find_orphans(registry: Registry, state: Path) -> tuple[Orphan, ...]:
    """Return the processes that an earlier supervisor of a state folder has left.

    Found by number, start and boot as recorded, and by the mark in their environment: one that was
    started a moment before its supervisor was killed is not recorded yet.
    """
    found: dict[ProcessId, str] = {}
    for record in registry.records().values():
        process = ProcessId(record.pid, record.process_start_ns, record.boot)
        if process.alive():
            found[process] = record.engine
    prefix = f"{state.resolve()}:"
    for process, value in processes_marked(ENGINE_OF_VARIABLE, prefix).items():
        found.setdefault(process, value.removeprefix(prefix))
    found.pop(ProcessId.own(), None)
    return tuple(Orphan(engine, process) for process, engine in sorted(found.items()))


def end_orphans(orphans: tuple[Orphan, ...], grace_secs: float) -> None:
    """End processes: asked first, all at once, then killed.

    Parameters
    ----------
    orphans : tuple of Orphan
        Each is told only while it is still the process that was recorded.
    grace_secs : float
        How long an ordered end may take.
    """
    for one in orphans:
        one.process.send(signal.SIGTERM)
    # They were asked at once, and have the same time.
    deadline = time.monotonic() + grace_secs
    for one in orphans:
        if not one.process.wait(max(deadline - time.monotonic(), 0.0)):
            one.process.send(signal.SIGKILL)
            one.process.wait(5.0)


def stranger(status: EngineStatus | None, own_pid: int) -> ProcessId | None:
    """Return the living process that says it is this engine, and is not ours; None if none is.

    A person may run an engine by hand. It is theirs to end.
    """
    if status is None or status.pid in (0, own_pid):
        return None
    process = ProcessId(status.pid, status.process_start_ns, status.boot)
    return process if process.alive() else None
