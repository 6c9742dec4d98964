"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalog.timestamps import parse_time

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="Profile name (see `levibot profiles`) or YAML file.")
]
CatalogOption = Annotated[Path, typer.Option("--catalog", "-c", help="Folder of the catalog.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run to write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, such as strategy.entry_threshold=0.56."),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]
FromOption = Annotated[
    str | None, typer.Option("--from", help="Start of the span, such as 2024-01-01 (exclusive).")
]
ToOption = Annotated[str | None, typer.Option("--to", help="End of the span (inclusive).")]


def optional_time(text: str | None) -> int | None:
    """Return the UTC nanoseconds of an option that may be absent."""
    return None if text is None else parse_time(text)
