"""The test exchange by hand: ``python -m tests.exchange --catalog C --instruments ...``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from catalog.errors import LeviBotError
from catalog.timestamps import parse_time
from strategies.execution import ExecutionConfig
from tests.exchange.runner import running_exchange
from tests.exchange.settings import COSTS, AccountKeys, ExchangeSettings


def main(arguments: list[str] | None = None) -> int:
    """Run an exchange until it is told to stop; print its URL first."""
    options = _parser().parse_args(arguments)
    try:
        settings = _settings(options)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(settings, options.port))
    except LeviBotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


async def _serve(settings: ExchangeSettings, port: int) -> None:
    end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end.set)
    async with running_exchange(settings, port=port) as server:
        print(server.url, flush=True)
        await end.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.exchange",
        description="A Binance USDT-M exchange on loopback, fed from a catalog.",
    )
    add = parser.add_argument
    add("--catalog", type=Path, required=True, help="folder of a catalog")
    add("--instruments", required=True, help="instrument ids, separated by commas")
    add(
        "--from",
        dest="start",
        required=True,
        help="where the market clock begins, such as 2025-01-01",
    )
    add("--until", help="where it ends; the end of the data otherwise")
    add("--interval", default="15m", help="length of the bars")
    add("--speed", default="1", help="market seconds in a second, or max, or lockstep")
    add("--hold-ms", type=float, default=250.0, help="how long an open waits after a close")
    add("--profile", help="whose costs; the shipped swing profile's otherwise")
    add("--account", action="append", help="name:key:secret[:balance], again for more accounts")
    add("--fill-parts", type=int, default=1, help="trades of a fill")
    add("--fee-asset", default="USDT", help="in what fees are charged: USDT or BNB")
    add("--partials", type=int, default=0, help="unfinished klines of a bar")
    add("--state", type=Path, help="folder of the truth log, from which it goes on")
    add("--weight-limit", type=int, default=2_400, help="request weight in a minute")
    add("--paused", action="store_true", help="wait for POST /control/resume")
    add("--port", type=int, default=0, help="0 for a free one")
    return parser


def _settings(options: argparse.Namespace) -> ExchangeSettings:
    costs = ExecutionConfig(**COSTS)
    if options.profile:
        from live.profile import load_profile

        costs = load_profile(options.profile).execution
    timed = options.speed not in ("max", "lockstep")
    return ExchangeSettings(
        catalog=options.catalog,
        instruments=tuple(options.instruments.split(",")),
        start=parse_time(options.start),
        end=parse_time(options.until) if options.until else None,
        interval=options.interval,
        accounts=tuple(map(_account, options.account or ["main:test-key:test-secret"])),
        mode="timed" if timed else options.speed,
        speed=float(options.speed) if timed else 1.0,
        hold_ms=options.hold_ms,
        fill_parts=options.fill_parts,
        fee_asset=options.fee_asset,
        partials=options.partials,
        state=options.state,
        paused=options.paused,
        weight_limit=options.weight_limit,
        execution=costs,
    )


def _account(text: str) -> AccountKeys:
    name, key, secret, *balance = text.split(":")
    return AccountKeys(name, key, secret, float(balance[0]) if balance else None)


if __name__ == "__main__":
    raise SystemExit(main())
