from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from nautilus_trader.model import CustomData, DataType

from catalog.types import TYPES, FusionPrediction, register_types


def test_registering_twice_is_harmless_and_survives_a_reload() -> None:
    register_types()
    register_types()
    program = "import catalog.types as t; t.register_types(); t.register_types()"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("custom", TYPES, ids=lambda custom: custom.__name__)
def test_every_field_is_described_with_its_unit(custom: type) -> None:
    text = custom.__doc__ or ""
    for field in dataclasses.fields(custom):
        assert field.name in text
        assert field.default is not dataclasses.MISSING


@pytest.mark.parametrize("custom", TYPES, ids=lambda custom: custom.__name__)
def test_records_survive_dict_and_json(custom: type) -> None:
    values = {"str": "x", "float": 0.25, "int": 3, "bool": True}
    fields = {f.name: values[str(f.type)] for f in dataclasses.fields(custom)}
    record = custom(ts_event=1, ts_init=2, **fields)
    again = custom.from_json(record.to_json())
    assert again == record
    assert (again.ts_event, again.ts_init) == (1, 2)
    assert json.loads(record.to_json())["type"] == custom.__name__


def test_a_prediction_travels_as_custom_data() -> None:
    register_types()
    prediction = FusionPrediction(1, 2, instrument_id="X.Y", prob_up=0.75, confidence=0.5, side=1)
    wrapped = CustomData(DataType("FusionPrediction"), prediction)
    assert wrapped.data == prediction
    assert wrapped.ts_init == 2


def test_parts_of_a_prediction_are_written_when_they_are_read() -> None:
    parts = (("lightgbm", 0.53, 0.6), ("tft", math.nan, 0.0))
    ages = (("index.dvol.btc", 3.0), ("news.x", math.nan))
    prediction = FusionPrediction(1, 2, instrument_id="X.Y", experts=parts, input_ages=ages)
    twin = FusionPrediction(1, 2, instrument_id="X.Y", experts=parts, input_ages=ages)
    assert json.loads(prediction.experts) == {"lightgbm": [0.53, 0.6], "tft": [None, 0.0]}
    assert json.loads(prediction.input_ages) == {"index.dvol.btc": 3.0, "news.x": None}
    again = FusionPrediction.from_json(twin.to_json())
    assert (again.experts, again.input_ages) == (prediction.experts, prediction.input_ages)
    assert json.loads(twin.to_json())["experts"] == prediction.experts
    assert FusionPrediction(1, 2, experts=(), input_ages=()).experts == ""
    assert FusionPrediction(1, 2).input_ages == ""
