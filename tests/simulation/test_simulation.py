"""A few histories in every test run; `make simulate` plays ten thousand."""

from __future__ import annotations

import pytest

from tests.histories import broken
from tests.simulation.__main__ import made

_TOGETHER = 10


@pytest.mark.parametrize("first", range(0, 150, _TOGETHER))
def test_no_history_loses_or_doubles_an_event(first: int) -> None:
    assert broken(made, range(first, first + _TOGETHER)) == []
