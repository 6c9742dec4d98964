"""What the manifest of a bundle must say, and how its parts are read: one reader for all of them.

A manifest whose digest is right can still have been written by something else than `save_bundle`.
Nothing here trusts that a key is there or of a type before it has looked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from catalog.errors import IntegrityError, LeviBotError
from catalog.strict_yaml import explain

ADVICE = "use another copy of the bundle or train it again"
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),
    *(IndexError, OverflowError, RecursionError),
)
"""What readers of damaged JSON, text and numbers meet; UnicodeDecodeError is a ValueError."""


class _Record(BaseModel):
    """A part of a manifest: types as JSON has them, and keys that later versions add."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class TrainingRecord(_Record):
    """What a model was fitted on; see `research.fitted.FittedModel`."""

    n_rows: int = Field(ge=1)
    train_start: int
    train_end: int
    until: int
    data_hash: str
    synthetic: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.train_start <= self.train_end <= self.until:
            raise ValueError(
                "train_start, train_end and until must follow one another, were "
                f"{self.train_start}, {self.train_end} and {self.until}"
            )
        return self


class ManifestRecord(_Record):
    """What a manifest holds; see `research.bundle.save_bundle`."""

    schema_version: int
    model_version: str = Field(min_length=1)
    feature_table_hash: str
    feature_names: list[str] = Field(min_length=1)
    instruments: list[str] = Field(min_length=1)
    interval_ns: int = Field(gt=0)
    spec_hash: str
    parts: dict[str, str]
    config: dict[str, Any]
    training: TrainingRecord
    profile: dict[str, Any]
    metrics: dict[str, Any]
    files: dict[str, str] = Field(min_length=1)
    digest: str


def parse_manifest(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object that a manifest's bytes are, whatever it says.

    Raises
    ------
    IntegrityError
        Naming `path`, if they are none.
    """
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} must be JSON, is not: {error}; {ADVICE}") from error
    if not isinstance(manifest, dict):
        raise IntegrityError(
            f"{path} must hold a JSON object, held {type(manifest).__name__}; {ADVICE}"
        )
    return manifest


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Refuse a manifest that lacks something or has it in another form.

    Raises
    ------
    IntegrityError
        Naming `path` and everything that is wrong.
    """
    try:
        ManifestRecord.model_validate(manifest)
    except ValidationError as error:
        faults = "; ".join(explain(fault, ManifestRecord, "manifest") for fault in error.errors())
        raise IntegrityError(f"{path} must say what a bundle is: {faults}; {ADVICE}") from error


def read_part[Part](bundle: Path, name: str, read: Callable[[Path], Part]) -> Part:
    """Return what `read` makes of a file or folder of a bundle.

    Parameters
    ----------
    bundle : Path
        The bundle's folder.
    name : str
        Of the file or folder within.
    read : callable
        Takes its path.

    Raises
    ------
    IntegrityError
        Naming it, if it is missing or not what was saved.
    """
    try:
        return read(bundle / name)
    except LeviBotError as error:
        advice = "" if "use another copy" in str(error) else f"; {ADVICE}"
        raise IntegrityError(
            f"{name} of bundle {bundle} must be what was saved, is not: {error}{advice}"
        ) from error
    except _UNREADABLE as error:
        said = str(error) if isinstance(error, OSError) else repr(error)
        raise IntegrityError(
            f"{name} of bundle {bundle} must be what was saved, is not: {said}; {ADVICE}"
        ) from error


def read_text_part[Part](bundle: Path, name: str, parse: Callable[[str], Part]) -> Part:
    """Return what `parse` makes of a text of a bundle; raises as `read_part`."""
    return read_part(bundle, name, lambda path: parse(path.read_text(encoding="utf-8")))
