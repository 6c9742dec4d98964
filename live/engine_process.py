"""One engine's process: started, watched, ended, and tried again.

Nothing here waits: `EngineProcess.step` is called again and again and does what is due. Times are
seconds on a monotonic clock, apart from those that are stored for people.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

from catalog.errors import AwayError
from catalog.timestamps import NS_PER_SECOND
from live.engine_health import HealthLimits, HealthWatch
from live.engine_status import EngineStatus
from live.processes import ProcessId, Usage, UsageMeter
from live.registry import EngineRecord
from live.restarts import RestartPolicy

ENGINE_OF_VARIABLE = "LEVIBOT_ENGINE_OF"
"""Of a supervised process: ``<state folder>:<engine>``; by it a later supervisor finds orphans."""

SUPERVISOR_VARIABLE = "LEVIBOT_SUPERVISOR"
"""Of a supervised process: which process supervises it, as `ProcessId.text` has it."""

_CONSOLE_MOST_BYTES = 20_000_000
_TAIL_BYTES = 4_096

type EventKind = Literal[
    "started", "stopped", "crashed", "restarting", "given_up", "silent", "stale", "leaking",
    "killed", "refused", "away",
]  # fmt: skip
type Ending = Literal["", "stop", "restart", "fault"]
"""Why it is being stopped: not wanted, to be started again, or because something ails it."""


class EngineEvent(NamedTuple):
    """Something that happened to an engine's process, for logs and alerts."""

    engine: str
    kind: EventKind
    detail: str


@dataclass(frozen=True, slots=True)
class ProcessRules:
    """How processes are treated.

    Parameters
    ----------
    restarts : RestartPolicy
        When they are tried again.
    health : HealthLimits
        When they are taken for ill.
    grace_secs : float
        How long an ordered stop may take before the process is killed.
    measure_secs : float
        How often memory and processor time are measured.
    """

    restarts: RestartPolicy = field(default_factory=RestartPolicy)
    health: HealthLimits = field(default_factory=HealthLimits)
    grace_secs: float = 15.0
    measure_secs: float = 5.0


@dataclass(frozen=True, slots=True)
class Launch:
    """How an engine's process is started.

    Parameters
    ----------
    command : tuple of str
        Program and arguments.
    marker : str
        Value of `ENGINE_OF_VARIABLE`.
    console : Path
        Takes what it prints; the one before is kept as ``.1``.
    settings : str
        Digest of what it was started with.
    """

    command: tuple[str, ...]
    marker: str
    console: Path
    settings: str = ""


