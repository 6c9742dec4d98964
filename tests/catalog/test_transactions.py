"""A catalog is always as before or as after: killed, out of space, or with two writers."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalog.errors import DataError, IntegrityError
from catalog.manifest import manifest_path
from catalog.records import Batch
from catalog.store import Catalog
from catalog.transactions import locked
from tests.catalog import killer
from tests.catalog.builders import BTC, BTC_15M, bars, every_kind, funding, news

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Return a catalog before the change, and the fingerprints of before and after."""
    folder = tmp_path_factory.mktemp("states")
    Catalog.open(folder / "before", create=True).ingest(killer.before())
    shutil.copytree(folder / "before", folder / "after")
    killer.write(folder / "after")
    before, after = (fingerprint(folder / name) for name in ("before", "after"))
    assert before != after
    return folder / "before", before, after


def fingerprint(path: Path) -> str:
    """Return all that a catalog says, through every way of reading it."""
    catalog = Catalog.open(path)
    found: dict[str, Any] = {"commit": catalog.manifest.sequence}
    for info in catalog.series():
        for choice in ("first", "latest"):
            rows = catalog.records(info.kind, info.series, vintage=choice)
            found[f"{info.series}/{choice}"] = {k: v.tolist() for k, v in rows.items()}
        found[f"{info.series}/restated"] = [
            str(x) for x in catalog.restated(info.kind, info.series)
        ]
    found["engine"] = [str(bar) for bar in catalog.nautilus_bars(BTC, "15m")]
    found["files"] = sorted(
        str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()
    )
    return json.dumps(found, sort_keys=True)


