"""The ledger under parallel writers, kills, full disks and people who edit it."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalog.errors import DataError, IntegrityError
from research.trial_ledger import TrialLedger, decode_line, encode_line
from research.trials import Trial
from tests.research.trial_writer import numbered

WRITER = Path(__file__).with_name("trial_writer.py")
ROOT = WRITER.parents[2]


def writer(ledger: TrialLedger, first: int, last: int, how: str = "whole") -> subprocess.Popen[str]:
    arguments = [sys.executable, str(WRITER), str(ledger.path), str(first), str(last), how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)


def numbers(ledger: TrialLedger) -> list[int]:
    return [int(one.config["number"]) for one in ledger.read().trials]


@pytest.fixture
def ledger(tmp_path: Path) -> TrialLedger:
    return TrialLedger(tmp_path / "trials.jsonl")


def test_what_is_written_is_read_in_its_order_with_the_time(ledger: TrialLedger) -> None:
    assert ledger.read().trials == ()
    assert not ledger.path.exists()
    before = time.time_ns()
    assert ledger.append(map(numbered, (3, 1))) == 2
    assert ledger.append([numbered(2)]) == 1
    assert numbers(ledger) == [3, 1, 2]
    found = ledger.read().trials
    assert all(before <= one.time <= time.time_ns() for one in found)
    assert [one.id for one in found] == [numbered(number).id for number in (3, 1, 2)]
    # JSON lines that any program reads.
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert [Trial.from_dict(line["trial"]) for line in lines] == list(found)


def test_a_trial_that_is_there_is_not_counted_again(ledger: TrialLedger) -> None:
    ledger.append([numbered(1), numbered(2)])
    content = ledger.path.read_bytes()
    assert ledger.append([numbered(2), numbered(1)]) == 0
    assert ledger.append([]) == 0
    assert ledger.path.read_bytes() == content
    assert ledger.append([numbered(2), numbered(3), numbered(3)]) == 1
    assert numbers(ledger) == [1, 2, 3]


def test_ledgers_of_two_machines_are_joined_by_cat(ledger: TrialLedger, tmp_path: Path) -> None:
    other = TrialLedger(tmp_path / "other.jsonl")
    ledger.append([numbered(1), numbered(2)])
    other.append([numbered(2), numbered(3)])
    with ledger.path.open("ab") as file:
        file.write(other.path.read_bytes())
    assert numbers(ledger) == [1, 2, 3]


def test_the_trial_about_to_be_recorded_counts_once(ledger: TrialLedger) -> None:
    ledger.append([numbered(1), numbered(2)])
    span, names = (50, 60), ["BTCUSDT-PERP.BINANCE"]
    assert ledger.trials_for(span, names, numbered(3)).count == 3
    assert ledger.trials_for(span, names, numbered(2)).count == 2
    assert ledger.trials_for((200, 300), names, numbered(3)).count == 0


def test_eight_processes_write_two_hundred_each_and_nothing_is_lost(ledger: TrialLedger) -> None:
    # Neighbours write many of the same trials: whoever comes second must see them.
    process = writer(ledger, 0, 200, "crowd")
    told, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert len(told.splitlines()) == 1600
    assert sum(int(line.split()[1]) for line in told.splitlines()) == 375
    assert sorted(numbers(ledger)) == list(range(375))
    assert len(ledger.path.read_bytes().splitlines()) == 375
    assert not ledger.torn_path.exists()


def test_a_writer_killed_within_a_line_leaves_none_that_counts(ledger: TrialLedger) -> None:
    ledger.append([numbered(0)])
    process = writer(ledger, 1, 4, "torn")
    told, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert [int(line.split()[0]) for line in told.splitlines()] == [1, 2]
    content = ledger.read()
    assert len(content.trials) == 3
    assert content.torn_bytes > 1000
    fragment = ledger.path.read_bytes()[-content.torn_bytes :]
    # Resumed from its beginning, it counts nothing twice, and the fragment lies aside.
    told, _ = writer(ledger, 1, 4).communicate(timeout=60)
    assert [line.split()[1] for line in told.splitlines()] == ["0", "0", "1"]
    assert numbers(ledger) == [0, 1, 2, 3]
    assert ledger.read().torn_bytes == 0
    assert ledger.torn_path.read_bytes() == fragment + b"\n"


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing_that_was_reported(ledger: TrialLedger) -> None:
    moments, reported, first = random.Random(11), set(), 0
    for _ in range(12):
        running = [writer(ledger, first, 10_000), writer(ledger, first, 10_000)]
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.08))
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            told, _ = process.communicate(timeout=60)
            # The kill may have cut the last word short.
            reported |= {int(line.split()[0]) for line in told.splitlines()[:-1]}
        found = numbers(ledger)
        assert len(found) == len(set(found))
        assert reported <= set(found)
        first = max(0, max(found) - 20)
    assert sorted(numbers(ledger)) == list(range(max(numbers(ledger)) + 1))


@pytest.mark.parametrize("kept", [1, 40, 500, -1])
def test_a_line_without_its_end_is_set_aside_wherever_it_was_cut(
    ledger: TrialLedger, kept: int
) -> None:
    ledger.append([numbered(1)])
    whole, torn = ledger.path.read_bytes(), encode_line(numbered(2))[:kept]
    ledger.path.write_bytes(whole + torn)
    assert ledger.read().torn_bytes == len(torn)
    ledger.check()
    assert ledger.path.read_bytes() == whole + torn  # who only looks changes nothing
    assert ledger.append([numbered(2)]) == 1
    assert numbers(ledger) == [1, 2]
    assert ledger.torn_path.read_bytes() == torn + b"\n"


def test_a_power_cut_that_left_zeros_is_set_aside(ledger: TrialLedger) -> None:
    ledger.append([numbered(1)])
    line = bytearray(encode_line(numbered(2)))
    line[:1000] = bytes(1000)
    with ledger.path.open("ab") as file:
        file.write(line)
    assert numbers(ledger) == [1]
    assert ledger.append([numbered(3)]) == 1
    assert numbers(ledger) == [1, 3]


@pytest.mark.parametrize("row", [0, 1, 2])
def test_a_changed_line_is_an_error_that_names_it(ledger: TrialLedger, row: int) -> None:
    ledger.append(map(numbered, range(3)))
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    lines[row] = lines[row].replace(b'"profile":"p"', b'"profile":"q"')
    ledger.path.write_bytes(b"".join(lines))
    for look in (ledger.read, ledger.check):
        with pytest.raises(IntegrityError, match=f"line {row + 1} .*checksum does not fit"):
            look()
    if row == 2:
        before = ledger.path.read_bytes()
        with pytest.raises(IntegrityError, match="line 3 "):
            ledger.append([numbered(5)])
        assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "\n", "{}\n", "[1, 2]\n", '{"sha256":"'])
def test_what_is_no_line_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match="checksum"):
        decode_line(text.encode())


def test_a_full_disk_leaves_the_ledger_as_it_was(
    ledger: TrialLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.append([numbered(1)])
    content, write, calls = ledger.path.read_bytes(), os.write, 0

    def full(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return write(descriptor, bytes(data)[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DataError, match=r"No space left.*LEVIBOT_TRIALS"):
            ledger.append([numbered(2)])
    assert ledger.path.read_bytes() == content
    # A write that the system splits is no failure.
    calls = -(10**6)
    monkeypatch.setattr(os, "write", lambda d, data: write(d, bytes(data)[:100]))
    assert ledger.append([numbered(2)]) == 1
    assert numbers(ledger) == [1, 2]


def test_who_waits_too_long_for_another_process_is_told(ledger: TrialLedger) -> None:
    ledger.append([numbered(1)])
    hasty = TrialLedger(ledger.path, lock_timeout_secs=0.05)
    with ledger.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert hasty.read().trials  # readers do not wait for one another
        with pytest.raises(DataError, match=r"free within 0\.05 s"):
            hasty.append([numbered(2)])
    assert hasty.append([numbered(2)]) == 1


def test_where_no_ledger_can_be_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    TrialLedger(tmp_path / "new" / "folders" / "trials.jsonl").check()
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="is a folder"):
        TrialLedger(tmp_path).check()
    with pytest.raises(DataError, match="is no folder"):
        TrialLedger(tmp_path / "file" / "trials.jsonl").check()
    assert TrialLedger(tmp_path / "new" / "folders" / "trials.jsonl").append([numbered(1)]) == 1