class EngineProcess:
    """The process of one engine over all its lives.

    Parameters
    ----------
    record : EngineRecord
        What is known of it; a fresh one for an engine that never ran.
    launch : Launch
        How it is started.
    rules : ProcessRules
        How it is treated.
    tell : callable
        Takes each `EngineEvent`.
    allotted : float or None
        Its part of the account, USDT.
    """

    def __init__(
        self,
        record: EngineRecord,
        launch: Launch,
        rules: ProcessRules,
        tell: Callable[[EngineEvent], None],
        allotted: float | None = None,
    ) -> None:
        self.name = record.engine
        self.launch = launch
        self.wanted = record.wanted
        self.given_up = record.stage == "given_up"
        self.restarts = record.restarts
        self.failures = record.failures_in_row
        self._aways = 0
        self.last_error = record.last_error
        self.usage = Usage()
        self.health: HealthWatch | None = None
        self._allotted = allotted
        self._rules = rules
        self._tell = tell
        self._random = Random()  # noqa: S311 - jitter is no secret
        self._child: subprocess.Popen[bytes] | None = None
        self._process: ProcessId | None = None
        self._meter: UsageMeter | None = None
        self._started = self._measured = self._asked = self._next = 0.0
        self._started_ns = 0
        self._ending: Ending = ""
        self._fault = ""
        self._killed = False
        self._left = False

    # ---- what there is

    @property
    def pid(self) -> int:
        """Number of the process; 0 if there is none."""
        return 0 if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._child is not None

    @property
    def starting(self) -> bool:
        """Whether the process has not said yet that it is past its start."""
        return self._child is not None and not (self.health is not None and self.health.started)

    def takes_place(self, now: float, most_secs: float) -> bool:
        """Return whether a start is under way that others wait for, `most_secs` at most.

        An engine may be warming for hours, as one whose instrument is too young: that keeps no
        other from being started.
        """
        return self.starting and now - self._started < most_secs

    @property
    def due(self) -> bool:
        """Whether a process is wanted, and not there."""
        return self.wanted and not self.given_up and self._child is None

    def record(self, now: float) -> EngineRecord:
        """Return what there is to store."""
        process = self._process
        waits = self.due and self._next > now
        return EngineRecord(
            engine=self.name,
            stage=self._stage(),
            wanted=self.wanted,
            pid=0 if process is None else process.pid,
            process_start_ns=0 if process is None else process.start_ns,
            boot="" if process is None else process.boot,
            started_ns=self._started_ns if process is not None else 0,
            restarts=self.restarts,
            failures_in_row=self.failures,
            next_start_ns=time.time_ns() + int((self._next - now) * NS_PER_SECOND) if waits else 0,
            last_error=self.last_error,
            cpu_frac=self.usage.cpu_frac,
            rss_bytes=self.usage.rss_bytes,
            pss_bytes=self.usage.pss_bytes,
            allotted_equity=self._allotted,
            settings=self.launch.settings,
        )

    # ---- what is asked for

    def start(self, now: float) -> None:
        """Want a process, and forget earlier failures: a person says so."""
        self.wanted, self.given_up, self.failures, self._aways = True, False, 0, 0
        self._next = now
        if self._ending == "stop":
            self._ending = "restart"

    def stop(self, now: float) -> None:
        """Want no process, and end the one that there is in order."""
        self.wanted = False
        self._end("stop", now)

    def end(self, now: float) -> None:
        """End the process in order; whether one is wanted is the next supervisor's to see."""
        self._left = True
        self._end("stop", now)

    def restart(self, now: float) -> None:
        """End the process in order and start another."""
        self.start(now)
        if self._child is not None:
            self._end("restart", now)

    def pause(self, now: float) -> None:
        """Let no age count that the watcher has slept through."""
        if self.health is not None:
            self.health.pause(now)

    # ---- what is due

    def step(self, status: EngineStatus | None, may_start: bool, now: float) -> None:
        """Do what is due.

        Parameters
        ----------
        status : EngineStatus or None
            What the engine last said.
        may_start : bool
            Whether a process may be started now: not too many start at once.
        now : float
            Seconds on the monotonic clock.
        """
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                self._watch(status, now)
            else:
                self._ended(code, status, now)
        elif self.due and may_start and now >= self._next:
            self._start(now)

    def kill(self) -> None:
        """End the process at once; it has no say."""
        if self._child is not None and self._child.poll() is None:
            self._killed = True
            with contextlib.suppress(OSError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _start(self, now: float) -> None:
        launch = self.launch
        environment = {
            **os.environ,
            ENGINE_OF_VARIABLE: launch.marker,
            SUPERVISOR_VARIABLE: ProcessId.own().text(),
        }
        try:
            with _fresh_console(launch.console).open("ab") as console:
                child = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # Ctrl-C in the supervisor's terminal is the supervisor's to pass on.
                    start_new_session=True,
                )
        except OSError as error:
            self._failed(f"its process could not be started: {error}", now)
            return
        self._child, self._started, self._started_ns = child, now, time.time_ns()
        # One that has ended already is nobody's orphan.
        self._process = ProcessId.of(child.pid) or ProcessId(child.pid, 0, "")
        self._meter = UsageMeter(self._process.pid)
        self.usage, self._measured = Usage(), now
        self.health = HealthWatch(self._process, self._rules.health, now)
        self._ending, self._fault, self._killed = "", "", False
        self._tell(EngineEvent(self.name, "started", f"process {child.pid}"))

    def _watch(self, status: EngineStatus | None, now: float) -> None:
        assert self.health is not None
        if now - self._measured >= self._rules.measure_secs and self._meter is not None:
            self._measured = now
            self.usage = self._meter.measure()
            _keep_small(self.launch.console)
        verdict = self.health.look(status, self.usage.rss_bytes, now)
        if self._ending:
            if now - self._asked > self._rules.grace_secs and not self._killed:
                self._tell(
                    EngineEvent(
                        self.name,
                        "killed",
                        f"it did not end within {self._rules.grace_secs:g} s of being asked",
                    )
                )
                self.kill()
            return
        if self.failures and now - self._started >= self._rules.restarts.healthy_secs:
            self.failures = 0
        if verdict.ailment:
            self._fault = verdict.detail
            self._tell(EngineEvent(self.name, verdict.ailment, verdict.detail))
            # Without bars it starts anew, which says nothing against it: the exchange may be down.
            self._end("restart" if verdict.ailment == "stale" else "fault", now)

    def _end(self, why: Ending, now: float) -> None:
        if self._child is None:
            return
        if not self._ending:
            self._asked = now
            with contextlib.suppress(OSError):
                self._child.terminate()
        # A person's word replaces the watchdog's.
        self._ending = why

    def _ended(self, code: int, status: EngineStatus | None, now: float) -> None:
        why, ending = _reason(code, self.launch.console), self._ending
        if self.health is not None:
            self.health.look(status, None, now)
            said = self.health.status
            if said is not None and said.last_error and code != AwayError.exit_code:
                why = f"{why}; its last error: {said.last_error}"
        self._child = self._process = self._meter = self.health = None
        self._ending, self._next = "", now
        aways, self._aways = self._aways, 0
        if ending == "stop":
            self._tell(EngineEvent(self.name, "stopped", why))
        elif ending == "restart":
            self.last_error = self._fault or self.last_error
            self._again("asked for" if not self._fault else self._fault)
        elif ending == "fault":
            self._failed(self._fault, now)
        elif code == 0:
            # Whoever ended it in order did not want it to run.
            self.wanted = False
            self._tell(EngineEvent(self.name, "stopped", "it ended by itself, in order"))
        elif code == AwayError.exit_code:
            self._aways = aways + 1
            self._away(why, now)
        else:
            self._failed(why, now)

    def _away(self, why: str, now: float) -> None:
        """Try again for as long as it takes: an outside that is away is no failure."""
        self.last_error = why
        self.restarts += 1
        delay = self._rules.restarts.delay_secs(self._aways, self._random)
        self._next = now + delay
        self._tell(
            EngineEvent(
                self.name,
                "away",
                f"it could not start, and is started again in {delay:.1f} s: {why}",
            )
        )

    def _failed(self, why: str, now: float) -> None:
        if self._started and now - self._started >= self._rules.restarts.healthy_secs:
            self.failures = 0
        self.failures += 1
        self.last_error = why
        self._tell(EngineEvent(self.name, "crashed", why))
        if self._rules.restarts.gives_up(self.failures):
            self.given_up = True
            self._tell(
                EngineEvent(
                    self.name, "given_up", f"{self.failures} failures in a row, the last: {why}"
                )
            )
            return
        delay = self._rules.restarts.delay_secs(self.failures, self._random)
        self._next = now + delay
        self._again(f"in {delay:.1f} s, after failure {self.failures}")

    def _again(self, detail: str) -> None:
        self.restarts += 1
        self._tell(EngineEvent(self.name, "restarting", detail))

    def _stage(self) -> Literal["stopped", "running", "backoff", "given_up"]:
        if self._child is not None:
            return "running"
        if self.given_up:
            return "given_up"
        return "backoff" if self.wanted and not self._left else "stopped"


def engine_marker(state: Path, engine: str) -> str:
    """Return the value of `ENGINE_OF_VARIABLE` for an engine of a state folder."""
    return f"{state.resolve()}:{engine}"


def _reason(code: int, console: Path) -> str:
    """Return how a process ended, with the last line that it printed before it failed."""
    if code < 0:
        # Whoever was killed had no last word: what it printed before is about something else.
        try:
            return f"ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"ended by signal {-code}"
    said = _last_line(console) if code else ""
    return f"ended with exit code {code}" + (f": {said}" if said else "")


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines: Sequence[str] = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _fresh_console(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(f"{path.name}.1"))
    return path


def _keep_small(path: Path) -> None:
    """Empty a console that has grown large; it is written to at its end wherever that is."""
    with contextlib.suppress(OSError):
        if path.stat().st_size > _CONSOLE_MOST_BYTES:
            os.truncate(path, 0)
