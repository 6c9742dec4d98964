"""`levibot trials`: what was tried on a catalog's data."""

from __future__ import annotations

from typing import Annotated

import typer

from live.console import emit, out, user_errors
from live.options import CatalogOption, FromOption, JsonOption, ToOption, optional_time


def trials(
    catalog: CatalogOption,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Only trials of a profile of this name.")
    ] = None,
    from_: FromOption = None,
    to: ToOption = None,
    json: JsonOption = False,
) -> None:
    """Show every trial on these data, and what their number leaves of the best."""
    with user_errors():
        from live.trial_list import TrialFilter, list_trials

        wanted = TrialFilter(profile, optional_time(from_), optional_time(to))
        found = list_trials(catalog, wanted)
        emit(found.to_json(), json, lambda: out.print(str(found), markup=False, soft_wrap=True))
