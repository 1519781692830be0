"""A few histories in every test run; `make simulate` plays ten thousand."""

from __future__ import annotations

from tests.simulation.__main__ import broken


def test_no_history_loses_or_doubles_an_event() -> None:
    assert broken(range(150)) == []
