"""YAML as settings are written: no objects, no key twice, and faults that name their key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from catalog.errors import ConfigError


def read_settings(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file whose content must be a mapping of keys.

    Parameters
    ----------
    path : Path
        The file.
    what : str
        What it is, for messages: ``profile``, ``risk policy``.

    Raises
    ------
    ConfigError
        If it cannot be read, is no YAML or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path} cannot be read: {error}") from error
    content = parse_yaml(text, f"{what} {path.name}")
    if not isinstance(content, dict):
        raise ConfigError(f"{what} {path.name} must be a mapping of keys, was {content!r:.60}")
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says; `where` names it in messages.

    Raises
    ------
    ConfigError
        If it is no YAML, asks for an object, or gives a key twice.
    """
    try:
        return yaml.load(text, _StrictLoader)  # noqa: S506 - a SafeLoader
    # ValueError: a date that the calendar does not have; RecursionError: nesting without end;
    # TypeError: a key that is a list.
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ConfigError(f"{where} must be YAML: {error}") from error


def explain(fault: Any, model: type[BaseModel], whole: str) -> str:
    """Return one fault of a pydantic `ValidationError` in the words of the house.

    Parameters
    ----------
    fault : mapping
        One of ``error.errors()``.
    model : type of BaseModel
        What was validated, for the keys that it knows.
    whole : str
        Name for a fault of no single key.
    """
    key = ".".join(str(part) for part in fault["loc"]) or whole
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, fault["loc"][:-1])
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: must be given, was missing; there is no default for it"
    message = fault["msg"].removeprefix("Value error, ")
    # A fault between keys has all of them for input; our own messages say the value themselves.
    said = isinstance(fault["input"], dict) or re.search(r"\b(was|were|named)\b", message)
    return f"{key}: {message}" if said else f"{key}: {message}, was {fault['input']!r:.80}"


def _known_keys(model: Any, location: Sequence[str | int]) -> list[str]:
    for part in location:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        # Of ``Settings | None`` the settings.
        choices = [one for one in get_args(field.annotation) if one is not NoneType]
        model = choices[0] if choices else field.annotation
    return list(getattr(model, "model_fields", {}))


class _StrictLoader(yaml.SafeLoader):
    """YAML without objects, that refuses a key which is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(name) for name in names if names.count(name) > 1})
        if twice:
            raise yaml.YAMLError(f"a key must be given once, given twice: {', '.join(twice)}")
        return super().construct_mapping(node, deep=deep)
