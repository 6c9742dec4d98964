"""The folder that a run leaves behind: written whole or not at all, and repeatable from itself.

================  ==================================================================
profile.yaml      the complete profile, defaults written out
run.json          command, provenance and the SHA-256 of every table
*.parquet         predictions, decisions, orders, fills, positions, funding, equity
market.parquet    what the tearsheet shows of the market: prices thinned, benchmarks
bundle/           only where the run fitted a bundle
metrics.json      the numbers, for programs (an interface: its keys are stable)
tearsheet.html    the same for people
================  ==================================================================
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib.metadata
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from catalog.errors import ConfigError, DataError, IntegrityError

if TYPE_CHECKING:
    import pandas as pd

METRICS_FILE = "metrics.json"
RUN_FILE = "run.json"
PROFILE_FILE = "profile.yaml"
PREDICTIONS_FILE = "predictions.parquet"
TEARSHEET_FILE = "tearsheet.html"
MARKET_FILE = "market.parquet"
"""What a page shows of the market (`research.market_view`), since a run keeps no bars."""
TABLES = ("decisions", "orders", "fills", "positions", "funding", "equity", "guard")
"""The frames of a replay that are saved, each as NAME.parquet."""
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # glibc, malloc.h
_PACKAGES = ("catalog", "adapters", "research", "strategies", "live")


class Stopwatch:
    """Seconds spent by stage, for `metrics.json`; memory that a stage is done with goes back."""

    def __init__(self) -> None:
        keep_large_blocks_apart()
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time spent inside under `name`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            release_memory()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - before

    def total(self) -> dict[str, float]:
        """Return the seconds by stage and their ``total`` since the start, to milliseconds."""
        found = {name: round(spent, 3) for name, spent in self.seconds.items()}
        return {**found, "total": round(time.perf_counter() - self._started, 3)}


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def keep_large_blocks_apart() -> None:
    """Let every block above a megabyte go back to the system at the moment when it is freed.

    Left alone, glibc raises that limit up to 32 MB as it goes, and small blocks that outlive
    large ones then keep the room of both: a sixth of a run's memory. Others have no such limit.
    """
    if (set_option := _allocator("mallopt")) is not None:
        set_option(_M_MMAP_THRESHOLD, 1 << 20)
        # One arena for all threads: each of their own would keep what its thread once needed.
        set_option(_M_ARENA_MAX, 1)


def release_memory() -> None:
    """Give memory that is free, but kept by its allocators for later, back to the system.

    Between stages, so that what one stage needed for a while does not add to the next one's.
    """
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    if (trim := _allocator("malloc_trim")) is not None:
        trim(0)


def _allocator(name: str) -> Callable[..., int] | None:
    """Return a function of glibc's allocator; None where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


@cache
def code_version() -> str:
    """Return the version and the hash of the sources, such as ``0.1.0+3f9c2a7b41de``."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return f"{importlib.metadata.version('levibot')}+{digest.hexdigest()[:12]}"


@contextlib.contextmanager
def run_folder(out: Path, *, overwrite: bool = False, marker: str = RUN_FILE) -> Iterator[Path]:
    """Give a temporary folder that becomes `out` at the end, or vanishes if anything fails.

    Raises
    ------
    ConfigError
        If `out` exists and is not a run that may be overwritten: see `check_free`.
    """
    check_free(out, overwrite=overwrite, marker=marker)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    _remove_abandoned(out)
    staging.mkdir()
    try:
        yield staging
        _replace(staging, out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def check_free(out: Path, *, overwrite: bool, marker: str = RUN_FILE) -> None:
    """Refuse an output folder that would lose something or cannot be made, before any work.

    Only a folder that holds the file `marker`, by which one of its kind is known, is replaced.
    """
    if not out.exists():
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {out} cannot be made: {error.strerror}") from error
        if not os.access(out.parent, os.W_OK):
            raise ConfigError(f"--out {out} cannot be made: {out.parent} is not writable")
        return
    if not overwrite:
        raise ConfigError(
            f"--out must be a new folder, {out} exists; choose another or add --overwrite"
        )
    if not (out / marker).is_file():
        raise ConfigError(
            f"--overwrite replaces runs only, and {out} is not one (it has no {marker})"
        )


def write_tables(folder: Path, frames: dict[str, pd.DataFrame]) -> None:
    """Write the frames of a replay as Parquet."""
    for name in TABLES:
        frames[name].to_parquet(folder / f"{name}.parquet", index=False)


def write_json(path: Path, payload: Any) -> None:
    """Write canonical JSON; numbers that are not finite become null."""
    text = json.dumps(finite(payload), indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """Return a JSON value in which every number that is not finite is None."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def table_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every table of a run, by file name."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*.parquet"))
    }


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the profile, the numbers and every table of a run, by file name."""
    texts = (folder / name for name in (PROFILE_FILE, METRICS_FILE))
    return table_hashes(folder) | {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in texts if path.is_file()
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Return a run's record, after checking that its files are what it says.

    Raises
    ------
    DataError
        If the folder is not a run.
    IntegrityError
        Naming the files that were changed since.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        raise DataError(f"{folder} must be a run's folder, but has no {RUN_FILE}")
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    found = file_hashes(folder)
    differing = [name for name, digest in record["files"].items() if found.get(name) != digest]
    if differing:
        raise IntegrityError(
            f"run {folder} must be as it was written, but {', '.join(differing)} changed or is "
            "missing; run it again"
        )
    return record


def _remove_abandoned(out: Path) -> None:
    """Remove what killed runs of the same name left behind; a living one keeps its folder."""
    for path in out.parent.glob(f".{out.name}.*.partial"):
        pid = path.name.removesuffix(".partial").rpartition(".")[2]
        if pid == str(os.getpid()) or not (pid.isdigit() and psutil.pid_exists(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _replace(staging: Path, out: Path) -> None:
    """Put the finished folder in place; an old run goes only once the new one is complete."""
    if not out.exists():
        staging.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    out.rename(old)
    try:
        staging.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
