"""A supervisor over real processes that crash, hang, leak and do not listen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from catalog.errors import ConfigError, DataError
from live.engine_health import HealthLimits
from live.engine_plan import plan_of
from live.engine_process import EngineEvent, ProcessRules
from live.processes import ProcessId
from live.registry import SUPERVISOR_FACT, Registry
from live.restarts import RestartPolicy
from live.state_folder import StateFolder
from live.supervisor import Supervisor, SupervisorConfig

FAKE = Path(__file__).with_name("fake_engine.py")
QUICK = RestartPolicy(first_secs=0.05, most_secs=0.2)
RULES = ProcessRules(
    restarts=QUICK,
    health=HealthLimits(
        start_secs=20.0, heartbeat_secs=1.0, data_age_secs=1.0, max_rss_bytes=300_000_000
    ),
    grace_secs=1.0,
    measure_secs=0.1,
)


class Ears:
    """Hears everything."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.looks = 0

    def on_event(self, event: EngineEvent) -> None:
        self.events.append(event)

    def on_look(self, statuses: object, records: object) -> None:
        self.looks += 1

    def kinds(self, engine: str) -> list[str]:
        return [one.kind for one in self.events if one.engine == engine]


def fake_command(state: Path) -> Callable[..., tuple[str, ...]]:
    return lambda name, plan: (sys.executable, str(FAKE), str(state), name)


@contextmanager
def supervised(
    state: Path, names: list[str], rules: ProcessRules = RULES, place_secs: float = 60.0
) -> Iterator[tuple[Supervisor, Ears]]:
    ears = Ears()
    config = SupervisorConfig(rules, turn_secs=0.02, look_secs=0.05, place_secs=place_secs)
    supervisor = Supervisor(
        StateFolder(state), plan_of(names), fake_command(state), config, (ears,)
    )
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield supervisor, ears
    finally:
        supervisor.stop()
        thread.join(30.0)
        assert not thread.is_alive()


def behave(state: Path, name: str, words: str) -> None:
    (state / "behave").mkdir(parents=True, exist_ok=True)
    (state / "behave" / name).write_text(words)


def until(condition: Callable[[], object], secs: float = 20.0) -> None:
    deadline = time.monotonic() + secs
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def lives(state: Path, name: str) -> list[int]:
    file = state / f"{name}.pids"
    return [int(line) for line in file.read_text().split()] if file.is_file() else []


def delay_told(event: EngineEvent) -> float:
    """Return after how many seconds an engine that is away is started again."""
    return float(re.findall(r"started again in (\S+) s", event.detail)[0])


def test_starts_records_and_ends_every_engine_in_order(tmp_path: Path) -> None:
    with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, ears):
        registry = Registry(tmp_path / "registry.db", create=False)
        until(lambda: len(registry.statuses()) == 2)
        until(lambda: all(one.rss_bytes for one in supervisor_records(supervisor)))
        records = registry.records()
        pids = {name: one.pid for name, one in records.items()}
        assert {one.stage for one in records.values()} == {"running"}
        assert all(ProcessId.of(pid) for pid in pids.values())
        assert supervisor.failures == 0
    assert all(ProcessId.of(pid) is None for pid in pids.values())
    assert ears.kinds("AAA") == ears.kinds("BBB") == ["started", "stopped"]
    after = registry.records()
    assert [(one.stage, one.pid, one.wanted) for one in after.values()] == [
        ("stopped", 0, True)
    ] * 2
    registry.close()


def supervisor_records(supervisor: Supervisor) -> list[object]:
    return [one.usage for one in supervisor.engines.values()]


def test_tries_again_with_back_off_and_stops_for_good_after_five_failures(tmp_path: Path) -> None:
    behave(tmp_path, "AAA", "crash")
    with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, ears):
        until(lambda: supervisor.engines["AAA"].given_up)
        assert len(lives(tmp_path, "AAA")) == 5
        registry = supervisor.registry
        until(lambda: registry.records()["AAA"].stage == "given_up")
        record = registry.records()["AAA"]
        assert record.failures_in_row == 5
        assert record.restarts == 4
        assert "exit code 5: error: the market fell on me" in record.last_error
        assert ears.kinds("AAA")[-2:] == ["crashed", "given_up"]
        assert ears.kinds("BBB") == ["started"], "its neighbour does not notice"
        time.sleep(0.5)
        assert len(lives(tmp_path, "AAA")) == 5
    # The next supervisor keeps to it, until a person says otherwise.
    behave(tmp_path, "AAA", "")
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        time.sleep(0.3)
        assert ears.events == []
        number = supervisor.registry.ask("start", "AAA", "anna")
        assert supervisor.registry.wait_for(number, 10.0) == "done"
        assert supervisor.engines["AAA"].failures == 0
        line = supervisor.registry.audited()[0]
        assert (line.who, line.command, line.target, line.outcome) == (
            "anna", "start", "AAA", "done",
        )  # fmt: skip


