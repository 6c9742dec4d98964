"""`levibot live forget`: an engine that is gone for good holds no place any more."""

from __future__ import annotations

import time
from pathlib import Path

from catalog.errors import ConfigError, RunFailedError
from live.engine_status import EngineStatus
from live.global_risk import release_places
from live.overview import EngineView, is_supervised
from live.registry import Registry
from live.state_folder import StateFolder


def forget_engine(state: Path, engine: str, who: str) -> str:
    """Remove an engine from the registry and give back its places; return what there is to say.

    Its own folder, its logs and its events stay: an engine of that name that is started again goes
    on with them.

    Parameters
    ----------
    state : Path
        The state folder.
    engine : str
        Its name.
    who : str
        For the audit log.

    Raises
    ------
    ConfigError
        If there is none of that name.
    DataError
        If there is no registry, or the book of all engines cannot be used.
    RunFailedError
        If its process lives, or a supervisor is to start it again.
    """
    folder = StateFolder(state)
    registry = Registry(folder.registry, create=False)
    try:
        statuses, records = registry.statuses(), registry.records()
        if engine not in statuses and engine not in records:
            known = ", ".join(sorted({*statuses, *records})) or "none"
            raise ConfigError(f"an engine of {state} must be named, {engine!r} is not: {known}")
        now = time.time_ns()
        status = statuses.get(engine) or EngineStatus(engine)
        view = EngineView(status, records.get(engine), now)
        if view.has_process:
            raise RunFailedError(f"{engine} must have ended to be forgotten, its process runs")
        if view.record is not None and view.record.wanted and is_supervised(registry, now):
            raise RunFailedError(
                f"{engine} must not be wanted to be forgotten, a supervisor is to start it again: "
                f"levibot live stop {engine} --state {state}"
            )
        # First what binds the others; half-way through, the command can be given again.
        places = release_places(state, engine)
        registry.forget(engine)
        registry.audit(who, "forget", engine, f"places given back: {places}")
    finally:
        registry.close()
    held = ", ".join(f"{one.quantity:+.12g} {name}" for name, one in status.positions.items())
    text = f"{engine} is forgotten, places given back: {places}; {folder.engine(engine)} stays"
    return f"{text}\nits last word was that it holds {held}: look at the exchange" if held else text
