from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from research.novelty import MEMORY_HEADLINES, MEMORY_NS, NoveltyMeter, novelties

HOUR = 3_600_000_000_000


def test_novelty_falls_with_the_words_that_were_there_before() -> None:
    meter = NoveltyMeter()
    assert meter.measure(0, "Bitcoin falls below 20,000 dollars") == 1.0
    assert meter.measure(HOUR, "Exchange halts withdrawals") == 1.0
    # Four of the words of both are shared by both.
    near = meter.measure(2 * HOUR, "Bitcoin falls below 20,000")
    assert 0.0 < near < 0.5
    assert meter.measure(3 * HOUR, "bitcoin FALLS below 20,000 Dollars!") == 0.0
    assert meter.measure(4 * HOUR, "₿ ↑↑") == 1.0
    assert meter.measure(5 * HOUR, "₿ ↑↑") == 0.0


def test_what_was_long_ago_is_new_again() -> None:
    for apart, expected in ((MEMORY_NS - 1, 0.0), (MEMORY_NS, 1.0)):
        assert novelties([0, apart], ["the same", "the same"])[1] == expected


HEADLINES = st.lists(
    st.tuples(
        st.integers(0, 30 * HOUR),
        st.lists(st.sampled_from(["btc", "eth", "falls", "rises", "bank", "ban"]), max_size=4),
    ),
    min_size=1,
    max_size=40,
)


@given(HEADLINES, st.integers(0, 39))
def test_novelty_is_known_with_the_headline(
    headlines: list[tuple[int, list[str]]], cut: int
) -> None:
    ordered = sorted((ts, " ".join(words)) for ts, words in headlines)
    stamps, texts = [ts for ts, _ in ordered], [text for _, text in ordered]
    everything = novelties(stamps, texts)
    assert ((everything >= 0.0) & (everything <= 1.0)).all()
    np.testing.assert_array_equal(novelties(stamps[:cut], texts[:cut]), everything[:cut])


@given(HEADLINES, st.integers(0, 39))
def test_a_meter_that_began_later_agrees_once_it_remembers_enough(
    headlines: list[tuple[int, list[str]]], skipped: int
) -> None:
    ordered = sorted((4 * ts, " ".join(words)) for ts, words in headlines)
    stamps, texts = np.array([ts for ts, _ in ordered]), [text for _, text in ordered]
    skipped = min(skipped, len(texts) - 1)
    later = novelties(stamps[skipped:].tolist(), texts[skipped:])
    enough = stamps[skipped:] >= stamps[skipped] + MEMORY_NS
    np.testing.assert_array_equal(
        later[enough], novelties(stamps.tolist(), texts)[skipped:][enough]
    )


def test_memory_is_bounded() -> None:
    texts = ["first", *(f"word{number}" for number in range(MEMORY_HEADLINES)), "first"]
    assert novelties([0] * len(texts), texts)[-1] == 1.0
    assert novelties([0] * (len(texts) - 1), [*texts[:-2], "first"])[-1] == 0.0
