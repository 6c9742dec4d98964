"""Faults of settings in the words of the house."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from catalog.strict_yaml import explain


class Inner(BaseModel):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _check(self) -> Inner:
        if self.high <= self.low:
            raise ValueError("high must be above low")
        return self


class Outer(BaseModel):
    inner: Inner = Inner()
    name: str = "x"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"inner": {"low": 3}}, "inner: high must be above low"),
        ({"inner": {"low": "a"}}, "inner.low: Input should be a valid integer, unable to parse"),
        ({"inner": 5}, "inner: Input should be a valid dictionary or instance of Inner, was 5"),
        ({"name": 7}, "name: Input should be a valid string, was 7"),
    ],
)
def test_a_fault_names_key_and_value_but_no_whole_mapping(
    content: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(content)
    (said,) = [explain(fault, Outer, "settings") for fault in caught.value.errors()]
    assert said.startswith(text)
    assert "{" not in said
