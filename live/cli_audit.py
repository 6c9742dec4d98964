"""`levibot audit`: proofs that a run's premises hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import AuditFailedError, ConfigError
from live.console import emit, out, progress_bars, user_errors
from live.options import (
    CatalogOption,
    FromOption,
    JsonOption,
    ProfileOption,
    SetOption,
    ToOption,
    optional_time,
)

if TYPE_CHECKING:
    from live.parity import ParityReport
    from live.three_ways import ThreeWayReport

app = typer.Typer(
    help="Prove that nothing looks ahead, and that backtest and live decide alike.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def lookahead(
    profile: ProfileOption,
    catalog: CatalogOption,
    cuts: Annotated[
        int, typer.Option(help="Times at which the future is changed, of each sort.")
    ] = 3,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Change everything after t, for several t, and demand that nothing before t moves."""
    with user_errors():
        from live.audit import audit_lookahead
        from live.profile import load_profile

        settings = load_profile(profile, set_ or ())
        with progress_bars() as progress:
            report = audit_lookahead(settings, catalog, cuts=cuts, progress=progress)
        emit(report.to_json(), json, lambda: out.print(str(report), markup=False, soft_wrap=True))
        if report.violations:
            raise typer.Exit(AuditFailedError.exit_code)


@app.command()
def parity(
    profile: ProfileOption,
    catalog: CatalogOption,
    from_: FromOption = None,
    to: ToOption = None,
    set_: SetOption = None,
    exchange: Annotated[
        bool, typer.Option("--exchange", help="Also on the test exchange; in a checkout only.")
    ] = False,
    interrupted: Annotated[
        bool, typer.Option("--interrupted", help="There, kill the engine once and cut its sockets.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run backtest and live replay over one span (a quarter by default) and compare everything.

    With --exchange a third way: an engine on the test exchange, in lock-step through the compiled
    adapter. The test exchange is a part of the tests, which only a checkout has.
    """
    with user_errors():
        from live.profile import load_profile

        settings = load_profile(profile, set_ or ())
        span = (optional_time(from_), optional_time(to))
        if interrupted and not exchange:
            raise ConfigError("--interrupted must come with --exchange: the replay has no sockets")
        report: ParityReport | ThreeWayReport
        with progress_bars() as progress:
            if exchange:
                from live.three_ways import audit_three_ways

                report = audit_three_ways(
                    settings, catalog, span=span, interrupted=interrupted, progress=progress
                )
            else:
                from live.audit import audit_parity

                report = audit_parity(settings, catalog, span=span, progress=progress)
        emit(report.to_json(), json, lambda: out.print(str(report), markup=False, soft_wrap=True))
        if not report.identical:
            raise typer.Exit(AuditFailedError.exit_code)
