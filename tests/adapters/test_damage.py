"""Whatever happens to a file's bytes: it is read, or refused with a reason; never a traceback."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections import Counter

import pytest

from adapters.importing import importer_of
from adapters.sources import open_source
from catalog.errors import DataError

FORMATS = {"csv", "feather", "parquet", "other"}


def damaged(data, generator):
    """Return the bytes with some changed, lost, added or cut off."""
    spoiled = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 5))):
        if not spoiled:
            break
        at = generator.randrange(len(spoiled))
        kind = generator.random()
        if kind < 0.5:
            spoiled[at] = generator.randrange(256)
        elif kind < 0.7:
            del spoiled[at : at + generator.randrange(1, 50)]
        elif kind < 0.85:
            spoiled[at:at] = generator.randbytes(generator.randrange(1, 8))
        else:
            del spoiled[max(at, 1) :]
    return bytes(spoiled)


@pytest.fixture(scope="module")
def texts():
    """Small files in the text forms, by name."""
    days = [f"2024-01-{day:02d}" for day in range(1, 29)]
    sentiment = "{'class': 'positive', 'polarity': 0.25, 'subjectivity': 0.4}"
    return {
        "coinmetrics_btc.csv": "time,PriceUSD,TxCnt,AssetEODCompletionTime\n"
        + "".join(f"{day},44049.5,{number},\n" for number, day in enumerate(days)),
        "export-TxGrowth.csv": "Date(UTC),UnixTimeStamp,Value\n"
        + "".join(f"x,{1_704_067_200 + 86_400 * day},{day}\n" for day in range(28)),
        "fear_greed.csv": "date,fear_greed_index\n" + "".join(f"{day},50\n" for day in days),
        "cryptonews.csv": "date;sentiment;source;subject;text;title;url\n"
        + "".join(f"{day}-1-2024 09:30;{sentiment};D;nft;é {day};t;u\n" for day in range(1, 29)),
        "bitcoin.csv": "Date,Short Description,Accurate Sentiments\n"
        + "".join(f'{day} 10:00:00,"One, ""two""\n{day}",0.5\n' for day in days),
    }


@pytest.fixture
def files(texts, feather, candles, klines, tmp_path):
    """One good file of each form and packing."""
    found = [feather(candles(60)), tmp_path / "BTC_dvol.parquet"]
    uncompressed = tmp_path / "plain" / found[0].name
    uncompressed.parent.mkdir()
    candles(60).to_feather(uncompressed, compression="uncompressed")
    found.append(uncompressed)
    levels = candles(60, interval="1h").rename(columns={"date": "timestamp"})
    levels.drop(columns="volume").to_parquet(found[1])
    packed = tmp_path / "BTCUSDT-15m-2024-01.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("BTCUSDT-15m-2024-01.csv", klines(candles(60)))
    found.append(packed)
    for name, text in (texts | {"BTCUSDT-15m-2024-02.csv": klines(candles(60))}).items():
        found.append(tmp_path / name)
        found[-1].write_text(text, encoding="utf-8")
    squeezed = tmp_path / "bitcoin_squeezed.csv.gz"
    squeezed.write_bytes(gzip.compress(texts["bitcoin.csv"].encode()))
    return [*found, squeezed]


def outcome(path, options):
    """Return how a file ended: ``read``, ``refused``, or its format where nobody knows it."""
    source = open_source(path)
    importer = importer_of(source)
    if importer is None:
        assert source.format != "unreadable" or source.problem
        return source.format
    try:
        batches = importer.read(source, options)
    except DataError as error:
        return "refused" if str(error).startswith(path.name) else f"nameless: {error}"
    return "read" if all(len(batch) for batch in batches) else "empty"


@pytest.mark.parametrize("seed", [1, pytest.param(range(2, 12), marks=pytest.mark.slow)])
def test_damage_is_read_or_refused(files, options, seed):
    for seed_ in seed if isinstance(seed, range) else (seed,):
        generator = random.Random(seed_)
        for path in files:
            whole = path.read_bytes()
            assert outcome(path, options) == "read"
            ends = Counter()
            for _ in range(25):
                path.write_bytes(damaged(whole, generator))
                ends[outcome(path, options)] += 1
            path.write_bytes(whole)
            assert set(ends) <= {"read", "refused", "unreadable", *FORMATS}, path.name
            # Something must have been noticed, or the damage was not tried.
            assert ends["refused"] + ends["unreadable"] > 0, path.name
