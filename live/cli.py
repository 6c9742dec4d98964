"""The command line: parse, call, print. No logic lives here.

Exit codes: 0 done; 1 our own bug; 2 wrong usage or profile; 3 data missing or unusable; 4 stored
bytes are not what their record says; 5 a run that must not be believed; 6 an audit found a
difference; 7 an exchange or a network was away at the start of an engine; 130 interrupted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalog.timestamps import parse_time
from live import (
    cli_audit,
    cli_data,
    cli_guard,
    cli_live,
    cli_signal,
    cli_study,
    cli_tearsheet,
    cli_trials,
    cli_tune,
    cli_validate,
)
from live.console import emit, out, progress_bars, table, tell, user_errors
from live.options import (
    CatalogOption,
    ClusterOption,
    FromOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    ProfileOption,
    SetOption,
    ToOption,
    WorkersOption,
    fold_workers,
    optional_time,
)

app = typer.Typer(
    name="levibot",
    help="Research and run machine-learned crypto trading strategies.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from live.runs import code_version

        out.print(f"levibot {code_version()}")
        raise typer.Exit


@app.callback()
def levibot(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version and the hash of the sources.",
        ),
    ] = False,
) -> None:
    """Research and run machine-learned crypto trading strategies."""


app.add_typer(cli_data.app, name="data")
app.add_typer(cli_audit.app, name="audit")
app.add_typer(cli_guard.app, name="guard")
app.add_typer(cli_live.app, name="live")
app.command()(cli_study.study)
app.command()(cli_signal.signal)
app.command()(cli_trials.trials)
app.command()(cli_tearsheet.tearsheet)
app.command()(cli_tune.tune)
app.command()(cli_validate.validate)
app.command()(cli_validate.truth)


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the run to write.")] = Path(
        "runs/demo"
    ),
    catalog: Annotated[
        Path, typer.Option("--catalog", help="Catalog for the made-up market.")
    ] = Path("data/demo"),
    json: JsonOption = False,
) -> None:
    """Make a synthetic market, walk forward over it, replay, and write a tearsheet."""
    with user_errors():
        from live.pipeline import make_demo

        with progress_bars() as progress:
            summary = make_demo(catalog, out_folder, progress=progress)
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))


@app.command()
def profiles(json: JsonOption = False) -> None:
    """List the profiles that come with LeviBot."""
    with user_errors():
        from live.profile import load_profile, profile_names

        found = [load_profile(name) for name in profile_names()]
        emit(
            [{"name": one.name, "description": one.description} for one in found],
            json,
            lambda: out.print(
                table("", ["profile", "description"], [[p.name, p.description] for p in found])
            ),
        )


@app.command()
def walkforward(
    profile: ProfileOption,
    catalog: CatalogOption,
    out_folder: OutOption,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps finished folds; an interrupted run goes on there."),
    ] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Fit, calibrate and predict fold by fold; replay the predictions; write a run folder."""
    with user_errors():
        from live.pipeline import run_walkforward
        from live.profile import load_profile
        from research.walkforward import Keep

        settings = load_profile(profile, set_ or ())
        who = fold_workers(workers, cluster, keep)
        kept = Keep(keep, tell, who) if keep is not None else None
        with progress_bars() as progress:
            summary = run_walkforward(
                settings, catalog, out_folder, overwrite=overwrite, keep=kept, progress=progress
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))


@app.command()
def backtest(
    profile: ProfileOption,
    catalog: CatalogOption,
    out_folder: OutOption,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Run whose out-of-sample predictions are replayed, such as runs/perps."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle that predicts bar by bar, as live does.")
    ] = None,
    from_: FromOption = None,
    to: ToOption = None,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Replay a strategy with other settings over predictions that exist, or a bundle's."""
    with user_errors():
        from live.pipeline import BacktestSource, run_backtest_command
        from live.profile import load_profile

        settings = load_profile(profile, set_ or ())
        source = BacktestSource(predictions, bundle, optional_time(from_), optional_time(to))
        with progress_bars() as progress:
            summary = run_backtest_command(
                settings,
                catalog,
                out_folder,
                source,
                overwrite=overwrite,
                progress=progress,
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))


