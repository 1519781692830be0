"""What a row of the matrix is, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tests.campaign.world import World

Status = Literal["ok", "FAILED", "not built", "not here"]


class FailedError(Exception):
    """The product does not do what the row expects."""


class NotBuiltError(Exception):
    """The product does not have what the row is about."""


class NotHereError(Exception):
    """The fault cannot be injected on one machine, or not by an ordinary user."""


@dataclass(frozen=True, slots=True)
class Row:
    """One fault of reliability.md, section 5.

    act  injects it, waits, compares with the oracle, and returns what was seen; raises one of the errors above
    """

    number: int
    fault: str
    injected: str
    expected: str
    act: Callable[[World], str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a row."""

    row: int
    fault: str
    injected: str
    expected: str
    seen: str
    status: Status
    seed: int
    seconds: float


ROWS: dict[int, Row] = {}


def row(number: int, fault: str, injected: str, expected: str) -> Callable[[Callable[[World], str]], None]:
    """Enter a function into the matrix under its number."""

    def enter(act: Callable[[World], str]) -> None:
        assert number not in ROWS, number
        ROWS[number] = Row(number, fault, injected, expected, act)

    return enter


def expect(held: bool, seen: str) -> None:
    """Raise FailedError with what was seen where the claim does not hold."""
    if not held:
        raise FailedError(seen)
