"""`levibot data`: what the catalog holds, and how it gets there."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import ConfigError, DataError
from catalog.timestamps import format_time
from live.console import aligned, emit, out, print_json, progress_bars, user_errors
from live.options import CatalogOption, JsonOption, optional_time

if TYPE_CHECKING:
    from adapters.report import ImportReport

app = typer.Typer(
    help="Import, fetch, make, check and list market data.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A file, or a folder that is searched in full.")],
    catalog: CatalogOption,
    columns: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON file that maps the columns of a CSV or Parquet file."),
    ] = None,
    market: Annotated[
        str | None,
        typer.Option(help="um (USDT perpetuals) or spot, for archive files whose path is silent."),
    ] = None,
    known_at: Annotated[
        str | None,
        typer.Option(help="When a restated series was downloaded, such as 2025-08-18."),
    ] = None,
    publication_delay_hours: Annotated[
        float | None,
        typer.Option(help="From a day's end to its on-chain metrics, where no file says it."),
    ] = None,
    scoring_delay_secs: Annotated[
        float | None, typer.Option(help="From a headline to its score.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Import history. Repeating it adds nothing; a file with a fault is refused whole."""
    with user_errors():
        from adapters.generic import load_columns
        from adapters.importing import import_path
        from adapters.options import ImportOptions
        from catalog.store import Catalog

        if not path.exists():
            raise ConfigError(
                f"PATH must be a file or a folder, {path} does not exist; check its spelling"
            )
        settings: dict[str, Any] = {"market": market, "known_at_ns": optional_time(known_at)}
        if publication_delay_hours is not None:
            settings["publication_delay_hours"] = publication_delay_hours
        if scoring_delay_secs is not None:
            settings["scoring_delay_secs"] = scoring_delay_secs
        options = parse_config(ImportOptions, settings)
        column_map = None if columns is None else load_columns(columns)
        with progress_bars() as progress:
            report = import_path(
                path,
                Catalog.open(catalog, create=True),
                progress=progress,
                columns=column_map,
                options=options,
            )
        _finish(report, json)


