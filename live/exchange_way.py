"""The third way of parity: an engine on the test exchange, through the compiled adapter.

The exchange and the engine are processes of their own. The exchange is a part of the tests, which
no installed package has: this works from a checkout only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.errors import ConfigError, RunFailedError
from catalog.progress import Progress, no_progress
from catalog.timestamps import NS_PER_HOUR, format_time
from live.engine_parts import STATE_FILE
from live.exchange_plan import NodePlan
from live.journal_frames import ToldRows, journal_frames
from live.profile import Profile, dump_profile
from research.bundle import save_bundle
from research.fitted import FittedModel
from strategies.execution import InstrumentTerms
from strategies.fusion import FUNDING_NS
from strategies.outcome import RunFrames
from strategies.replay_data import ReplayInputs

UNKNOWN = ("reference_price", "slippage_cost")
"""What no exchange tells: the price before slippage, and what follows from it."""

_ROOT = Path(__file__).resolve().parents[1]
_NAME = "parity"
_START_S = 60.0
_KILLED = -9
_VARIABLES = ("BINANCE_", "LEVIBOT_")
_KEYS = {"BINANCE_TESTNET_API_KEY": "test-key", "BINANCE_TESTNET_API_SECRET": "test-secret"}


@dataclass(frozen=True, slots=True)
class Interruptions:
    """Closes at which something breaks, UTC nanoseconds; 0 for none.

    Parameters
    ----------
    drop_at : int
        Its bars find every socket of the engine cut: they have to be fetched.
    kill_at : int
        With its orders on their way the engine's process is killed; another goes on from its state.
        Before `drop_at`.
    """

    drop_at: int = 0
    kill_at: int = 0


@dataclass(frozen=True, slots=True)
class ExchangeRun:
    """What came of it.

    Parameters
    ----------
    frames : RunFrames
        As of any run; columns `UNKNOWN` hold nothing.
    facts : mapping of str to int
        Steps of the market, lives of the engine, outages, reconnects, bars that were fetched.
    cash : mapping of str to float
        By who says it, USDT: exchange, engine, and the fills and settlements booked anew.
    """

    frames: RunFrames
    facts: Mapping[str, int]
    cash: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ExchangeWay:
    """What is run.

    Parameters
    ----------
    profile : Profile
        Strategy and costs.
    catalog : Path
        The market.
    model : FittedModel
        Who predicts.
    inputs : ReplayInputs
        What backtest and paper node replay.
    span : (start, end)
        UTC nanoseconds.
    """

    profile: Profile
    catalog: Path
    model: FittedModel
    inputs: ReplayInputs
    span: tuple[int, int]

    def run(
        self, interruptions: Interruptions | None = None, progress: Progress = no_progress
    ) -> ExchangeRun:
        """Let an engine trade the span on the test exchange.

        Raises
        ------
        ConfigError
            If there is no checkout, or the profile needs what the exchange does not have.
        RunFailedError
            If exchange or engine fail, or an interruption did not happen.
        """
        self._require_able()
        with tempfile.TemporaryDirectory(prefix="levibot-parity-") as folder:
            return self._run(Path(folder), interruptions or Interruptions(), progress)

    def _require_able(self) -> None:
        require_checkout()
        if self.profile.strategy.risk is None:
            raise ConfigError(
                "an engine on an exchange must have a risk policy, the profile has none: name its "
                "file as risk: in the profile's strategy"
            )
        slow = self.inputs.slow
        if more := (*slow.series, *slow.flow, *slow.minutes):
            raise ConfigError(
                f"the test exchange carries bars and funding only, the profile's features also "
                f"need {', '.join(more)}: compare the other two ways without --exchange"
            )

    def _run(self, folder: Path, breaks: Interruptions, progress: Progress) -> ExchangeRun:
        profile = folder / "profile.yaml"
        profile.write_text(dump_profile(self.profile), encoding="utf-8")
        bundle = folder / "bundle"
        save_bundle(bundle, self.model, profile=self.profile.model_dump(mode="json"))
        with _exchange(self, profile) as url:
            plan = NodePlan(
                profile=str(profile),
                bundle=str(bundle),
                catalog=str(self.catalog.absolute()),
                state=str(folder / "state"),
                url=url,
                name=_NAME,
                rows=str(folder / "rows.jsonl"),
                start=self.span[0],
                interval_ns=self.inputs.bars[0].interval_ns,
                drop_at=breaks.drop_at,
                kill_at=breaks.kill_at,
            )
            lives = self._lives(plan, folder, progress)
            account = _asked(url, "accounts")["main"]
        journal = folder / "state" / "engines" / _NAME / STATE_FILE
        terms = {one.instrument_id: one for one in map(InstrumentTerms.of, self.inputs.instruments)}
        told = ToldRows.read(Path(plan.rows))
        frames, booked = journal_frames(
            journal, told, self.inputs.bars, terms, self.profile.execution
        )
        last = lives[-1]
        facts = {"steps": last["steps"], "lives": len(lives)}
        facts |= {
            name: sum(one[name] for one in lives if one)
            for name in ("outages", "reconnects", "backfilled")
        }
        cash = {"exchange": account["cash"], "engine": last["cash"], "booked anew": booked}
        _require_broken(breaks, facts)
        return ExchangeRun(frames, facts, cash)

    def _lives(self, plan: NodePlan, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Run the engine; where it is to be killed, once more. An empty dict stands for a death."""
        found = []
        if plan.kill_at:
            found.append(self._life(plan, folder, progress))
            plan = replace(plan, kill_at=0)
        found.append(self._life(plan, folder, progress))
        return found

    def _life(self, plan: NodePlan, folder: Path, progress: Progress) -> dict[str, Any]:
        path = folder / "plan.json"
        path.write_text(plan.to_json(), encoding="utf-8")
        process = _started("tests.exchange.parity_node", str(path))
        assert process.stdout is not None
        result: dict[str, Any] = {}
        rest = []
        with process:
            for line in process.stdout:
                if line.startswith("RESULT "):
                    result = json.loads(line[7:])
                elif line.startswith("AT "):
                    done = int(line[3:]) - self.span[0]
                    bars = max(done, 0) // plan.interval_ns
                    progress("exchange", bars, (self.span[1] - self.span[0]) // plan.interval_ns)
                else:
                    rest.append(line)
        if plan.kill_at and process.returncode == _KILLED and not result:
            return {}
        if not result or result["code"] or result["failed"] or result["errors"]:
            said = result or {"code": process.returncode}
            raise RunFailedError(
                f"the engine on the test exchange must trade the whole span, but ended: "
                f"{said} {''.join(rest[-20:])}"
            )
        return result


def require_checkout() -> None:
    """Raise where there is no test exchange.

    Raises
    ------
    ConfigError
        Saying what to do.
    """
    if not (_ROOT / "tests" / "exchange" / "__main__.py").is_file():
        raise ConfigError(
            "--exchange must run in a checkout of the project, because the test exchange "
            "(tests/exchange) is a part of its tests and of no installed package: clone it, "
            "`make setup`, and run .venv/bin/levibot there; or leave --exchange out"
        )


def interruptions(run: RunFrames, span: tuple[int, int]) -> Interruptions:
    """Choose where an engine is killed and where its sockets are cut: where it orders something.

    Parameters
    ----------
    run : RunFrames
        The backtest's.
    span : (start, end)
        The audited span. The process is killed after about a third of it, the sockets are cut after
        about two thirds.

    Raises
    ------
    ConfigError
        If it orders something at fewer than two closes.
    """
    start, end = span
    decisions = run.decisions
    sent = decisions.loc[decisions["client_order_id"] != "", "ts_init"].to_numpy(dtype=np.int64)
    closes = np.unique(sent)
    # The stream tells when the next settlement is due: not what is missed at that very time.
    calm = closes[(closes % FUNDING_NS != 0) & (closes % FUNDING_NS < FUNDING_NS - NS_PER_HOUR)]
    # Where a stop is hit, bars of one close come one after the other, with events between them.
    calm = calm[~np.isin(calm, run.fills["ts_event"].to_numpy(dtype=np.int64))]
    if len(calm) < 2:
        raise ConfigError(
            f"an interrupted run must order something at two closes or more, from "
            f"{format_time(start)} to {format_time(end)} it was {len(calm)}: take a longer span"
        )
    # The last is left for the sockets: what a killed process went through, it can tell nobody.
    kill = calm[np.argmin(np.abs(calm[:-1] - (start + (end - start) // 3)))]
    rest = calm[calm > kill]
    drop = rest[np.argmin(np.abs(rest - (start + (end - start) * 2 // 3)))]
    return Interruptions(drop_at=int(drop), kill_at=int(kill))


def _require_broken(breaks: Interruptions, facts: Mapping[str, int]) -> None:
    wanted = {"outages": 1, "reconnects": 1, "backfilled": 1} if breaks.drop_at else {}
    wanted |= {"lives": 2} if breaks.kill_at else {}
    short = [name for name, count in wanted.items() if facts[name] < count]
    if short:
        raise RunFailedError(
            f"an interrupted run must show {', '.join(short)}, but shows none: {dict(facts)}"
        )


@contextmanager
def _exchange(way: ExchangeWay, profile: Path) -> Iterator[str]:
    """Run the test exchange; yield its address."""
    start, end = way.span
    names = ",".join(str(one.id) for one in way.inputs.instruments)
    process = _started(
        "tests.exchange",
        *("--catalog", str(way.catalog.absolute()), "--instruments", names),
        *("--from", format_time(start), "--until", format_time(end)),
        *("--interval", way.profile.data.interval, "--profile", str(profile)),
        *("--speed", "lockstep"),
    )
    assert process.stdout is not None
    with process:
        try:
            url = process.stdout.readline().strip()
            if not url.startswith("http://"):
                raise RunFailedError(
                    f"the test exchange must start, ended: {url}{process.stdout.read()}"
                )
            yield url
        finally:
            process.terminate()


def _started(module: str, *arguments: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(_VARIABLES)}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env={**clean, **_KEYS},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _asked(url: str, what: str) -> Any:
    import requests

    return requests.get(f"{url}/control/{what}", timeout=_START_S).json()
