"""`levibot guard`: what a person sees and says, where no process runs and beside one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from catalog.errors import ConfigError, DataError
from live.cli import app
from live.guard_command import halt, release, status
from strategies.guard import Guard
from strategies.guard_requests import GuardRequest, read_request, write_request
from strategies.guard_store import GuardStore, beside, is_claimed
from strategies.guard_watch import GuardWatch
from strategies.risk_policy import RiskPolicy

SECOND = 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard.json"


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["guard", *map(str, arguments)])


def lost(path: Path, *, exposed: bool = False) -> GuardStore:
    """A guard that halted on a loss, stored when its process ended."""
    guard = Guard(RiskPolicy(kill_switch_file=str(path.parent / "KILL")))
    guard.on_equity(SECOND, 100_000.0)
    guard.on_equity(2 * SECOND, 90_000.0)
    guard.on_positions(3 * SECOND, int(exposed))
    store = GuardStore(path)
    store.save(guard.state)
    return store


def test_the_state_is_shown_to_people_and_programs(path: Path) -> None:
    lost(path)
    shown = command("status", "--state", path)
    assert shown.exit_code == 0
    for text in (
        "halted at 1970-01-01 00:00:03",
        "no process runs with it",
        "daily_loss since 1970-01-01 00:00:02, ends with the UTC day, or by a person",
        "drawdown since 1970-01-01 00:00:02, ends by a person",
        "equity 90000.00 USDT, at the start of the day 100000.00, highest 100000.00",
        "nothing is open any more",
    ):
        assert text in shown.stdout
    told = json.loads(command("status", "--state", path, "--json").stdout)
    assert told["level"] == "halted"
    assert [one["reason"] for one in told["holds"]] == ["daily_loss", "drawdown"]
    assert [one["kind"] for one in told["history"]] == ["hold", "hold", "flat"]
    assert not told["running"]


def test_a_state_that_is_not_there_is_told(path: Path) -> None:
    for arguments in (("status",), ("release",)):
        done = command(*arguments, "--state", path)
        assert done.exit_code == 3
    with pytest.raises(DataError, match="there is none: check --state"):
        status(path)
    assert not list(path.parent.iterdir())


def test_a_person_releases_where_no_process_runs(path: Path) -> None:
    store = lost(path)
    done = command("release", "--state", path, "--who", "anna", "--json")
    assert json.loads(done.stdout) == {"text": "released: daily_loss drawdown"}
    state = store.load()
    assert state.level() == "normal"
    assert state.peak_equity == state.day_start_equity == 90_000.0
    assert state.history[-1].detail == "released by anna"
    assert not is_claimed(path)
    # The next process judges by it.
    again = Guard(RiskPolicy(), state)
    again.on_positions(state.ts, 0)
    assert again.level == "normal"


def test_what_may_be_open_is_not_released_before_a_process_has_looked(path: Path) -> None:
    lost(path, exposed=True)
    done = command("release", "--state", path)
    assert done.exit_code == 2
    assert GuardStore(path).load().level() == "reducing"
    path.write_bytes(b"{")
    with pytest.raises(ConfigError, match="must be known to be flat"):
        release(path, "anna")


def test_a_person_halts_before_a_process_starts(path: Path) -> None:
    done = command("halt", "--state", path, "--who", "anna", "--why", "the news")
    assert done.exit_code == 0
    assert "it counts from the next start on" in done.stdout
    guard = Guard(RiskPolicy(), GuardStore(path).load())
    assert guard.reasons == "manual"
    assert guard.state.holds["manual"].detail == "anna: the news"


# ---- beside a process


@pytest.fixture
def asked(path: Path) -> Iterator[Callable[..., GuardWatch]]:
    """Another process that has the state, played by a thread which looks all the time."""
    ended = threading.Event()
    threads: list[threading.Thread] = []
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"

    def begin(*, exposed: bool, clock: Callable[[], int], answers: bool = True) -> GuardWatch:
        guard = Guard(RiskPolicy(kill_switch_file=str(path.parent / "KILL")))
        watch = GuardWatch(guard, GuardStore(path))

        def look() -> None:
            while answers and not ended.wait(0.01):
                guard.on_positions(clock(), int(exposed and guard.level == "normal"))
                watch.look(clock())
                watch.save()

        threads.append(threading.Thread(target=look))
        threads[0].start()
        return watch

    try:
        yield begin
    finally:
        ended.set()
        for one in threads:
            one.join()
        holder.communicate(b"\n")


HOLD = """
import sys
from pathlib import Path
from strategies.guard_store import GuardStore
store = GuardStore(Path(sys.argv[1]))
store.claim()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_process_is_asked_and_answers(path: Path, asked: Callable[..., GuardWatch]) -> None:
    asked(exposed=True, clock=time.time_ns)
    assert is_claimed(path)
    with pytest.raises(ConfigError, match=r"must belong to one process, process [0-9]+ has it"):
        GuardStore(path).claim(wait_secs=0.0)
    done = command("halt", "--state", path, "--who", "anna", "--why", "the news")
    assert done.stdout == "halted: manual\n"
    assert status(path).running
    assert release(path, "anna") == "released: manual"
    # Something is open again.
    time.sleep(0.1)
    with pytest.raises(ConfigError, match="the release was refused: trading must be flat"):
        release(path, "anna")
    kinds = [one.kind for one in status(path).state.history]
    assert kinds == ["hold", "flat", "release", "refused"]
    assert not beside(path, "request").exists()


