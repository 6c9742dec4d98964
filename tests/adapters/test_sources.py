from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters import checks
from adapters.checks import Place
from adapters.sources import open_source, read_table, read_text
from catalog.errors import DataError


def test_content_decides_and_not_the_ending(feather, candles, tmp_path):
    path = feather(candles(3))
    renamed = path.rename(tmp_path / "something.bin")
    source = open_source(renamed)
    assert source.format == "feather"
    assert source.columns == ("date", "open", "high", "low", "close", "volume")


def test_the_member_of_a_zip_names_the_file(tmp_path):
    path = tmp_path / "download(1).zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("BTCUSDT-15m-2024-01.csv", "a,b\n1,2\n")
    source = open_source(path)
    assert (source.stem, source.format, source.columns) == (
        "BTCUSDT-15m-2024-01",
        "csv",
        ("a", "b"),
    )


@pytest.mark.parametrize("members", [0, 2])
def test_a_zip_of_several_files_is_no_table(tmp_path, members):
    path = tmp_path / "things.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(members):
            archive.writestr(f"{number}.csv", "a,b\n1,2\n")
    assert open_source(path).format == "other"


def test_gzip_and_byte_order_mark_are_seen_through(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress("﻿time;value\r\n2024-01-01;1\r\n".encode()))
    source = open_source(path)
    assert (source.format, source.columns, source.delimiter) == ("csv", ("time", "value"), ";")
    assert read_text(source)["value"] == ("1",)


def test_a_field_with_line_breaks_keeps_the_lines_right(tmp_path):
    path = tmp_path / "news.csv"
    path.write_text('a,b\n"one\ntwo\nthree",1\n\nx,2\n', newline="")
    table = read_text(open_source(path))
    assert table["a"] == ("one\ntwo\nthree", "x")
    assert table.lines.tolist() == [2, 6]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a,b\n1,2\n3\n", "table.csv, line 3: must have 2 fields, had 1"),
        ("a,b\n1,2,3\n", "table.csv, line 2: must have 2 fields, had 3"),
        ('a,b\n"x\ny",2\n3,4,5\n', "table.csv, line 4: must have 2 fields, had 3"),
    ],
)
def test_ragged_rows_are_refused_by_line(tmp_path, text, complaint):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_text(open_source(path))


def test_text_that_is_not_utf8_is_refused_by_line(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b\n1,2\ncaf\xe9,3\n")
    with pytest.raises(
        DataError, match=r"table.csv, line 3: text must be UTF-8, was the byte 0xe9"
    ):
        read_text(open_source(path))


def test_a_table_cut_short_after_it_was_looked_at_is_refused(feather, candles):
    path = feather(candles(50))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="must be a whole feather file, was damaged or cut short"):
        read_table(source)


@pytest.mark.parametrize("ending", ["feather", "parquet", "zip", "csv.gz"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_cut_short_is_unreadable_and_says_why(tmp_path, candles, ending, kept):
    path = tmp_path / f"table.{ending}"
    frame = candles(400)
    if ending == "feather":
        frame.to_feather(path)
    elif ending == "parquet":
        frame.to_parquet(path)
    elif ending == "zip":
        frame.to_csv(path, index=False, compression={"method": "zip", "archive_name": "t.csv"})
    else:
        frame.to_csv(path, index=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    source = open_source(path)
    assert source.format == "unreadable"
    assert source.problem
    assert str(tmp_path) not in source.problem


def test_a_missing_file_is_unreadable_without_its_path(tmp_path):
    source = open_source(tmp_path / "absent.csv")
    assert source.format == "unreadable"
    assert source.problem == "no such file or directory"


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00\x01\x02" * 100])
def test_what_is_no_table_is_told(tmp_path: Path, content):
    path = tmp_path / "README.md"
    path.write_bytes(content)
    assert open_source(path).format == "other"


def test_an_empty_csv_is_unreadable(tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(b"")
    assert open_source(path).problem == "the file is empty"


def test_the_first_version_of_feather_says_what_to_do(tmp_path):
    path = tmp_path / "old.feather"
    path.write_bytes(b"FEA1" + bytes(60))
    source = open_source(path)
    assert source.format == "unreadable"
    assert "write it again as version 2" in source.problem


def test_column_names_must_differ(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match="column names must differ, were a, b, a"):
        read_text(open_source(path))


FIELD = st.text(st.sampled_from('ab1 .-"é\n'), max_size=4)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=6), quoting=st.sampled_from([0, 1]))
def test_the_fast_and_the_slow_way_read_what_was_written(tmp_path, rows, quoting):
    written = io.StringIO(newline="")
    writer = csv.writer(written, quoting=quoting, lineterminator="\n")
    writer.writerows([("one", "two"), *rows])
    path = tmp_path / "table.csv"
    path.write_text(written.getvalue(), encoding="utf-8", newline="")
    table = read_text(open_source(path))
    assert list(zip(table["one"], table["two"], strict=True)) == rows
    starts = [2]
    for row in rows:
        starts.append(starts[-1] + 1 + sum(field.count("\n") for field in row))
    assert table.lines.tolist() == starts[:-1]


@pytest.mark.parametrize("text", ["1.5", " 1.5 ", "+1.5", "15e-1", "1.50000", "0.15E+1"])
def test_numbers_as_people_write_them(text):
    place = Place("x", np.array([1]))
    assert checks.numbers(place, "x", (text,)).tolist() == [1.5]


@pytest.mark.parametrize("text", ["1_000", "0x10", "1,5", "nan", "inf", "1e999", "--1", "1 5", "é"])
def test_numbers_that_are_none(text):
    place = Place("x", np.array([9]))
    with pytest.raises(DataError, match="x, line 9: x must be a finite number, was "):
        checks.numbers(place, "x", (text,))


@pytest.mark.parametrize("text", ["1.0", "0x10", "1_0", "", "1e3", "9999999999999999999"])
def test_whole_numbers_that_are_none(text):
    place = Place("x", np.array([9]))
    with pytest.raises(DataError, match="x, line 9: x must be a whole number, was "):
        checks.whole_numbers(place, "x", (text,))


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1))
def test_whole_numbers_keep_every_digit(values):
    place = Place("x", np.arange(len(values)))
    assert checks.whole_numbers(place, "x", tuple(map(str, values))).tolist() == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_keep_every_bit(values):
    place = Place("x", np.arange(len(values)))
    assert checks.numbers(place, "x", tuple(map(repr, values))).tolist() == values
