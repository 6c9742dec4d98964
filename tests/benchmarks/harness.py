"""What a benchmark is, how it is judged, and how it is printed.

A benchmark lives in ``tests/benchmarks/bench_NAME.py``, which needs two things::

    from collections.abc import Iterator

    from tests.benchmarks.harness import BenchmarkResult, main, median_seconds

    def benchmarks() -> Iterator[BenchmarkResult]:
        seconds = median_seconds(lambda: compute(panel), repeats=5)
        yield BenchmarkResult(
            name="batch features",
            value=n_bars / seconds,
            unit="bars/s",
            budget=2_000_000,
            better="higher",
            tolerance=0.1,
            note="3 symbols, one core, warm",
        )

    if __name__ == "__main__":
        raise SystemExit(main(benchmarks))

``make bench`` runs every module in a process of its own, one after the other, so that one's memory
and kernels do not help or hurt the next; ``python -m tests.benchmarks.bench_NAME`` runs one alone.
Each result is printed as soon as it is yielded. Raise `SkipBenchmark` where the input is absent.

A budget is a promise for 2 idle cores. Put the noise that you measured into `tolerance`, prefer
ratios taken in one process to absolute figures, and state cold or warm in `note`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal


class SkipBenchmark(Exception):
    """A benchmark cannot run here, such as for want of the shared data; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """One measured figure and what was promised.

    Parameters
    ----------
    name : str
        What was measured, unique within the module, such as ``batch features``.
    value : float
        The figure, in `unit`.
    unit : str
        Such as ``bars/s``, ``µs/bar``, ``s``, ``MB`` or ``ratio``.
    budget : float or None
        The figure promised, in `unit`; None for a figure that is only reported.
    better : {"higher", "lower"}
        Which way is good; `value` must be at least, or at most, `budget`.
    tolerance : float
        How far, as a fraction of the budget, it may be missed before the run fails.
    note : str
        Conditions: size of the input, cores, cold or warm.
    """

    name: str
    value: float
    unit: str
    budget: float | None = None
    better: Literal["higher", "lower"] = "higher"
    tolerance: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"value of {self.name!r} must be finite, was {self.value}")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget of {self.name!r} must be above 0, was {self.budget}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"tolerance of {self.name!r} must be in [0, 1), was {self.tolerance}")

    @property
    def met(self) -> bool:
        """Whether the budget itself is kept (true without one)."""
        return self._within(0.0)

    @property
    def ok(self) -> bool:
        """Whether the budget is kept within the tolerance (true without one)."""
        return self._within(self.tolerance)

    @property
    def verdict(self) -> str:
        """How the table calls it: ``pass``, ``near`` (missed within the tolerance), ``MISS``."""
        if self.budget is None:
            return "-"
        return "pass" if self.met else "near" if self.ok else "MISS"

    def _within(self, slack: float) -> bool:
        if self.budget is None:
            return True
        if self.better == "higher":
            return self.value >= self.budget * (1 - slack)
        return self.value <= self.budget * (1 + slack)


def median_seconds(
    function: Callable[[], object], *, repeats: int = 5, warm_up: bool = True
) -> float:
    """Return the median wall time of `repeats` calls, after one that is not counted (warm)."""
    if warm_up:
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_memory_mb() -> float:
    """Return the most memory that this process has held so far, in MB (10^6 bytes, resident)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    packages = {}
    for name in ("levibot", "nautilus_trader", "numba", "numpy", "lightgbm", "pyarrow"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "load_1m": round(os.getloadavg()[0], 2),
        "packages": packages,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def table(rows: Sequence[BenchmarkResult]) -> str:
    """Return results as an aligned table."""
    head = ("benchmark", "value", "unit", "budget", "", "note")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    return "\n".join(_align(line, widths) for line in cells)


def run(
    benchmarks: Callable[[], Iterable[BenchmarkResult]],
    report: Callable[[BenchmarkResult], None],
) -> list[BenchmarkResult]:
    """Run a module's benchmarks, handing each result to `report` as it comes."""
    results: list[BenchmarkResult] = []
    for result in benchmarks():
        if any(result.name == other.name for other in results):
            raise ValueError(f"benchmark names must be unique, {result.name!r} came twice")
        results.append(result)
        report(result)
    return results


def main(
    benchmarks: Callable[[], Iterable[BenchmarkResult]], arguments: Sequence[str] | None = None
) -> int:
    """Run one module as a program: print its table, write JSON lines if asked, return the code.

    Returns
    -------
    int
        0 when every budget is kept within its tolerance, 1 when one is missed, 3 when skipped.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--json", type=Path, help="append each result to this file, one a line")
    options = parser.parse_args(arguments)

    def report(result: BenchmarkResult) -> None:
        print(f"  {result.name}: {number(result.value)} {result.unit}", file=sys.stderr, flush=True)
        if options.json:
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")

    try:
        results = run(benchmarks, report)
    except SkipBenchmark as reason:
        print(f"  skipped: {reason}", file=sys.stderr)
        return 3
    if not options.json:
        print(table(results))
    return 0 if all(result.ok for result in results) else 1


def read_results(path: Path) -> Iterator[BenchmarkResult]:
    """Yield the results that `main` wrote to a JSON-lines file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield BenchmarkResult(**json.loads(line))


def number(value: float) -> str:
    """Return a figure with no more digits than a timing supports."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cells(row: BenchmarkResult) -> tuple[str, ...]:
    sign = "≥" if row.better == "higher" else "≤"
    budget = "" if row.budget is None else f"{sign} {number(row.budget)}"
    return (row.name, number(row.value), row.unit, budget, row.verdict, row.note)


def _align(line: Sequence[str], widths: Sequence[int]) -> str:
    right_aligned = {1, 3}
    parts = [
        cell.rjust(width) if column in right_aligned else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