def kill(scenario: str, template: Path, folder: Path, step: int) -> dict[int, str]:
    """Make a folder of catalogs, each killed `step` calls later; return the calls by number."""
    command = [sys.executable, "-m", "tests.catalog.killer", scenario, str(template), str(folder)]
    done = subprocess.run(
        [*command, str(step)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *calls, last = done.stdout.splitlines()
    assert json.loads(last)["kills"] == len(calls)
    return {number * step: call for number, call in enumerate(calls)}


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_before_or_after(
    states: tuple[Path, str, str], tmp_path: Path, step: int
) -> None:
    template, before, after = states
    calls = kill("write", template, tmp_path, step)
    assert len(calls) > 40 // step
    if step == 1:
        assert {"fsync", "replace", "mkdir", "unlink"} <= set(calls.values())
    outcomes = []
    for number, call in calls.items():
        path = tmp_path / str(number)
        committed = manifest_path(path, 2).exists()
        outcome = fingerprint(path)
        assert outcome == (after if committed else before), (number, call)
        outcomes.append(committed)
    # First all kills leave the old state, from the commit on all leave the new one.
    assert outcomes == sorted(outcomes)
    assert 10 // step < sum(outcomes) < len(calls) - 10 // step
    assert fingerprint(tmp_path / str(max(calls) + step)) == after


@pytest.mark.slow
def test_what_a_kill_interrupted_can_be_imported_again(
    states: tuple[Path, str, str], tmp_path: Path
) -> None:
    template, _, after = states
    for number in kill("write", template, tmp_path, 6):
        path = tmp_path / str(number)
        killer.write(path)
        assert fingerprint(path) == after


@pytest.mark.slow
def test_a_kill_while_recovering_is_recovered_from(
    states: tuple[Path, str, str], tmp_path: Path
) -> None:
    template, _, after = states
    calls = kill("recover", template, tmp_path, 1)
    assert len(calls) > 10
    for number in range(len(calls) + 1):
        assert fingerprint(tmp_path / str(number)) == after


def test_a_reader_needs_no_recovery(
    states: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between commit and moving the files a reader that may not write sees the new state."""
    template, _, after = states
    kill("committed", template, tmp_path, 1)
    path = tmp_path / "committed"
    with (path / ".lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        catalog = Catalog.open(path)
        assert (path / "staging" / "00000002").is_dir()
        assert len(catalog.bars(BTC, "15m")) == 12
        monkeypatch.setattr("catalog.store.LOCK_TIMEOUT_SECS", 0.1)
        with pytest.raises(DataError, match="must have one writer at a time"):
            catalog.nautilus_bars(BTC, "15m")
    assert fingerprint(path) == after


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_at_any_write_changes_nothing(
    states: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    template, before, after = states
    path = tmp_path / "catalog"
    shutil.copytree(template, path)
    writes = 0

    def failing(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes == fatal:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    words = "the disk is full" if code == errno.ENOSPC else "Input/output error"
    for fatal in range(1, 100):
        writes = 0
        refusal = ""
        try:
            killer.write(path)
        except DataError as error:
            refusal = str(error)
        if not refusal:
            break
        assert words in refusal
        assert "Nothing was changed" in refusal
        assert fingerprint(path) == before, fatal
    else:
        pytest.fail("the write never succeeded")
    assert fatal > 10
    assert fingerprint(path) == after


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def large() -> Batch:
    """Return 20,000 bars that do not compress."""
    volume = np.round(np.random.default_rng(1).uniform(1, 1000, 20_000), 3)
    return bars(0, 20_000, source="large.csv", volume=volume)


def test_a_disk_that_is_really_full_changes_nothing(small_disk: Path) -> None:
    catalog = Catalog.open(small_disk / "catalog", create=True)
    catalog.ingest([bars(0, 200)])
    before = fingerprint(catalog.path)
    with pytest.raises(DataError, match=r"the disk is full\. Nothing was changed; free some space"):
        catalog.ingest([large()])
    assert fingerprint(catalog.path) == before
    catalog.ingest([bars(200, 100)])
    assert len(catalog.bars(BTC, "15m")) == 300


def test_a_limit_on_file_sizes_changes_nothing(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 100)])
    before = fingerprint(catalog.path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, hard))
    try:
        with pytest.raises(DataError, match=r"File too large\. Nothing was changed"):
            catalog.ingest([large()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fingerprint(catalog.path) == before


def test_a_second_writer_waits_and_then_says_who_writes(catalog: Catalog) -> None:
    with locked(catalog.path, 1.0):
        started = time.monotonic()
        with pytest.raises(
            DataError, match=rf"one writer at a time; process {os.getpid()} has been writing"
        ):
            catalog.ingest([bars()], lock_timeout_secs=0.2)
        assert time.monotonic() - started >= 0.2
    assert catalog.ingest([bars()], lock_timeout_secs=0.2).added == 8


def test_writers_in_turn_lose_nothing(catalog: Catalog) -> None:
    def work(first: int) -> None:
        for number in range(first, 40, 4):
            Catalog.open(catalog.path).ingest([bars(number * 4, 4, source=f"{number}")])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    catalog.refresh()
    assert len(catalog.bars(BTC, "15m")) == 160
    assert catalog.manifest.sequence == 40


def test_a_reader_follows_when_its_files_are_replaced(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    reader = Catalog.open(catalog.path)
    catalog.ingest([bars(8, 8)])
    assert reader.manifest.sequence == 1
    assert len(reader.bars(BTC, "15m")) == 16
    assert reader.manifest.sequence == 2


def test_readers_beside_a_writer_always_see_a_whole_state(catalog: Catalog) -> None:
    catalog.ingest([bars(0, 8)])
    stop = threading.Event()
    seen: set[int] = set()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                seen.add(len(Catalog.open(catalog.path).bars(BTC, "15m")))
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for number in range(1, 30):
        catalog.ingest([bars(8 * number, 8)])
    stop.set()
    for thread in readers:
        thread.join()
    assert failures == []
    assert seen <= {8 * number for number in range(1, 31)}
    assert len(seen) > 1


def test_rubbish_of_an_interrupted_writer_is_removed(catalog: Catalog) -> None:
    catalog.ingest([bars()])
    rubbish = catalog.path / "staging" / "00000002" / "data" / "bars" / "x.parquet"
    rubbish.parent.mkdir(parents=True)
    rubbish.write_bytes(b"half a file")
    torn = manifest_path(catalog.path, 2).with_suffix(".tmp")
    torn.write_bytes(b'{"sha')
    assert len(Catalog.open(catalog.path).bars(BTC, "15m")) == 8
    assert not (catalog.path / "staging").exists()
    assert not torn.exists()


def test_files_of_others_are_left_alone(catalog: Catalog) -> None:
    stranger = catalog.path / "data" / "quotes" / "X" / "y.parquet"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"not ours")
    catalog.ingest(every_kind())
    Catalog.open(catalog.path)
    assert stranger.read_bytes() == b"not ours"


@pytest.mark.parametrize("position", [5, 80, -10])
def test_a_changed_commit_record_is_noticed(catalog: Catalog, position: int) -> None:
    catalog.ingest([funding()])
    path = manifest_path(catalog.path, 1)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"commit record manifest/00000001\.json must be"):
        Catalog.open(catalog.path)


def test_a_catalog_of_a_newer_version_is_refused(catalog: Catalog) -> None:
    catalog.ingest([funding()])
    import catalog.manifest as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FORMAT", 2)
        manifest_path(catalog.path, 1).write_bytes(catalog.manifest.to_bytes())
    with pytest.raises(DataError, match="catalog format must be 1, was 2"):
        Catalog.open(catalog.path)


def test_the_commit_record_survives_a_round_trip(catalog: Catalog) -> None:
    catalog.ingest([*every_kind(), news(("x",), vintage="v", known_at=10**18)])
    again = type(catalog.manifest).from_bytes(catalog.manifest.to_bytes(), "x")
    assert dataclasses.asdict(again) == json.loads(json.dumps(dataclasses.asdict(again))) | (
        dataclasses.asdict(catalog.manifest)
    )
    assert again.find("bars", BTC_15M) is not None


def test_opening_says_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"catalog must be a folder made by .* which is absent"):
        Catalog.open(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="which holds none"):
        Catalog.open(tmp_path / "photos")
    with pytest.raises(DataError, match=r"must be a new or empty folder, .* which holds cat\.jpg"):
        Catalog.open(tmp_path / "photos", create=True)
    with pytest.raises(DataError, match="catalog must be a folder"):
        Catalog.open(tmp_path / "photos" / "cat.jpg", create=True)
    first = Catalog.open(tmp_path / "new" / "catalog", create=True)
    assert (first.is_stored, (tmp_path / "new").exists()) == (False, False)
    first.refresh()
    faulty = bars(0, 4, volume=np.full(4, -1.0))
    assert len(first.ingest([faulty]).refused) == 1
    assert not (tmp_path / "new").exists()
    assert first.ingest([bars(0, 4)]).added == 4
    assert first.is_stored
    assert Catalog.open(first.path, create=True).manifest == first.manifest
