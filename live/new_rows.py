"""What is new in the recorder's lists, from the front of which old rows are taken away at times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class NewRows[T]:
    """Tells what a list has that it did not have before.

    Parameters
    ----------
    known : sequence
        What is no news: rows that an earlier process left.
    """

    def __init__(self, known: Sequence[T] = ()) -> None:
        self._last: T | None = known[-1] if known else None
        self.count = 0

    def of(self, rows: Sequence[T]) -> list[T]:
        """Return the rows behind the last one that was seen, and count them.

        Where that one has been taken away, so was all before it.
        """
        if not rows or rows[-1] is self._last:
            return []
        found = []
        for row in reversed(rows):
            if row is self._last:
                break
            found.append(row)
        self._last = rows[-1]
        self.count += len(found)
        return found[::-1]


class NewEntries[T]:
    """The same of a mapping, from the middle of which rows are taken away as well.

    Parameters
    ----------
    known : mapping
        What is no news.
    """

    def __init__(self, known: Mapping[str, T]) -> None:
        self._known = set(known)
        self.count = 0

    def of(self, entries: Mapping[str, T]) -> list[T]:
        """Return the values whose keys were not there before, and count them."""
        found = [one for name, one in entries.items() if name not in self._known]
        if found or len(entries) != len(self._known):
            self._known = set(entries)
        self.count += len(found)
        return found
