"""What lookups said while something went wrong, held against the oracle: their values, and the status of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.campaign.audit import bits
from tests.campaign.client import Answer
from tests.campaign.oracle import SECOND_US, Event, Expected, value
from tests.campaign.verdict import expect

# Between the return of older rows and the worker's next look nobody can tell them from those of a quiet day. That look
# comes within a second of a worker that runs, and one that ended over the loss has to start.
UNSEEN_S = 10.0


def check_present(
    answers: Sequence[Answer],
    expected: Expected,
    floor: Mapping[str, int],
    *,
    back_us: Sequence[int] = (),
    unseen_s: float = UNSEEN_S,
    is_told: bool = True,
) -> str:
    """What was called PRESENT had at least all that was in before, and nothing ever counted what was not sent.

    floor     user -> events that were in every sink before the fault
    back_us   when a store came back that may be older than it was: until STALE comes, but for no longer than unseen_s,
              lookups may answer from it as from any other
    is_told   STALE must have come at least once

    Returns a sentence of what was seen.
    """
    sent = {name: len(events) for name, events in expected.entities(expected.contract.views[0]).items()}
    held, stale, unseen_us, graces = dict(floor), 0, 0, sorted(back_us)
    grace_us: int | None = None
    for answer in answers:
        while graces and graces[0] <= answer.given_us:
            grace_us = graces.pop(0)
        columns = answer.columns
        for user, n, status in zip(columns["user"], columns["by_user__n_all"], columns["by_user__status"], strict=True):
            expect(
                n <= sent.get(user, 0), f"a lookup gave {n} events of {user}, of which {sent.get(user, 0)} were sent"
            )
            if status == "STALE":
                stale, grace_us = stale + 1, None
            elif n >= held.get(user, 0):
                held[user] = n
            else:
                late_us = None if grace_us is None else answer.asked_us - grace_us
                seen = f"a lookup gave {n} events of {user} and said {status}, though {held[user]} had been in"
                expect(late_us is not None, seen)
                assert late_us is not None
                expect(late_us <= unseen_s * SECOND_US, f"{seen}, {late_us / SECOND_US:.1f} s after the loss")
                unseen_us = max(unseen_us, late_us)
    expect(bool(answers), "no lookup was answered: nothing was tried")
    expect(stale > 0 or not is_told, f"none of {len(answers)} lookups said STALE, though rows were lost")
    told = f"{len(answers)} lookups, {stale} values STALE, none short that said PRESENT"
    return told + (f" from {unseen_us / SECOND_US:.1f} s after the loss on" if unseen_us else "")


def check_whole(answers: Sequence[Answer], expected: Expected, fresh_us: int) -> str:
    """Every row that was looked up is that of a beginning of its user's events, in every bit, and is fresh and PRESENT.

    A worker applies a user's events in the order of their offsets, so rows, old or new, hold the first so many of them.
    Once, at a flip, they may be fewer than they were.

    fresh_us  what the broker had so long before a lookup is in it
    """
    view = expected.contract.views[0]
    ordered = {
        name: sorted(events, key=lambda event: (event.partition, event.offset))
        for name, events in expected.entities(view).items()
    }
    before: dict[str, int] = {}
    back = 0
    known: dict[tuple[str, int], list[Event]] = {}
    compared: set[tuple[Any, ...]] = set()
    for answer in answers:
        columns = answer.columns
        is_back = False
        for place, user in enumerate(columns["user"]):
            status, n = columns["by_user__status"][place], columns["by_user__n_all"][place]
            expect(status == "PRESENT", f"a lookup of {user} said {status}, though nothing was lost")
            events = ordered[user]
            due = sum(event.arrival_us <= answer.asked_us - fresh_us for event in events)
            expect(due <= n <= len(events), f"a lookup gave {n} of {user}'s {len(events)} events, {due} were due")
            is_back, before[user] = is_back or n < before.get(user, 0), n
            if (user, n) not in known:
                known[user, n] = sorted(events[:n], key=lambda event: event.order)
            for feature, output in view.outputs.items():
                given = bits(columns[f"by_user__{feature}"][place])
                # Windows move on between the question and the answer, and nobody knows where in between they stood.
                moments = (answer.asked_us, answer.given_us)
                edges = () if output.window_us is None else (moment_us // output.slide_us for moment_us in moments)
                of = (user, n, feature, given, *edges)
                if of not in compared:
                    wanted = [value(output, known[user, n], moment_us) for moment_us in moments]
                    compared.add(of)
                    expect(
                        given in map(bits, wanted),
                        f"{feature} of {user} is {given}, of its first {n} events it is {wanted}",
                    )
        back += is_back
    expect(bool(answers), "no lookup was answered: nothing was tried")
    expect(back <= 1, f"rows held less than before {back} times; a flip does that once")
    stepped = "stepped back once" if back else "never stepped back"
    return f"{len(answers)} lookups, each of a beginning of its user's events, fresh and PRESENT; {stepped}"
