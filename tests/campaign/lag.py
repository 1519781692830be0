"""Whether lag stays flat while workers are killed: worked off after each kill, no longer at the end than before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

# How long the sends wait behind others that are not applied must not grow by more than this, or by half.
RISE_S, RISE_SHARE = 5.0, 0.5
# A worker that was killed needs seconds to start, and what came meanwhile is worked off beside what comes. The next
# kill may come before that is done.
ABOVE_S = 30.0
# Samples so soon after a kill say what the kill did, and not how the run goes.
_AFTER_KILL_S = 10.0


@dataclass(frozen=True, slots=True)
class Lag:
    """What the samples of a run say of its lag.

    early_s, late_s  in the first and in the last third: the median lag outside of the seconds after a kill, in seconds
                     of work, that is divided by the records a second that were applied in that third. So where sends
                     wait at a cap, which keeps records from growing in number, workers that become slower show all
                     the same
    above_s          the longest that lag was above its median by more than what is applied in RISE_S
    """

    early_s: float
    late_s: float
    above_s: float

    @property
    def is_flat(self) -> bool:
        return self.late_s - self.early_s <= max(RISE_S, RISE_SHARE * self.early_s) and self.above_s <= ABOVE_S


def lag_of(seconds: Sequence[float], lags: Sequence[float], rates: Sequence[float], kills: Sequence[float]) -> Lag:
    """The n samples of a run, its start-up left out.

    seconds  (n) when each was taken, rising; kills are of the same clock
    lags     (n) records that were not applied then
    rates    (n) records a second that were applied since the sample before
    """
    third = len(seconds) // 3
    assert third, "too few samples to be judged"
    calm = [not any(0 <= second - kill < _AFTER_KILL_S for kill in kills) for second in seconds]

    def work_s(first: int, end: int) -> float:
        # Where kills leave no calm sample, all count.
        chosen = [lags[place] for place in range(first, end) if calm[place]] or lags[first:end]
        return median(chosen) / max(fmean(rates[first:end]), 1e-9)

    high, above_s, began_s = median(lags) + RISE_S * fmean(rates), 0.0, None
    for second, lag in zip(seconds, lags, strict=True):
        if lag <= high:
            began_s = None
            continue
        began_s = second if began_s is None else began_s
        above_s = max(above_s, second - began_s)
    return Lag(work_s(0, third), work_s(len(seconds) - third, len(seconds)), above_s)
