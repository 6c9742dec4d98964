"""``python -m tests.soak``: many engines on the test exchange, while things go wrong."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from catalog.errors import LeviBotError
from tests.soak.run import SoakConfig, SoakReport, soak


def main(arguments: list[str] | None = None) -> int:
    """Run, print a table, write JSON; return 0 where every demand is met."""
    options = _parser().parse_args(arguments)
    config = SoakConfig(
        minutes=options.minutes,
        engines=options.engines,
        speed=options.speed,
        seed=options.seed,
        fault_every_s=options.fault_every,
        kill_every_s=options.kill_every,
        healthy_secs=options.healthy_after,
        uptime=options.uptime,
    )
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            report = soak(config, folder, lambda text: print(text, flush=True))
        except LeviBotError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report.write(options.out)
    print(table(report))
    print(f"written to {options.out}")
    return 1 if report.failures else 0


def table(report: SoakReport) -> str:
    """Return what was found, for people."""
    lines = [""]
    for name, one in report.figures.items():
        if isinstance(one, float):
            shown = f"{one:.2%}" if name.startswith("uptime") else f"{one:.2f}"
        elif isinstance(one, dict):
            shown = ", ".join(f"{key} {value}" for key, value in sorted(one.items()))
        else:
            shown = ", ".join(one) or "none" if isinstance(one, list) else str(one)
        lines.append(f"{name.replace('_', ' '):32} {shown}")
    lines += [
        "",
        f"{'engine':10} {'up s':>8} {'excused':>8} {'down':>8} {'idle':>8}  recoveries, s",
    ]
    for name, engine in report.engines.items():
        recovered = " ".join(f"{one:.1f}" for one in engine["recoveries_s"])
        times = (engine["up_s"], engine["excused_s"], engine["down_s"], engine["idle_s"])
        lines.append(f"{name:10} " + " ".join(f"{one:8.1f}" for one in times) + f"  {recovered}")
    lines += ["", *(f"  {one}" for one in report.differences[:40])]
    lines += [f"FAILED: {one}" for one in report.failures] or ["all demands are met"]
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="how long things go wrong")
    add("--engines", type=int, default=15, help="how many, at most 15")
    add("--speed", type=float, default=900.0, help="market seconds in a second")
    add("--seed", type=int, default=1, help="of what goes wrong")
    add("--fault-every", type=float, default=20.0, help="mean seconds between two faults; 0: none")
    add("--kill-every", type=float, default=45.0, help="mean seconds between two kills; 0: none")
    add("--healthy-after", type=float, default=60.0, help="of the supervisor, seconds")
    add("--uptime", type=float, default=0.99, help="least share of time in which engines trade")
    add("--keep", type=Path, help="new folder for market, state and logs; else they are removed")
    add("--out", type=Path, default=Path("runs/soak/soak.json"), help="where JSON is written")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
