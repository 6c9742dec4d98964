"""How a validation is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from catalog.config import Config
from catalog.errors import ConfigError
from catalog.strict_yaml import explain
from live.null_runs import NullTestConfig
from research.comparisons import ComparisonConfig
from research.cpcv import CpcvConfig


class ValidationOptions(Config):
    """How a validation is made.

    Parameters
    ----------
    cpcv : CpcvConfig
        Groups of the cross-validation.
    null : NullTestConfig
        Null markets.
    comparison : ComparisonConfig
        Draws of SPA and of the confidence set.
    """

    cpcv: CpcvConfig = CpcvConfig()
    null: NullTestConfig = NullTestConfig()
    comparison: ComparisonConfig = ComparisonConfig()


def validation_options(
    *, cpcv: Mapping[str, Any], null: Mapping[str, Any], seed: int
) -> ValidationOptions:
    """Return options from what the command line gave.

    Raises
    ------
    ConfigError
        Naming what is out of range.
    """
    given = {"cpcv": dict(cpcv), "null": dict(null), "comparison": {"seed": seed}}
    try:
        return ValidationOptions.model_validate(given)
    except ValidationError as error:
        faults = "; ".join(explain(one, ValidationOptions, "option") for one in error.errors())
        raise ConfigError(f"how a validation is made is out of range: {faults}") from None
