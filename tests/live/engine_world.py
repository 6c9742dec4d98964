"""Engines as they are run: `levibot live run` in processes of its own, beside a test exchange."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from live.engine_status import EngineStatus
from live.profile import dump_profile
from live.registry import Registry
from research.bundle import save_bundle
from tests.exchange.runner import ExchangeProcess
from tests.live.feed_market import UNTIL, FeedMarket

ROOT = Path(__file__).parents[2]
RISK = ROOT / "live" / "risk_policy.yaml"
KEYS = {
    f"BINANCE_{which}{name}": f"test-{name.rpartition('_')[2].lower()}"
    for which in ("", "TESTNET_")
    for name in ("API_KEY", "API_SECRET")
}
ENGINE = "synthetic"
BUSY = {
    "entry_threshold": 0.502,
    "exit_threshold": 0.5,
    "min_holding_bars": 0,
    "stop_loss_frac": 0.004,
    "position_frac": 0.05,
}


@dataclass
class EngineMarket:
    """A made-up market, a bundle trained on its first part, and a profile with a risk policy."""

    folder: Path
    market: FeedMarket
    profile: Path
    bundle: Path

    @classmethod
    def make(cls, folder: Path, *, busy: bool = False) -> Self:
        """Make all of it; a `busy` engine trades at most closes and is often stopped out."""
        # Bar by bar a model changes its mind more often than about the next four hours.
        market = FeedMarket.make(folder, *(("label.horizon_bars=1",) if busy else ()))
        risk = yaml.safe_load(RISK.read_text(encoding="utf-8"))
        risk |= {"found_groups": None, "sizing": {}, "correlation_groups": {}}
        risk |= {"rebalance": None, "max_symbol_share": 1.0, "max_daily_loss": 0.5}
        # Four seconds of silence are an hour of data at 900 seconds a second.
        risk |= {"max_drawdown": 0.5, "max_consecutive_losses": 1_000}
        risk |= {"max_data_age_secs": 86_400.0}
        content = yaml.safe_load(dump_profile(market.profile))
        content["strategy"] |= {"risk": risk, "entry_threshold": 0.53, "position_frac": 0.1}
        if busy:
            content["strategy"] |= BUSY
            risk["max_rejected_orders"] = 1_000
        profile = folder / "engine.yaml"
        profile.write_text(yaml.safe_dump(content), encoding="utf-8")
        bundle = folder / "bundle"
        save_bundle(bundle, market.model, profile=market.profile.model_dump(mode="json"))
        return cls(folder, market, profile, bundle)

    def exchange(self, *arguments: str, start: str = "2024-01-26", speed: str = "900") -> Any:
        """Return a test exchange that plays the part which the model has not seen."""
        assert start > "2024-01-24", UNTIL
        return ExchangeProcess(
            (
                *("--catalog", str(self.market.catalog), "--from", start, "--speed", speed),
                *("--instruments", ",".join(self.market.profile.data.instruments)),
                *("--profile", str(self.profile), *arguments),
            )
        )


@dataclass
class EngineProcess:
    """One `levibot live run`.

    Parameters
    ----------
    market : EngineMarket
        Profile, bundle and catalog.
    state : Path
        The state folder.
    arguments : tuple of str
        More options.
    name : str
        Of the engine, as the options say.
    """

    market: EngineMarket
    state: Path
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    name: str = ENGINE
    process: subprocess.Popen[str] | None = None

    def start(self) -> Self:
        command = [
            *(sys.executable, "-m", "live.cli", "live", "run"),
            *("--profile", str(self.market.profile), "--bundle", str(self.market.bundle)),
            *("--catalog", str(self.market.market.catalog), "--state", str(self.state)),
            *self.arguments,
        ]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BINANCE", "LEVIBOT"))}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean, "OMP_NUM_THREADS": "1", **KEYS, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self

    def status(self) -> EngineStatus | None:
        """Return what the engine said last; None before its node runs."""
        path = self.state / "registry.db"
        if not path.exists():
            return None
        registry = Registry(path)
        try:
            found = registry.status(self.name)
        finally:
            registry.close()
        own = self.process is not None and found is not None and found.pid == self.process.pid
        return found if own and found.state != "starting" else None

    def until(self, what: Callable[[EngineStatus], Any], words: str, secs: float = 120.0) -> float:
        """Wait until the engine's status shows something; return the seconds that it took."""
        began = time.monotonic()
        while True:
            found = self.status()
            if found is not None and what(found):
                return time.monotonic() - began
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() - began > secs:
                raise AssertionError(f"{words} did not come true: {found}\n{self.output()}")
            time.sleep(0.05)

    def output(self) -> str:
        """End the process if it has not ended, and return what it printed."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
        return self.process.communicate(timeout=60)[0]

    def kill(self) -> None:
        """End it as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.communicate(timeout=60)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it in order; return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        text = self.process.communicate(timeout=90)[0]
        assert "Traceback" not in text, text
        return self.process.returncode

    def wait(self, secs: float = 240.0) -> tuple[int, str]:
        """Wait for its end; return exit code and output."""
        assert self.process is not None
        text = self.process.communicate(timeout=secs)[0]
        return self.process.returncode, text

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.output()
        if self.process is not None and self.process.stdout is not None:
            # Also of one that has ended by itself, whose output nobody has asked for.
            self.process.stdout.close()

    # ---- what it left

    def journal(self) -> dict[str, tuple[str, str, float]]:
        """Return the orders of its journal: state, status and what was filled, by name."""
        with sqlite3.connect(self.state / "engines" / self.name / "engine.db") as db:
            rows = db.execute("SELECT client_order_id, state, status, filled_quantity FROM orders")
            return {name: (state, status, filled) for name, state, status, filled in rows}

    def log(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the lines of its log, of some kinds."""
        lines = []
        for path in sorted((self.state / "logs").glob("*.jsonl")):
            # The last line may just be written.
            whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
            lines += [json.loads(line) for line in whole.splitlines()]
        return [one for one in lines if one["kind"] in kinds]
