"""`levibot tearsheet`: one page on one run, or on several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from live.console import emit, out, user_errors
from live.options import JsonOption


def tearsheet(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, the first to compare with.")],
    out_file: Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")],
    pdf: Annotated[Path | None, typer.Option(help="PDF file to write as well.")] = None,
    png: Annotated[Path | None, typer.Option(help="Folder for the pages as pictures.")] = None,
    quantstats: Annotated[
        Path | None, typer.Option(help="Folder for quantstats' own report of each run.")
    ] = None,
    catalog: Annotated[
        Path | None,
        typer.Option("--catalog", "-c", help="Bars for runs that kept none, such as older ones."),
    ] = None,
    validation: Annotated[
        list[Path] | None,
        typer.Option(help="A run's validation.json or its folder, in the order of the runs."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare runs on one page that needs no network, and on paper."""
    with user_errors():
        from live.tearsheets import TearsheetRequest, make_tearsheet

        request = TearsheetRequest(
            tuple(runs),
            out_file,
            pdf=pdf,
            png=png,
            quantstats=quantstats,
            catalog=catalog,
            validations=tuple(validation or ()),
            title=title,
            overwrite=overwrite,
        )
        written = make_tearsheet(request)
        places = [written[part] for part in ("html", "pdf", "png") if part in written]
        places += written.get("quantstats", [])
        emit(written, json, lambda: out.print("\n".join(places), markup=False, soft_wrap=True))
