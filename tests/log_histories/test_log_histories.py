"""A few histories in every test run; `python -m tests.log_histories --seeds 1000` plays more."""

from __future__ import annotations

import pytest

from tests.histories import broken
from tests.log_histories.__main__ import made

_TOGETHER = 10


@pytest.mark.parametrize("first", range(0, 40, _TOGETHER))
def test_no_history_of_writers_loses_or_doubles_a_row(first: int) -> None:
    assert broken(made, range(first, first + _TOGETHER)) == []