def test_a_process_whose_clock_is_elsewhere_refuses_a_release_and_obeys_a_halt(
    path: Path, asked: Callable[..., GuardWatch]
) -> None:
    asked(exposed=False, clock=lambda: 10 * SECOND)
    assert halt(path, "anna", "now") == "halted: manual"
    with pytest.raises(ConfigError, match=r"must be at most 30 s old, was of -[0-9]+ s ago"):
        release(path, "anna")


def test_a_process_that_does_not_answer_is_told(
    path: Path, asked: Callable[..., GuardWatch]
) -> None:
    lost(path)
    asked(exposed=False, clock=lambda: 0, answers=False)
    with pytest.raises(DataError, match=r"must answer within 0.1 s, did not: use the kill-switch"):
        release(path, "anna", timeout_secs=0.1)
    # A release that nobody waits for any more must not be done later; a halt may.
    assert read_request(path) is None
    with pytest.raises(DataError, match="the request stays"):
        halt(path, "anna", "now", timeout_secs=0.1)
    request = read_request(path)
    assert isinstance(request, GuardRequest)
    assert request.action == "halt"


# ---- the watch by itself


def test_a_request_that_cannot_be_read_halts(path: Path) -> None:
    for text in ("", "{}", '{"action": "release"}', "halt please"):
        guard = Guard(RiskPolicy(kill_switch_file=str(path.parent / "KILL")))
        beside(path, "request").write_text(text, encoding="utf-8")
        GuardWatch(guard, GuardStore(path)).look(SECOND)
        assert guard.reasons == "manual"
        assert not beside(path, "request").exists()


def test_a_release_that_cannot_be_taken_away_does_not_count(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(RiskPolicy(kill_switch_file=str(path.parent / "KILL")))
    guard.on_positions(SECOND, 0)
    guard.halt(SECOND, "a person")
    request = GuardRequest.now("release", "anna", "")
    write_request(path, request)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(Path, "unlink", refuse)
    GuardWatch(guard, GuardStore(path)).look(request.ts)
    assert guard.reasons == "manual"
    assert guard.state.history[-1].kind == "refused"


def test_a_failure_to_store_that_is_none_of_the_disks_blocks_as_well(path: Path) -> None:
    guard = Guard(RiskPolicy())
    watch = GuardWatch(guard, GuardStore(path))
    guard.state.equity = object()  # type: ignore[assignment]
    watch.save()
    assert guard.reasons == "guard_failure"


def test_an_engine_on_recorded_data_is_released_by_the_clock_of_the_person(path: Path) -> None:
    guard = Guard(RiskPolicy(kill_switch_file=str(path.parent / "KILL")))
    guard.on_positions(SECOND, 0)
    guard.halt(SECOND, "a person")
    watch = GuardWatch(guard, GuardStore(path))
    write_request(path, GuardRequest.now("release", "anna", ""))
    watch.wall = time.time_ns
    watch.look(2 * SECOND)
    assert guard.reasons == ""
    assert guard.state.history[-1].kind == "release"
