"""Run every benchmark, one module after the other, and judge them against their budgets.

``python -m tests.benchmarks.run [NAME ...] [--out FOLDER]``: NAME selects modules whose file name
holds it. Writes ``bench.json`` (machine, results) and exits 1 when a budget is missed by more than
its tolerance or a module fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.harness import BenchmarkResult, machine, read_results, table

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SKIPPED = 3


@dataclass
class ModuleRun:
    """What became of one benchmark module."""

    module: str
    status: str  # "ok", "budget missed", "skipped" or "failed"
    seconds: float
    results: list[BenchmarkResult] = field(default_factory=list)


def discover(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the benchmark modules of a folder, sorted; `names` select by part of the name.

    Raises
    ------
    SystemExit
        If a name matches none.
    """
    modules = sorted(folder.glob("bench_*.py"))
    for name in names:
        if not any(name in module.stem for module in modules):
            known = ", ".join(module.stem for module in modules) or "none"
            raise SystemExit(f"no benchmark is called {name!r}; there are: {known}")
    return [module for module in modules if not names or any(name in module.stem for name in names)]


def run_module(path: Path, root: Path = ROOT) -> ModuleRun:
    """Run one module in a process of its own."""
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    print(f"{path.stem}", file=sys.stderr, flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "results.jsonl"
        lines.touch()
        command = [sys.executable, "-m", name, "--json", str(lines)]
        code = subprocess.run(command, cwd=root, check=False).returncode
        results = list(read_results(lines))
    status = {0: "ok", 1: "budget missed", SKIPPED: "skipped"}.get(code, "failed")
    # A traceback also ends with 1: then no result explains it.
    if code == 1 and all(result.ok for result in results):
        status = "failed"
    # A module that measured nothing proves nothing.
    if code == 0 and not results:
        status = "failed"
    return ModuleRun(path.stem, status, round(time.perf_counter() - start, 2), results)


def write_report(runs: Sequence[ModuleRun], out: Path) -> Path:
    """Write machine and results as JSON and return the file."""
    out.mkdir(parents=True, exist_ok=True)
    report = {
        "measured": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "modules": [
            asdict(run)
            | {"results": [asdict(row) | {"verdict": row.verdict} for row in run.results]}
            for run in runs
        ],
    }
    target = out / "bench.json"
    partial = target.with_suffix(".tmp")
    partial.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; return the exit code."""
    parser = argparse.ArgumentParser(description="Run the benchmarks against their budgets.")
    parser.add_argument("names", nargs="*", help="part of the name of the modules to run")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bench")
    options = parser.parse_args(arguments)
    runs = [run_module(path) for path in discover(FOLDER, options.names)]
    rows = [row for run in runs for row in run.results]
    print(table(rows) if rows else "no benchmark gave a result")
    for run in runs:
        if run.status in ("skipped", "failed"):
            print(f"{run.module}: {run.status}")
    about = machine()
    print(f"{about['cores']} cores, {about['cpu']}, Python {about['python']}")
    report = write_report(runs, options.out)
    print(f"written to {report.relative_to(ROOT) if report.is_relative_to(ROOT) else report}")
    return 1 if any(run.status in ("failed", "budget missed") for run in runs) else 0


if __name__ == "__main__":
    raise SystemExit(main())
