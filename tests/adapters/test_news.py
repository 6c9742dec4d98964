from __future__ import annotations

import numpy as np
import pytest

from adapters import news
from adapters.options import ImportOptions
from adapters.sources import open_source
from catalog.errors import DataError
from catalog.timestamps import NS_PER_DAY, NS_PER_SECOND, parse_time

SCORED = "Date,Short Description,Accurate Sentiments"
SEEN = "published_at,first_seen,headline,summary,source"
OUTLETS = "date;sentiment;source;subject;text;title;url"
MINUTE = 60 * NS_PER_SECOND


def read(path, options):
    source = open_source(path)
    assert news.matches(source)
    (batch,) = news.read(source, options)
    return batch


def test_a_headline_is_known_after_its_publication_and_scoring(text_file, options):
    text = f'{SCORED}\n2024-01-01 10:00:00,"Up, and away",0.5\n2024-01-01 11:00:00,Down,\n'
    batch = read(text_file("bitcoin_news.csv", text), options)
    assert (batch.kind, batch.series) == ("news", "bitcoin_news")
    published = [parse_time("2024-01-01T10:00"), parse_time("2024-01-01T11:00")]
    assert batch.columns["ts_published"].tolist() == published
    assert batch.columns["ts_event"].tolist() == published
    assert batch.columns["ts_init"].tolist() == [stamp + MINUTE for stamp in published]
    assert batch.columns["headline"].tolist() == ["Up, and away", "Down"]
    assert batch.columns["asset"].tolist() == ["btc", "btc"]
    assert batch.columns["score"][0] == 0.5
    assert np.isnan(batch.columns["score"][1])


def test_the_scoring_delay_is_configurable(text_file, options):
    slow = ImportOptions(now_ns=options.now_ns, scoring_delay_secs=300.0)
    text = f"{SCORED}\n2024-01-01 10:00:00,Up,0.5\n"
    batch = read(text_file("bitcoin_news.csv", text), slow)
    assert batch.columns["ts_init"][0] == parse_time("2024-01-01T10:05")


def test_what_was_seen_late_is_known_late(text_file, options):
    text = (
        f"{SEEN}\n2024-01-01T10:00:00Z,2024-01-01T14:30:00Z,Old,,Desk\n"
        "2024-01-01T12:00:00Z,2024-01-01T12:20:00Z,New,,Desk\n"
    )
    batch = read(text_file("bitcoin_news_first_seen.csv", text), options)
    assert batch.columns["headline"].tolist() == ["New", "Old"]
    assert batch.columns["ts_init"].tolist() == [
        parse_time("2024-01-01T12:21"),
        parse_time("2024-01-01T14:31"),
    ]
    assert batch.columns["ts_event"][1] == parse_time("2024-01-01T10:00")
    assert batch.lines.tolist() == [3, 2]
    assert np.isnan(batch.columns["score"]).all()


def outlet(date, *, polarity="0.25", subject="bitcoin", title="Title", text="Text"):
    sentiment = f"{{'class': 'positive', 'polarity': {polarity}, 'subjectivity': 0.4}}"
    return f"{date};{sentiment};Desk;{subject};{text};{title};http://x"


def test_dates_are_day_first_and_rows_newest_first(text_file, options):
    rows = [outlet("5-7-2022 04:24", polarity="-0.5"), outlet("13-6-2022 09:00", title="Older")]
    batch = read(text_file("cryptonews.csv", "\n".join([OUTLETS, *rows])), options)
    assert batch.columns["ts_published"].tolist() == [
        parse_time("2022-06-13T09:00"),
        parse_time("2022-07-05T04:24"),
    ]
    assert batch.columns["score"].tolist() == [0.25, -0.5]
    assert batch.lines.tolist() == [3, 2]


def test_subjects_become_assets_and_a_missing_title_its_text(text_file, options):
    rows = [
        outlet("5-7-2022 04:24", subject="nft", title="", text="Only a text"),
        outlet("5-7-2022 04:23", subject="ethereum"),
        outlet("5-7-2022 04:22", subject="bitcoin"),
    ]
    batch = read(text_file("cryptonews.csv", "\n".join([OUTLETS, *rows])), options)
    assert batch.columns["asset"].tolist() == ["btc", "eth", "crypto"]
    assert batch.columns["headline"].tolist() == ["Title", "Title", "Only a text"]


def test_a_stamp_of_midnight_is_a_date_without_a_time(text_file, options):
    text = f"{SCORED}\n2024-01-01 00:00:00,Sometime,0\n2024-01-01 09:00:00,Morning,0\n"
    batch = read(text_file("bitcoin_news.csv", text), options)
    assert batch.columns["headline"].tolist() == ["Morning", "Sometime"]
    assert batch.columns["ts_init"][1] == parse_time("2024-01-02") + MINUTE
    assert batch.columns["ts_event"][1] == parse_time("2024-01-01")
    assert batch.notes == (
        "1 headlines stamped exactly 00:00 count as known at the end of that day",
    )


