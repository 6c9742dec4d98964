"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalog.errors import ConfigError
from catalog.timestamps import parse_time

if TYPE_CHECKING:
    from research.parallel import Workers

ProfileOption = Annotated[
    str, typer.Option("--profile", "-p", help="Profile name (see `levibot profiles`) or YAML file.")
]
CatalogOption = Annotated[
    Path, typer.Option("--catalog", "-c", help="Folder of the catalog, or URL of a pushed one.")
]
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


WorkersOption = Annotated[
    int | None,
    typer.Option(help="Processes at once; the cores if left out. No result depends on it.", min=1),
]
ClusterOption = Annotated[
    str | None, typer.Option(help="Ray cluster: auto, or such as ray://10.0.0.1:10001.")
]


def optional_time(text: str | None) -> int | None:
    """Return the UTC nanoseconds of an option that may be absent."""
    return None if text is None else parse_time(text)


def fold_workers(count: int | None, cluster: str | None, keep: Path | None) -> Workers | None:
    """Return who fits the folds of a walk-forward; None for the threads of this process.

    Raises
    ------
    ConfigError
        If workers are asked for, but no folder for what they have done.
    """
    if count is None and cluster is None:
        return None
    if keep is None:
        raise ConfigError(
            "--workers and --cluster must come with --keep, the folder of the folds that are done, "
            "which was absent; give it, or leave them out for threads of one process"
        )
    from research.parallel import Workers

    return Workers(count, cluster)