@app.command()
def fetch(
    catalog: CatalogOption,
    symbols: Annotated[str, typer.Option(help="Such as BTCUSDT,ETHUSDT,SOLUSDT.")],
    interval: Annotated[str, typer.Option(help="Bar interval, such as 15m.")],
    from_: Annotated[str, typer.Option("--from", help="First month, such as 2023-01.")],
    to: Annotated[str, typer.Option("--to", help="Last month, inclusive.")],
    base_url: Annotated[
        str | None, typer.Option(help="Another archive of the same layout (a mirror).")
    ] = None,
    market: Annotated[str, typer.Option(help="um (USDT perpetuals, with funding) or spot.")] = "um",
    recheck: Annotated[
        bool, typer.Option(help="Compare months that are there with the archive's checksums.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fetch klines and funding of USDT-M perpetuals from the exchange's monthly archive."""
    with user_errors():
        from adapters.fetch import FetchConfig
        from adapters.fetch import fetch as fetch_archive
        from catalog.store import Catalog

        settings: dict[str, Any] = {
            "symbols": tuple(name.strip() for name in symbols.split(",") if name.strip()),
            "interval": interval,
            "start_month": from_,
            "end_month": to,
            "market": market,
            "recheck": recheck,
        }
        if base_url is not None:
            settings["base_url"] = base_url
        config = parse_config(FetchConfig, settings)
        with progress_bars() as progress:
            report = fetch_archive(config, Catalog.open(catalog, create=True), progress=progress)
        _finish(report, json)


@app.command()
def synth(
    catalog: CatalogOption,
    edge: Annotated[
        float, typer.Option(help="Scale of the planted edge: 0 none, 1 much like real bars.")
    ] = 1.0,
    days: Annotated[int, typer.Option(help="Length in days.")] = 182,
    start: Annotated[str, typer.Option(help="First bar's open.")] = "2024-01-01",
    interval: Annotated[str, typer.Option(help="Bar interval.")] = "15m",
    seed: Annotated[int, typer.Option(help="Same seed and settings, same market.")] = 7,
    instruments: Annotated[
        str | None,
        typer.Option(help="Instrument ids, the leading one first; BTC, ETH and SOL perpetuals."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a synthetic market with a known edge, and the oracle's probability beside it."""
    with user_errors():
        from adapters.synthetic import SyntheticConfig
        from live.synthesis import make_market

        settings: dict[str, Any] = {
            "edge": edge,
            "days": days,
            "start": start,
            "interval": interval,
            "seed": seed,
        }
        if instruments is not None:
            settings["instruments"] = tuple(instruments.split(","))
        config = parse_config(SyntheticConfig, settings)
        with progress_bars() as progress:
            report = make_market(catalog, config, progress=progress)
        emit(
            {"synthetic": True, "rows": report.rows, "added": report.added},
            json,
            lambda: out.print(f"SYNTHETIC market: {report.added:,} new records in {catalog}"),
        )


@app.command()
def push(
    catalog: CatalogOption,
    url: Annotated[str, typer.Argument(help="Such as s3://bucket/catalog.")],
    json: JsonOption = False,
) -> None:
    """Send a catalog's newest state to an object store, from where every machine can read it."""
    with user_errors():
        from catalog.mirror import push_catalog

        with progress_bars() as progress:
            sent = push_catalog(catalog, url, progress=progress)
        emit(
            {"url": url, "files": sent},
            json,
            lambda: out.print(f"{sent:,} files sent to {url}", markup=False, soft_wrap=True),
        )


@app.command()
def check(catalog: CatalogOption, json: JsonOption = False) -> None:
    """Look for gaps, impossible prices, outliers and damaged files; exit 3 if any is fatal."""
    with user_errors():
        from catalog.quality import check as check_quality
        from catalog.store import Catalog

        with progress_bars() as progress:
            report = check_quality(Catalog.open(catalog), progress=progress)
        if json:
            print_json(json_module.loads(report.to_json()))
        else:
            out.print(str(report), markup=False, soft_wrap=True)
        if report.fatal:
            raise typer.Exit(DataError.exit_code)


@app.command()
def info(catalog: CatalogOption, json: JsonOption = False) -> None:
    """List the series that the catalog holds."""
    with user_errors():
        from catalog.store import Catalog

        store = Catalog.open(catalog)
        if json:
            print_json(store.info())
            return
        rows = [
            [
                found.series + (" (SYNTHETIC)" if found.synthetic else ""),
                found.kind,
                format_time(found.start),
                format_time(found.end),
                f"{found.rows:,}",
                str(len(found.vintages)),
                f"{found.bytes / 1e6:.1f}",
            ]
            for found in store.series()
        ]
        header = ["series", "kind", "from", "to", "rows", "vintages", "MB"]
        out.print("\n".join(aligned(header, rows)), markup=False, soft_wrap=True)


def parse_config[C](kind: type[C], settings: dict[str, Any]) -> C:
    """Build a configuration from options; a fault becomes a message that names the option."""
    from pydantic import ValidationError

    try:
        return kind(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_fault, error.errors()))) from None


_OPTION_OF = {"start_month": "--from", "end_month": "--to", "known_at_ns": "--known-at"}


def _fault(fault: Any) -> str:
    """Say what is wrong with which option; a check of our own names the value itself."""
    name = str(fault["loc"][0]) if fault["loc"] else ""
    option = _OPTION_OF.get(name, "--" + name.replace("_", "-"))
    message = fault["msg"].removeprefix("Value error, ")
    for field, other in _OPTION_OF.items():
        message = message.replace(field, other)
    if fault["type"] != "value_error":
        message = f"{message}, was {fault['input']!r:.60}"
    return f"{option}: {message}" if name else message


def _finish(report: ImportReport, json: bool) -> None:
    if json:
        print_json(json_module.loads(report.to_json()))
    else:
        out.print(str(report), markup=False, soft_wrap=True)
    if report.exit_code:
        raise typer.Exit(report.exit_code)
