"""`levibot data`: what the catalog holds, and how it gets there."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from catalog.errors import ConfigError, DataError
from catalog.timestamps import format_time
from live.console import emit, out, print_json, progress_bars, table, user_errors
from live.options import CatalogOption, JsonOption

if TYPE_CHECKING:
    from adapters.generic import GenericColumns
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
    json: JsonOption = False,
) -> None:
    """Import history. Repeating it adds nothing; a file with a fault is refused whole."""
    with user_errors():
        from adapters.importing import import_path
        from catalog.store import Catalog

        if not path.exists():
            raise DataError(f"PATH must be a file or a folder, {path} does not exist")
        column_map = _column_map(columns)
        with progress_bars() as progress:
            report = import_path(
                path, Catalog.open(catalog, create=True), progress=progress, columns=column_map
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
    json: JsonOption = False,
) -> None:
    """Make a synthetic market with a known edge, and the oracle's probability beside it."""
    with user_errors():
        from adapters.synthetic import SyntheticConfig, generate
        from catalog.store import Catalog

        config = parse_config(
            SyntheticConfig,
            {"edge": edge, "days": days, "start": start, "interval": interval, "seed": seed},
        )
        store = Catalog.open(catalog, create=True)
        with progress_bars() as progress:
            report = store.ingest(generate(config), progress=progress)
        emit(
            {"synthetic": True, "rows": report.rows, "added": report.added},
            json,
            lambda: out.print(f"SYNTHETIC market: {report.added:,} new records in {catalog}"),
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
                ("SYNTHETIC " if found.synthetic else "") + found.series,
                found.kind,
                format_time(found.start),
                format_time(found.end),
                f"{found.rows:,}",
                str(len(found.vintages)),
                f"{found.bytes / 1e6:.1f}",
            ]
            for found in store.series()
        ]
        out.print(table("", ["series", "kind", "from", "to", "rows", "vintages", "MB"], rows))


def parse_config[C](kind: type[C], settings: dict[str, Any]) -> C:
    """Build a configuration from options; a fault becomes a message that names the option."""
    from pydantic import ValidationError

    try:
        return kind(**settings)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: "
            f"{fault['msg'].removeprefix('Value error, ')}, was {fault['input']!r:.60}"
            for fault in error.errors()
        )
        raise ConfigError(faults) from None


def _column_map(path: Path | None) -> GenericColumns | None:
    if path is None:
        return None
    from adapters.generic import load_columns

    return load_columns(path)


def _finish(report: ImportReport, json: bool) -> None:
    if json:
        print_json(json_module.loads(report.to_json()))
    else:
        out.print(str(report), markup=False, soft_wrap=True)
    if report.exit_code:
        raise typer.Exit(report.exit_code)