@app.command()
def sizing(
    profile: ProfileOption,
    catalog: CatalogOption,
    predictions: Annotated[
        Path, typer.Option(help="Run whose out-of-sample predictions are traded.")
    ],
    out_folder: OutOption,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Trade the same predictions with every way of sizing, with and without the risk guard."""
    with user_errors():
        from live.profile import load_profile
        from live.sizing_comparison import compare_sizing

        settings = load_profile(profile, set_ or ())
        with progress_bars() as progress:
            found = compare_sizing(
                settings, catalog, predictions, out_folder, overwrite=overwrite, progress=progress
            )
        emit(found.to_json(), json, lambda: out.print(str(found), markup=False, soft_wrap=True))


@app.command()
def execution(
    profile: ProfileOption,
    catalog: CatalogOption,
    predictions: Annotated[
        Path, typer.Option(help="Run whose out-of-sample predictions are traded.")
    ],
    out_folder: OutOption,
    set_: SetOption = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Trade the same predictions with market orders, limits, and post-only limits."""
    with user_errors():
        from live.execution_comparison import compare_execution
        from live.profile import load_profile

        settings = load_profile(profile, set_ or ())
        with progress_bars() as progress:
            found = compare_execution(
                settings, catalog, predictions, out_folder, overwrite=overwrite, progress=progress
            )
        emit(found.to_json(), json, lambda: out.print(str(found), markup=False, soft_wrap=True))


@app.command()
def rebalance(
    profile: ProfileOption,
    catalog: CatalogOption,
    holdings: Annotated[Path, typer.Option(help="JSON object of signed quantities by instrument.")],
    equity: Annotated[float, typer.Option(help="USDT.")],
    at: Annotated[str, typer.Option(help="A time whose last closes count, such as 2025-05-12.")],
    drift: Annotated[
        float | None, typer.Option(help="Band around a weight, of equity, not the profile's.")
    ] = None,
    lookback_bars: Annotated[
        int | None, typer.Option(help="Bars that risk is estimated from, not the profile's.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Run whose predictions Kelly goes by.")
    ] = None,
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Print what a rebalancing would do; nothing is sent."""
    with user_errors():
        from live.profile import load_profile
        from live.rebalance import (
            BookAt,
            plan_rebalance,
            plan_to_json,
            read_holdings,
            settings_of,
        )

        settings = load_profile(profile, set_ or ())
        config = settings_of(settings, drift, lookback_bars)
        held = BookAt(read_holdings(holdings), equity, parse_time(at))
        found = plan_rebalance(settings, catalog, held, config, predictions)
        emit(plan_to_json(found), json, lambda: out.print(str(found), markup=False, soft_wrap=True))


@app.command()
def train(
    profile: ProfileOption,
    catalog: CatalogOption,
    until: Annotated[
        str, typer.Option(help="Train on what was known at this time, such as 2024-12-01.")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the bundle to write.")],
    set_: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Fit one model and write it as a bundle."""
    with user_errors():
        from live.pipeline import train_bundle
        from live.profile import load_profile

        settings = load_profile(profile, set_ or ())
        with progress_bars() as progress:
            summary = train_bundle(settings, catalog, until, out_folder, progress=progress)
        told = f"bundle of {', '.join(summary['experts'])} written to {out_folder}"
        emit(summary, json, lambda: out.print(told, markup=False, soft_wrap=True))


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle.")],
    catalog: CatalogOption,
    out_folder: OutOption,
    from_: Annotated[str, typer.Option("--from", help="Start of a span it has not seen.")],
    to: Annotated[str, typer.Option("--to", help="End of that span.")],
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Score and replay a bundle on a span that it has not seen; refuse one that it has."""
    with user_errors():
        from live.pipeline import evaluate_bundle

        span = (parse_time(from_), parse_time(to))
        with progress_bars() as progress:
            summary = evaluate_bundle(
                bundle, catalog, out_folder, span, overwrite=overwrite, progress=progress
            )
        emit(summary.to_json(), json, lambda: out.print(str(summary), markup=False, soft_wrap=True))


@app.command()
def repeat(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    catalog: CatalogOption,
    source: Annotated[
        Path | None, typer.Option(help="Bundle or run with predictions that this run used.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run a run's folder again and compare every table bit for bit."""
    with user_errors():
        from live.pipeline import repeat_run

        with progress_bars() as progress:
            compared = repeat_run(run, catalog, source=source, progress=progress)
        emit(
            {"identical": True, "tables": compared},
            json,
            lambda: out.print(f"identical: {', '.join(compared)}"),
        )


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