def test_the_fake_engine_says_who_it_is_as_an_engine_does(tmp_path: Path) -> None:
    with supervised(tmp_path, ["AAA"]) as (supervisor, _):
        until(lambda: supervisor.registry.status("AAA"))
        status = supervisor.registry.status("AAA")
        assert status is not None
        assert ProcessId.of(status.pid) == (status.pid, status.process_start_ns, status.boot)


def test_a_killed_engine_is_back_within_seconds(tmp_path: Path) -> None:
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: supervisor.registry.status("AAA") is not None)
        before = supervisor.engines["AAA"].pid
        os.kill(before, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: supervisor.engines["AAA"].pid not in (0, before))
        assert time.monotonic() - killed < 3.0
        assert any("SIGKILL" in one.detail for one in ears.events if one.kind == "crashed")


@pytest.mark.parametrize(
    ("words", "kind", "failures"),
    [("hang", "silent", 1), ("leak", "leaking", 1), ("stale", "stale", 0)],
)
def test_what_ails_an_engine_is_seen_and_ended(
    tmp_path: Path, words: str, kind: str, failures: int
) -> None:
    behave(tmp_path, "AAA", words)
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: kind in ears.kinds("AAA"))
        behave(tmp_path, "AAA", "")
        until(lambda: len(lives(tmp_path, "AAA")) >= 2)
        until(lambda: not supervisor.engines["AAA"].starting)
        assert supervisor.engines["AAA"].failures == failures
        assert ProcessId.of(lives(tmp_path, "AAA")[0]) is None


def test_an_engine_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    behave(tmp_path, "AAA", "deaf")
    with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, ears):
        registry = supervisor.registry
        until(lambda: len(registry.statuses()) == 2)
        asked = time.monotonic()
        number = registry.ask("stop", "AAA", "anna")
        assert registry.wait_for(number, 10.0) == "done"
        assert 1.0 <= time.monotonic() - asked < 5.0
        assert ears.kinds("AAA") == ["started", "killed", "stopped"]
        assert ProcessId.of(lives(tmp_path, "AAA")[0]) is None
        assert supervisor.engines["BBB"].running
        time.sleep(0.3)
        assert len(lives(tmp_path, "AAA")) == 1, "stopped is stopped"


def test_commands_restart_all_and_refuse_what_is_unknown(tmp_path: Path) -> None:
    with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, _ears):
        registry = supervisor.registry
        until(lambda: len(registry.statuses()) == 2)
        number = registry.ask("restart", "*", "anna")
        assert registry.wait_for(number, 15.0) == "done"
        until(lambda: [len(lives(tmp_path, one)) for one in ("AAA", "BBB")] == [2, 2])
        assert [one.failures for one in supervisor.engines.values()] == [0, 0]
        number = registry.ask("stop", "CCC", "anna")
        outcome = registry.wait_for(number, 5.0)
        assert outcome is not None
        assert outcome.startswith("refused: no engine is called CCC")


def test_who_ends_in_order_by_itself_is_not_started_again(tmp_path: Path) -> None:
    behave(tmp_path, "AAA", "quit")
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: ears.kinds("AAA") == ["started", "stopped"])
        time.sleep(0.3)
        assert len(lives(tmp_path, "AAA")) == 1
        assert not supervisor.engines["AAA"].wanted


def test_engines_that_stay_warming_keep_no_other_from_being_started(tmp_path: Path) -> None:
    for name in ("AAA", "BBB"):
        behave(tmp_path, name, "warming")
    with supervised(tmp_path, ["AAA", "BBB", "CCC"], place_secs=0.5) as (supervisor, ears):
        until(lambda: ears.kinds("CCC") == ["started"])
        assert all(supervisor.engines[name].starting for name in ("AAA", "BBB"))
        assert not supervisor.engines["AAA"].takes_place(time.monotonic(), 0.5)
        assert supervisor.engines["AAA"].takes_place(time.monotonic(), 60.0)


