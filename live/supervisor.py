"""One process that keeps an account's engines running: it starts, watches and ends them.

It trades nothing and holds nothing that an engine needs: engines go on where it dies, and the next
supervisor of the state folder ends them in order before it starts its own. Each turn of its loop
does what is due and waits for nobody.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from catalog.errors import ConfigError, DataError
from catalog.locks import HeldError, hold
from live.engine_plan import FleetPlan
from live.engine_process import EngineEvent, EngineProcess, Launch, ProcessRules, engine_marker
from live.engine_status import EngineStatus
from live.orphans import end_orphans, find_orphans, stranger
from live.processes import ProcessId
from live.registry import ALL_ENGINES, SUPERVISOR_FACT, Command, EngineRecord, Registry
from live.state_folder import StateFolder

_MINUTE_SECS = 60.0
_SLEPT_SECS = 3.0
_COMMAND_LIFE_SECS = 60.0
_RECORD_SECS = 5.0
_FACT_SECS = 1.0
_LEAST_FREE_BYTES = 5_000_000


class Observer(Protocol):
    """Someone who is told: logs, alerts, the risk of all engines together."""

    def on_event(self, event: EngineEvent) -> None:
        """Take note of something that happened to a process."""

    def on_look(self, statuses: dict[str, EngineStatus], records: dict[str, EngineRecord]) -> None:
        """Look at all engines; about once a second."""


@dataclass(frozen=True, slots=True)
class SupervisorConfig:
    """How a supervisor works.

    Parameters
    ----------
    rules : ProcessRules
        How processes are treated.
    turn_secs : float
        Between two turns of its loop.
    look_secs : float
        Between two looks of the observers.
    starts_at_once : int
        Engines that may start at the same time: a start takes a core for seconds.
    starts_a_minute : int, optional
        Starts in a minute, where an exchange counts what they ask; None for any number.
    place_secs : float
        How long an engine that starts or warms up counts as one of them at most.
    """

    rules: ProcessRules = field(default_factory=ProcessRules)
    turn_secs: float = 0.1
    look_secs: float = 1.0
    starts_at_once: int = 2
    starts_a_minute: int | None = None
    place_secs: float = 60.0


class _Open(NamedTuple):
    """A command under way; `pids` are the processes that were there when it came."""

    command: Command
    engines: tuple[str, ...]
    pids: tuple[int, ...]
    deadline: float


type LaunchOf = Callable[[str, FleetPlan], tuple[str, ...]]
"""Returns program and arguments of an engine by its name."""


class Supervisor:
    """Supervise the engines of one state folder.

    Parameters
    ----------
    folder : StateFolder
        Where registry and logs lie.
    plan : FleetPlan
        Which engines there are to be.
    command_of : callable
        Returns program and arguments of an engine by name and plan.
    config : SupervisorConfig
        How.
    observers : sequence of Observer
        Who is told. One that fails is counted and told again at the next event.

    Raises
    ------
    ConfigError
        If another supervisor has the folder.
    DataError
        If the registry cannot be used.
    """

    def __init__(
        self,
        folder: StateFolder,
        plan: FleetPlan,
        command_of: LaunchOf,
        config: SupervisorConfig | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.failures = 0
        self.last_failure = ""
        self._command_of = command_of
        self._config = config or SupervisorConfig()
        self._observers = tuple(observers)
        self._stop = threading.Event()
        self._lock = _claimed(folder.supervisor_lock)
        try:
            self.registry = Registry(folder.registry)
            known = self.registry.records()
            self.engines = {name: self._engine(name, known.get(name)) for name in plan.engines}
        except BaseException:
            self._lock.close()
            raise
        self._stored: dict[str, EngineRecord] = {}
        self._stored_at = self._looked_at = self._fact_at = self._turned_at = 0.0
        self._writes = True
        self._open: list[_Open] = []
        self._refused: set[str] = set()
        self._starts: list[float] = []

    # ---- the loop

    def stop(self) -> None:
        """End `run` in order; safe in a signal handler and from any thread."""
        self._stop.set()

    def run(self) -> None:
        """Supervise until `stop`, then end all engines in order."""
        try:
            self.end_orphans()
            while not self._stop.wait(self._config.turn_secs):
                self.turn(time.monotonic())
            self.shut_down()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of registry and folder; engines that still run go on."""
        self.registry.close()
        self._lock.close()

    def end_orphans(self) -> None:
        """End the engines that an earlier supervisor has left."""
        orphans = find_orphans(self.registry, self.folder.root)
        for one in orphans:
            self._tell(
                EngineEvent(
                    one.engine, "stopped", f"orphan {one.process.pid} of an earlier supervisor"
                )
            )
        end_orphans(orphans, self._config.rules.grace_secs)

    def turn(self, now: float) -> None:
        """Do what is due; `now` in seconds on the monotonic clock."""
        self._notice_sleep(now)
        self._follow_registry(now)
        statuses = self._statuses()
        with self._counted("commands"):
            self._take_commands(now)
        most_secs = self._config.place_secs
        starting = sum(one.takes_place(now, most_secs) for one in self.engines.values())
        for name, engine in self.engines.items():
            status = statuses.get(name)
            may_start = starting < self._config.starts_at_once and self._may_ask(now)
            may_start = may_start and not (engine.due and self._prevented(name, status))
            was_there = engine.running
            with self._counted(name):
                engine.step(status, may_start, now)
            if engine.running and not was_there:
                starting += 1
                self._starts.append(now)
        self._keep_records(now)
        if now - self._looked_at >= self._config.look_secs:
            self._looked_at = now
            records = {name: one.record(now) for name, one in self.engines.items()}
            for observer in self._observers:
                with self._counted(type(observer).__name__):
                    observer.on_look(statuses, records)

    def _may_ask(self, now: float) -> bool:
        """Return whether there were fewer starts in the last minute than an exchange bears."""
        self._starts = [one for one in self._starts if now - one < _MINUTE_SECS]
        most = self._config.starts_a_minute
        return most is None or len(self._starts) < most

    def shut_down(self) -> None:
        """End every engine in order, all at once; kill those that do not end in time."""
        rules = self._config.rules
        for engine in self.engines.values():
            engine.end(time.monotonic())
        deadline = time.monotonic() + rules.grace_secs + 10.0
        while any(one.running for one in self.engines.values()) and time.monotonic() < deadline:
            for engine in self.engines.values():
                if engine.running:
                    engine.step(None, False, time.monotonic())
            time.sleep(0.02)
        with self._counted("registry"):
            self._store(time.monotonic(), everything=True)
            self.registry.set_fact(SUPERVISOR_FACT, json.dumps({"pid": 0}))

    # ---- commands

    def _take_commands(self, now: float) -> None:
        taken = {one.command.id for one in self._open}
        for command in self.registry.pending():
            if command.id in taken:
                continue
            age = (time.time_ns() - command.ts) / 1e9
            if age > _COMMAND_LIFE_SECS:
                self._say(command, f"refused: it was asked for {age:.0f} s ago, nobody was there")
                continue
            names = tuple(self.engines) if command.engine == ALL_ENGINES else (command.engine,)
            unknown = [name for name in names if name not in self.engines]
            if unknown:
                known = ", ".join(self.engines)
                self._say(command, f"refused: no engine is called {unknown[0]}; there are {known}")
                continue
            self._begin(command, names, now)

    def _begin(self, command: Command, names: tuple[str, ...], now: float) -> None:
        actions = {
            "start": EngineProcess.start,
            "stop": EngineProcess.stop,
            "restart": EngineProcess.restart,
        }
        action = actions.get(command.command)
        if action is None:
            self._say(command, f"refused: a command must be one of {', '.join(actions)}")
            return
        pids = tuple(self.engines[name].pid for name in names)
        for name in names:
            action(self.engines[name], now)
        limit = self._config.rules.grace_secs + 15.0 + 5.0 * len(names)
        self._open.append(_Open(command, names, pids, now + limit))

    def _answer(self, now: float) -> None:
        for one in list(self._open):
            engines = [self.engines[name] for name in one.engines]
            kind = one.command.command
            if kind == "stop":
                done = all(not engine.running for engine in engines)
            elif kind == "start":
                done = all(engine.running for engine in engines)
            else:
                done = all(
                    engine.running and engine.pid != before
                    for engine, before in zip(engines, one.pids, strict=True)
                )
            if done:
                self._say(one.command, "done")
            elif now > one.deadline:
                self._say(one.command, f"not done in time: {_how(engines)}")
            else:
                continue
            self._open.remove(one)

    def _say(self, command: Command, outcome: str) -> None:
        # Whoever waits for the answer finds the line.
        self.registry.audit(command.by, command.command, command.engine, outcome)
        self.registry.answered(command.id, outcome)

    # ---- what is stored

    def _keep_records(self, now: float) -> None:
        try:
            self._store(now)
            self._answer(now)
        except Exception as error:
            self._writes = False
            self._failed("registry", error)
        if not self._writes:
            # Engines cannot say either that they live.
            self._pause(now)

    def _store(self, now: float, everything: bool = False) -> None:
        if now - self._fact_at >= _FACT_SECS:
            self._fact_at = now
            own = ProcessId.own()
            fact = {"pid": own.pid, "process_start_ns": own.start_ns, "boot": own.boot}
            self.registry.set_fact(SUPERVISOR_FACT, json.dumps(fact))
            self._writes = True
        due = everything or now - self._stored_at >= _RECORD_SECS
        for name, engine in self.engines.items():
            record = engine.record(now)
            before = self._stored.get(name)
            urgent = before is None or _identity(record) != _identity(before)
            if urgent or (due and record != before):
                # A process that nobody remembers would be an orphan that nobody ends.
                self.registry.record(record, durable=urgent)
                self._stored[name] = record
        if due:
            self._stored_at = now

    def _statuses(self) -> dict[str, EngineStatus]:
        try:
            return self.registry.statuses()
        except DataError as error:
            self._failed("registry", error)
        # Without the registry nothing is known of any engine: who is silent is not at fault.
        self._pause(time.monotonic())
        return {}

    def _follow_registry(self, now: float) -> None:
        """Use the registry that is there: engines say how they are in the new one by now."""
        if self.registry.in_place():
            return
        # They need a moment to notice.
        self._pause(now)
        with self._counted("registry"):
            # The old one first: where its shared memory was left behind, both would use it.
            self.registry.close()
            self.registry = Registry(self.folder.registry)
            self._stored.clear()
            # Numbers begin anew there, and nobody reads the answers to the old ones.
            self._open.clear()
            self._stored_at = self._fact_at = 0.0

    def _pause(self, now: float) -> None:
        for engine in self.engines.values():
            engine.pause(now)

    # ---- how

    def _engine(self, name: str, known: EngineRecord | None) -> EngineProcess:
        record = known or EngineRecord(name, wanted=True)
        launch = Launch(
            command=self._command_of(name, self.plan),
            marker=engine_marker(self.folder.root, name),
            console=self.folder.console(name),
            settings=self.plan.engines[name].content_hash()[:12],
        )
        allotted = self.plan.equity_of(name)
        return EngineProcess(record, launch, self._config.rules, self._tell, allotted)

    def _prevented(self, name: str, status: EngineStatus | None) -> bool:
        """Return whether a start would fail, because it runs or the disk is full; told once."""
        other = stranger(status, self.engines[name].pid)
        if other is not None:
            why = f"process {other.pid} runs it already and is not the supervisor's: end it"
        elif (free := self._free_bytes()) < _LEAST_FREE_BYTES:
            why = (
                f"the disk of {self.folder.root} must have {_LEAST_FREE_BYTES / 1e6:.0f} MB free "
                f"for an engine to start, has {free / 1e6:.1f} MB: make room"
            )
        else:
            self._refused.discard(name)
            return False
        if name not in self._refused:
            self._refused.add(name)
            self._tell(EngineEvent(name, "refused", why))
        return True

    def _free_bytes(self) -> int:
        try:
            return shutil.disk_usage(self.folder.root).free
        except OSError:
            # Whoever starts will say what is wrong.
            return _LEAST_FREE_BYTES

    def _tell(self, event: EngineEvent) -> None:
        for observer in self._observers:
            with self._counted(type(observer).__name__):
                observer.on_event(event)

    def _notice_sleep(self, now: float) -> None:
        """Judge no engine by a time in which this process itself was stopped."""
        if self._turned_at and now - self._turned_at > _SLEPT_SECS:
            self._pause(now)
        self._turned_at = now

    @contextlib.contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        """Let nothing that fails, such as a full disk, end the watch over the engines."""
        try:
            yield
        except Exception as error:
            self._failed(what, error)

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        text = f"{what}: {type(error).__name__}: {error}"
        if text != self.last_failure:
            # Told once, not at every turn.
            self.last_failure = text
            print(f"supervisor: {text}", file=sys.stderr, flush=True)


def _identity(record: EngineRecord) -> tuple[object, ...]:
    return (
        record.stage,
        record.wanted,
        record.pid,
        record.process_start_ns,
        record.restarts,
        record.failures_in_row,
    )


def _how(engines: Sequence[EngineProcess]) -> str:
    running = [one.name for one in engines if one.running]
    given_up = [one.name for one in engines if one.given_up]
    told = f"running: {', '.join(running) or 'none'}"
    return told + (f"; given up: {', '.join(given_up)}" if given_up else "")


def _claimed(path: Path) -> IO[str]:
    """Keep other supervisors from a state folder until the handle is closed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return hold(path)
    except OSError as error:
        raise DataError(
            f"the state folder must be writable, {path} could not be opened ({error}): make room "
            "or give another --state"
        ) from error
    except HeldError as error:
        raise ConfigError(
            f"a state folder must have one supervisor, process {error.holder} supervises "
            f"{path.parent}: stop that one or give another --state"
        ) from None
