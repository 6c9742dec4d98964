"""Budgets are judged as they read, and a benchmark that fails cannot look like one that passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import run
from tests.benchmarks.harness import (
    BenchmarkResult,
    SkipBenchmark,
    main,
    median_seconds,
    read_results,
    table,
)


def result(**fields: Any) -> BenchmarkResult:
    return BenchmarkResult(**({"name": "features", "value": 1.0, "unit": "bars/s"} | fields))


@pytest.mark.parametrize(
    ("value", "better", "verdict", "ok"),
    [
        (100.0, "higher", "pass", True),
        (101.0, "higher", "pass", True),
        (91.0, "higher", "near", True),
        (89.0, "higher", "MISS", False),
        (99.0, "lower", "pass", True),
        (109.0, "lower", "near", True),
        (111.0, "lower", "MISS", False),
    ],
)
def test_verdicts(value: float, better: str, verdict: str, ok: bool) -> None:
    one = result(value=value, budget=100.0, better=better, tolerance=0.1)
    assert (one.verdict, one.ok) == (verdict, ok)


def test_without_a_budget_a_figure_is_only_reported() -> None:
    assert result().ok
    assert result().verdict == "-"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": float("nan")}, "value of 'features' must be finite, was nan"),
        ({"budget": 0.0}, "budget of 'features' must be above 0, was 0.0"),
        ({"tolerance": 1.0}, r"tolerance of 'features' must be in \[0, 1\), was 1.0"),
    ],
)
def test_figures_that_prove_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        result(**fields)


def test_table_aligns_and_shows_the_budget() -> None:
    rows = [result(value=2_345_678.9, budget=2e6), result(name="stream", value=3.14159, unit="µs")]
    head, first, second = table(rows).splitlines()
    assert "budget" in head
    assert "2,345,679" in first
    assert "≥ 2,000,000" in first
    assert "pass" in first
    assert "3.14" in second
    assert first.index("bars/s") == second.index("µs")


def test_main_writes_what_read_results_reads(tmp_path: Path) -> None:
    rows = [result(budget=2.0, better="lower", note="warm"), result(name="µ")]
    lines = tmp_path / "results.jsonl"
    assert main(lambda: rows, ["--json", str(lines)]) == 0
    assert list(read_results(lines)) == rows


def test_main_exit_codes() -> None:
    def skips() -> list[BenchmarkResult]:
        raise SkipBenchmark("no data beside the project")

    assert main(lambda: [result(value=1.0, budget=2.0)], []) == 1
    assert main(skips, []) == 3
    with pytest.raises(ValueError, match="benchmark names must be unique, 'features' came twice"):
        main(lambda: [result(), result()], [])


def test_median_seconds_leaves_the_first_call_out() -> None:
    calls: list[int] = []
    assert median_seconds(lambda: calls.append(1), repeats=3) >= 0
    assert len(calls) == 4


MODULE = """
from tests.benchmarks.harness import BenchmarkResult, SkipBenchmark, main

def benchmarks():
    {body}

if __name__ == "__main__":
    raise SystemExit(main(benchmarks))
"""


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("yield BenchmarkResult(name='x', value=1.0, unit='s')", "ok"),
        ("yield BenchmarkResult(name='x', value=1.0, unit='s', budget=9.0)", "budget missed"),
        ("raise SkipBenchmark('no data')", "skipped"),
        ("raise ValueError('bug'); yield", "failed"),
        ("return; yield", "failed"),
    ],
)
def test_the_runner_tells_outcomes_apart(
    tmp_path: Path, root: Path, body: str, status: str
) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    module = folder / "bench_one.py"
    # `tests` itself must stay importable, whatever the folder that the module is run from.
    head = f"import sys; sys.path.insert(0, {str(root)!r})\n"
    module.write_text(head + MODULE.format(body=body), encoding="utf-8")
    assert run.discover(folder, ["one"]) == [module]
    assert run.run_module(module, root=tmp_path).status == status


def test_the_runner_refuses_an_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "bench_features.py").touch()
    with pytest.raises(SystemExit, match="no benchmark is called 'fetures'; there are: bench_fea"):
        run.discover(tmp_path, ["fetures"])


def test_the_report_holds_machine_and_verdicts(tmp_path: Path) -> None:
    runs = [run.ModuleRun("bench_one", "budget missed", 1.5, [result(value=1.0, budget=2.0)])]
    report = json.loads(run.write_report(runs, tmp_path / "bench").read_text(encoding="utf-8"))
    assert report["machine"]["cores"] >= 1
    assert report["modules"][0]["results"][0]["verdict"] == "MISS"