def test_an_exchange_that_is_away_is_no_failure_of_an_engine(tmp_path: Path) -> None:
    behave(tmp_path, "AAA", "away")
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: len(lives(tmp_path, "AAA")) >= 7)
        engine = supervisor.engines["AAA"]
        assert (engine.given_up, engine.failures) == (False, 0)
        assert engine.restarts >= 6
        assert "exit code 7: error: the exchange must answer" in engine.last_error
        assert set(ears.kinds("AAA")) == {"started", "away"}
        record = supervisor.registry.records()["AAA"]
        assert record.failures_in_row == 0
        behave(tmp_path, "AAA", "")

        def steady() -> bool:
            # The last one that is away may have said already that it is there.
            count = len(ears.events)
            time.sleep(0.5)
            return len(ears.events) == count and engine.running and not engine.starting

        until(steady)
        # A moment's absence costs a moment, a long one is asked about ever less.
        delays = [delay_told(one) for one in ears.events if one.kind == "away"]
        full = [
            min(QUICK.first_secs * 2.0**number, QUICK.most_secs) for number in range(len(delays))
        ]
        pairs = list(zip(delays, full, strict=True))
        assert all(0.5 * least - 0.05 <= one <= least + 0.05 for one, least in pairs)
        # Having been there, it is away for a moment again: told to a tenth of a second, which is
        # 0.05 s at most, and 0.1 s at least where the longest counts.
        os.kill(lives(tmp_path, "AAA")[-1], signal.SIGKILL)
        behave(tmp_path, "AAA", "away")
        until(lambda: ears.kinds("AAA").count("away") > len(delays))
        (first, *_) = [one for one in ears.events if one.kind == "away"][len(delays) :]
        assert delay_told(first) == 0.0


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "without its log"])
def test_a_registry_that_is_moved_away_costs_no_engine(tmp_path: Path, whole: bool) -> None:
    with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, ears):
        until(lambda: len(supervisor.registry.statuses()) == 2)
        first = supervisor.registry
        pids = [one.pid for one in supervisor.engines.values()]
        # As `mv` does it, the database last: with it the next one is made.
        for file in sorted(tmp_path.glob("registry.db*" if whole else "registry.db"), reverse=True):
            file.rename(tmp_path / f"old-{file.name}")
        until(lambda: supervisor.registry is not first)
        until(lambda: len(supervisor.registry.statuses()) == 2)
        # Longer than an engine may be silent, and than its failures would need.
        time.sleep(1.5)
        assert [one.pid for one in supervisor.engines.values()] == pids
        assert ears.kinds("AAA") == ears.kinds("BBB") == ["started"]
        # Whoever looks at the folder finds all of it in the new file, and is heard.
        with closing(Registry(tmp_path / "registry.db", create=False)) as registry:
            assert [one.pid for one in registry.records().values()] == pids
            assert registry.fact(SUPERVISOR_FACT) is not None
            number = registry.ask("restart", "AAA", "anna")
            assert registry.wait_for(number, 10.0) == "done"
            assert supervisor.engines["BBB"].pid == pids[1]


def test_nobody_is_silent_while_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behave(tmp_path, "AAA", "hang")
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: supervisor.registry.status("AAA") is not None)

        def full(*_: object) -> int:
            raise DataError("the registry must be usable, could not be written (disk is full)")

        with monkeypatch.context() as patched:
            patched.setattr(supervisor.registry, "_write", full)
            time.sleep(2.5)
            assert ears.kinds("AAA") == ["started"]
            assert "disk is full" in supervisor.last_failure
        until(lambda: "silent" in ears.kinds("AAA"))


def test_nobody_is_started_onto_a_full_disk_and_given_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SimpleNamespace(free=0)
    monkeypatch.setattr("live.supervisor.shutil.disk_usage", lambda folder: free)
    with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
        until(lambda: ears.events)
        time.sleep(0.3)
        assert ears.kinds("AAA") == ["refused"]
        assert "5 MB free for an engine to start, has 0.0 MB" in ears.events[0].detail
        assert supervisor.engines["AAA"].failures == 0
        free.free = 10**9
        until(lambda: ears.kinds("AAA") == ["refused", "started"])


SUPERVISE = """
import sys, threading
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.live.test_supervisor import supervised
with supervised(Path({state!r}), ["AAA", "BBB"]) as (supervisor, ears):
    threading.Event().wait()
"""


def test_the_orphans_of_a_killed_supervisor_are_ended_and_nobody_else(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    code = SUPERVISE.format(root=root, state=str(tmp_path))
    first = subprocess.Popen([sys.executable, "-c", code], cwd=root)
    registry = Registry(tmp_path / "registry.db")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        until(lambda: len(registry.statuses()) == 2)
        with pytest.raises(ConfigError, match=f"one supervisor, process {first.pid} supervises"):
            Supervisor(StateFolder(tmp_path), plan_of(["AAA"]), fake_command(tmp_path))
        first.kill()
        first.wait(10.0)
        orphans = [lives(tmp_path, one)[0] for one in ("AAA", "BBB")]
        assert all(ProcessId.of(pid) for pid in orphans)
        # Its number was recorded, but it is another process: the start differs.
        record = registry.records()["AAA"]
        registry.record(
            type(record)(
                "AAA", wanted=True, pid=bystander.pid, process_start_ns=5, boot=record.boot
            )
        )
        with supervised(tmp_path, ["AAA", "BBB"]) as (supervisor, ears):
            until(lambda: all(one.running for one in supervisor.engines.values()))
            assert all(ProcessId.of(pid) is None for pid in orphans)
            assert bystander.poll() is None
            assert sum("orphan" in one.detail for one in ears.events) == 2
    finally:
        bystander.kill()
        bystander.wait()
        first.kill()
        first.wait()
        registry.close()


def test_an_engine_that_a_person_runs_is_not_touched_and_not_doubled(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry.db")
    other = subprocess.Popen([sys.executable, str(FAKE), str(tmp_path), "AAA"])
    try:
        until(lambda: registry.status("AAA") is not None)
        with supervised(tmp_path, ["AAA"]) as (supervisor, ears):
            until(lambda: "refused" in ears.kinds("AAA"))
            time.sleep(0.2)
            assert ears.kinds("AAA") == ["refused"]
            assert other.poll() is None
            other.terminate()
            other.wait(10.0)
            until(lambda: supervisor.engines["AAA"].running)
    finally:
        other.kill()
        other.wait()
        registry.close()