def test_exact_repeats_are_dropped_and_later_ones_kept(text_file, options):
    rows = ["10:00:00,Same,0.1", "10:00:00,Same,0.2", "11:00:00,Same,0.1", "11:00:00,Other,0.3"]
    text = "\n".join([SCORED, *(f"2024-01-01 {row}" for row in rows)])
    batch = read(text_file("bitcoin_news.csv", text), options)
    assert batch.columns["headline"].tolist() == ["Same", "Same", "Other"]
    assert batch.columns["score"].tolist() == [0.1, 0.1, 0.3]
    assert batch.notes == (
        "1 exact repeats dropped",
        "1 texts published again at another time kept",
    )


@pytest.mark.parametrize(
    ("header", "row", "complaint"),
    [
        (SCORED, "2024-01-01 10:00:00,Up,1.5", "line 2: a score must be between -1 and 1, was 1.5"),
        (SCORED, "2024-01-01 10:00:00,Up,good", "line 2: Accurate Sentiments must be a finite"),
        (SCORED, "2024-01-01 10:00:00, ,0.5", "line 2: a headline must have a text, was empty"),
        (SCORED, "01/02/2024 10:00,Up,0.5", "line 2: Date must be .*, was '01/02/2024 10:00'"),
        (SCORED, "2025-06-02 10:00:00,Up,0.5", "a publication must not lie in the future"),
        (
            SEEN,
            "2024-01-01T10:00:00Z,2024-01-01T09:00:00Z,Up,,Desk",
            "line 2: first_seen must not be before the publication",
        ),
        (
            OUTLETS,
            outlet("7-13-2022 04:24"),
            "line 2: date must be %d-%m-%Y %H:%M, was '7-13-2022 04:24'",
        ),
        (OUTLETS, outlet("5-7-2022 04:24", polarity="0'"), "line 2: sentiment must be {'class'"),
        (OUTLETS, outlet("5-7-2022 04:24", polarity="__import__('os')"), "line 2: sentiment must"),
    ],
)
def test_bad_rows_are_refused_by_line(text_file, options, header, row, complaint):
    with pytest.raises(DataError, match=complaint):
        read(text_file("news.csv", f"{header}\n{row}\n"), options)


def test_a_missing_column_is_named(text_file, options):
    text = "Date,Short Description\n2024-01-01 10:00:00,Up\n"
    with pytest.raises(DataError, match="missing: Accurate Sentiments, present: Date, Short"):
        read(text_file("news.csv", text), options)


def test_a_fresh_headline_is_not_put_into_the_future(text_file):
    now = parse_time("2024-01-01T10:00:20")
    text = f"{SCORED}\n2024-01-01 10:00:00,Up,0.5\n"
    batch = read(text_file("news.csv", text), ImportOptions(now_ns=now))
    assert batch.columns["ts_init"].tolist() == [now]


def test_labelled_sentences_are_explained(shared_data, text_file):
    labelled = open_source(shared_data / "news/labelled/financial_phrasebank.csv")
    assert "labelled sentences without a time" in news.explain_labelled(labelled)
    assert news.explain_labelled(open_source(text_file("a.csv", "x,y\npositive,1\n"))) == ""


def test_the_real_summaries(shared_data, options):
    batch = read(shared_data / "news/bitcoin_news_2021_2023.csv", options)
    # 172 repeated texts, says the README: two within their minute, the others at other times.
    assert len(batch) == 9_960 - 2
    assert "170 texts published again at another time kept" in batch.notes
    assert np.all(np.diff(batch.columns["ts_init"]) >= 0)
    assert np.nanmin(batch.columns["score"]) >= -1.0


def test_the_real_first_sightings(shared_data, options):
    batch = read(shared_data / "news/bitcoin_news_2025_first_seen.csv.gz", options)
    lag = batch.columns["ts_init"] - batch.columns["ts_published"] - MINUTE
    assert len(batch) == 859
    assert lag.min() >= 0
    assert np.median(lag) > 30 * MINUTE


def test_the_real_outlets(shared_data, options):
    batch = read(shared_data / "news/cryptonews_2021_2022.csv", options)
    assert len(batch) == 7_524 - 2
    published = batch.columns["ts_published"]
    # Read month-first, its days would scatter over the years.
    assert published.min() == parse_time("2021-10-12T20:00")
    assert published.max() == parse_time("2022-07-05T04:24")
    assert np.all(batch.columns["ts_init"] - published <= NS_PER_DAY + MINUTE)
    assert set(batch.columns["asset"]) == {"btc", "eth", "crypto"}
