"""`levibot live run`: one engine in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from live.console import emit, out, tell, user_errors
from live.options import JsonOption, ProfileOption, SetOption

if TYPE_CHECKING:
    from live.engine import Outcome
    from live.engine_request import EngineRequest

MODES = ("paper", "testnet", "live")


def run(
    profile: ProfileOption,
    bundle: Annotated[Path, typer.Option(help="Bundle that predicts (`levibot train`).")],
    mode: Annotated[str, typer.Option(help="paper, testnet or live.")] = "paper",
    symbols: Annotated[
        str | None, typer.Option(help="What to trade, such as BTCUSDT,ETHUSDT; else all.")
    ] = None,
    state: Annotated[Path, typer.Option(help="State folder of the engines.")] = Path("state"),
    name: Annotated[str | None, typer.Option(help="The engine's name; else its symbol.")] = None,
    catalog: Annotated[
        Path | None, typer.Option("--catalog", "-c", help="History; the exchange has the rest.")
    ] = None,
    exchange: Annotated[
        str | None, typer.Option(help="Another server of the venue's protocol, such as a test's.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="Settings of the slow inputs: news, other addresses.")
    ] = None,
    replay: Annotated[
        str | None, typer.Option(help="Recorded data instead, such as 2025-01-01..2025-02-01.")
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(help="Of recorded data, here or on --exchange: seconds a second, or max."),
    ] = None,
    equity: Annotated[float | None, typer.Option(help="USDT it may count as its own.")] = None,
    claim: Annotated[
        bool | None,
        typer.Option(
            "--claim/--no-claim",
            help="Take over positions that the account already holds; else as the profile says.",
        ),
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Trade: on paper from a feed or a recording, on a testnet, or with money."""
    with user_errors():
        from catalog.errors import ConfigError
        from live.engine import publish_failure, run_engine
        from live.engine_request import (
            EngineRequest,
            chosen_instruments,
            engine_name,
            parse_replay,
            parse_speed,
        )
        from live.profile import load_profile
        from live.profile_watch import ProfileSource
        from live.stop_signals import end_at_hangup

        end_at_hangup()
        if mode not in MODES:
            raise ConfigError(f"--mode must be one of {', '.join(MODES)}, was {mode!r}")
        settings = load_profile(profile, set_ or ())
        traded = chosen_instruments(settings, symbols)
        request = EngineRequest(
            profile=settings,
            bundle=bundle,
            state=state,
            traded=traded,
            mode=mode,  # type: ignore[arg-type]
            name=name or engine_name(traded, settings),
            catalog=catalog,
            exchange=exchange,
            inputs=inputs,
            replay=None if replay is None else parse_replay(replay, speed or "max"),
            equity=equity,
            source=ProfileSource(profile, tuple(set_ or ())),
            speed=parse_speed(speed or "1"),
            claims=settings.live.claim if claim is None else claim,
        )
        _warn(request)
        try:
            outcome = run_engine(request, lambda ended: _tell(ended, json))
        except Exception as error:
            publish_failure(request, error)
            raise
        _tell(outcome, json)
        if outcome.code:
            raise typer.Exit(outcome.code)


def _warn(request: EngineRequest) -> None:
    """Say what is about to be risked, before it is."""
    if request.mode == "paper":
        tell("paper: no order reaches an exchange")
        return
    request.order_connection()
    tell(request.at_risk())


def _tell(outcome: Outcome, json: bool) -> None:
    """Say how an engine ended."""
    emit(outcome.status.to_dict(), json, lambda: _show(outcome))
    if outcome.code:
        tell(f"failed: {outcome.reason}")


def _show(outcome: Outcome) -> None:
    status = outcome.status
    equity = "unknown" if status.equity is None else f"{status.equity:,.2f} USDT"
    counts = status.counters
    out.print(
        f"engine {status.engine} {outcome.reason}: equity {equity}, {counts.bars:,} bars, "
        f"{counts.predictions:,} predictions, {counts.orders:,} orders, {counts.fills:,} fills",
        markup=False,
        soft_wrap=True,
    )
