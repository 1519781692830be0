"""Plant faults one at a time and see that the tests of the core find every one: `make mutants`.

Each fault is one edit in a copy of the sources. A fault that survives means that a test is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
COPIED = ("featurestore", "streams", "tests", "definitions", "pyproject.toml")
KERNEL = ("tests/kernel",)
TIME = ("tests/streams/test_watermark.py",)
WINDOWS = ("tests/kernel/test_windows.py",)
EXPRESSIONS = ("tests/kernel/test_expressions.py",)
OWN = ("tests/kernel/test_own.py",)
SIMULATION = ("tests/simulation",)
LOOPS = ("tests/kernel/test_loops.py",)
LIMIT_S = 600


def shown_by(function: str) -> tuple[str, ...]:
    """The column of the table that would show it."""
    return (f"tests/kernel/test_table.py::test_rows_and_join_equal_the_plain_value[{function}]",)


@dataclass(frozen=True)
class Mutant:
    """One planted fault."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...] = KERNEL


K = "featurestore/kernel/"
A = K + "aggregates/"
S = "streams/"
ONLINE = "featurestore/online/"
MUTANTS = (
    Mutant("window tail one tile late", K + "windows.py", "(moments_us - self.shift_us - self.size_us) // self.slide_us", "(moments_us - self.shift_us - self.size_us) // self.slide_us + 1"),
    Mutant("tail edge exclusive", K + "tilings.py", "return tile * self.tile_us", "return tile * self.tile_us + 1"),
    Mutant("event on an edge in the wrong tile", K + "tilings.py", "return event_us // self.tile_us", "return (event_us + 1) // self.tile_us"),
    Mutant("oldest tile left out of a roll-up", K + "tiles.py", "covered = tiles.tile >= over.first_tile(moment)[0]", "covered = tiles.tile > over.first_tile(moment)[0]"),
    Mutant("a tile dropped while it is still reached", K + "tiles.py", "tiles.tile >= oldest[tiles.row]", "tiles.tile > oldest[tiles.row]"),
    Mutant("a tile never dropped", K + "tiles.py", "return tiles.take(tiles.tile >= oldest[tiles.row])", "return tiles"),
    Mutant("neighbouring entities run together", K + "tiles.py", "(row[1:] != row[:-1]) | (tile[1:] != tile[:-1])", "tile[1:] != tile[:-1]"),
    Mutant("neighbouring tiles run together", K + "tiles.py", "(row[1:] != row[:-1]) | (tile[1:] != tile[:-1])", "row[1:] != row[:-1]"),
    Mutant("merge order lost", K + "tiles.py", "order = np.lexsort((tile, row))", "order = np.lexsort((row, tile))"),
    Mutant("newest event time wrong", K + "values.py", "np.maximum.at(newest_us", "np.minimum.at(newest_us"),
    Mutant("head edge exclusive in the join", K + "values.py", "return self._places(row, moment_us, True)", "return self._places(row, moment_us, False)"),
    Mutant("null shown as a value", K + "values.py", "valid[present], values[present] = done.valid, done.values", "valid[present], values[present] = True, done.values"),
    Mutant("empty count null", K + "values.py", "if output.aggregate.zero_when_empty or valid.all():", "if valid.all():"),
    Mutant("two windows of one level share an answer", K + "values.py", "plan.levels[index], output.window, moment_us)", "plan.levels[index], plan.levels[index].windows[0], moment_us)"),
    Mutant("newest event time not stored", K + "rows.py", "plan.layout, rows.newest_us, rungs", "plan.layout, rows.newest_us * 0, rungs"),
    Mutant("string bytes read twice", K + "rows.py", "heap_at[row] = start + size", "heap_at[row] = start"),
    Mutant("stored sums too narrow", K + "rows.py", "np.maximum.at(need[:", "np.minimum.at(need[:"),
    Mutant("sign of a narrowed sum lost", K + "exact.py", "fits &= (top >= 1 << 31) == (sign[:, 0] != 0)", "fits &= True"),
    Mutant("lost carry", K + "exact.py", "out[:, place + 1] += out[:, place] >> 32", "out[:, place + 1] += 0"),
    Mutant("a product's middle limb misplaced", K + "exact.py", "place + _LIMB_BITS * index", "place + (_LIMB_BITS - 1) * index"),
    Mutant("rounding forgets low digits", K + "exact.py", "sticky |= ((magnitude != 0) & below).any(axis=1)", "sticky |= False"),
    Mutant("population for sample variance", K + "exact.py", "[counts, counts - ddof]", "[counts, counts]"),
    Mutant("a mean one unit off", K + "exact.py", "out = _rounded(quotient, exponent - 32 * pad, inexact, negative)", "out = np.nextafter(_rounded(quotient, exponent - 32 * pad, inexact, negative), np.inf)"),
    Mutant("negative integers unsigned", K + "exact.py", "out[:, 1] = values >> 32", "out[:, 1] = (values >> 32) & _MASK"),
    Mutant("integer overflow not seen", K + "exact.py", "return low, (top == rest[:, None]).all(axis=1)", "return low, np.ones(len(low), dtype=np.bool_)"),
    Mutant("sum keeps a null's slot", A + "sums.py", "column.values if column.valid is None else np.where(column.valid, column.values, 0)", "column.values"),
    Mutant("sum misses the newest event in the join", A + "sums.py", "prefix[high] - prefix[low]", "prefix[high - 1] - prefix[low]"),
    Mutant("count takes nulls", A + "counting.py", "else valid.astype(np.int64)", "else np.ones(len(events), dtype=np.int64)"),
    Mutant("count misses the newest event in the join", A + "counting.py", "prefix[high] - prefix[low]", "prefix[high - 1] - prefix[low]"),
    Mutant("zero keeps its sign in min and max", A + "extremes.py", "values = column.values + 0.0 if", "values = column.values if"),
    Mutant("range extreme looks at one end", A + "extremes.py", "table[high[asked] - (1 << level)])", "table[low[asked]])"),
    Mutant("extreme keeps a null's slot", A + "extremes.py", "values if column.valid is None else np.where(column.valid, values, self._empty())", "values"),
    Mutant("ties forget the offset", A + "order.py", '(state["offset"], state["partition"], state["event_us"], np.cumsum(run))', '(state["partition"], state["event_us"], np.cumsum(run))'),
    Mutant("ties forget the partition", A + "order.py", '(state["offset"], state["partition"], state["event_us"], np.cumsum(run))', '(state["offset"], state["event_us"], np.cumsum(run))'),
    Mutant("last from before the window", A + "order.py", "inside = edge >= low", "inside = edge >= 0"),
    Mutant("first from after the window", A + "order.py", "inside = edge < high", "inside = edge < total"),
    Mutant("last takes a null", A + "order.py", "events.event_us if column.valid is None else np.where(column.valid, events.event_us, self._none())", "events.event_us"),
    Mutant("pairs forget their counts", A + "pairs.py", "np.add.reduceat(count, firsts)", "1"),
    Mutant("pairs keep what left the window", A + "pairs.py", "if not held[key]:", "if held[key] < 0:"),
    Mutant("negative buckets fall", A + "pairs.py", "top - np.uint64(1) - (whole - top), whole + top)", "whole - top, whole + top)"),
    Mutant("pairs keep the largest hashes", A + "pairs.py", "else min(end, start + self.pairs_max)\n            out[index] = raw[start * size : stop * size]", "else min(end, start + self.pairs_max)\n            out[index] = raw[(end - (stop - start)) * size : end * size]"),
    Mutant("quantile one rank low", A + "pairs.py", 'side="right")])', 'side="left")])'),
    Mutant("a gap of one event", A + "extremes.py", "* float(SECOND_US)), gaps > 0)", "* float(SECOND_US)), gaps >= 0)"),
    Mutant("deviation of one value", A + "moments.py", "counts > ddof)", "counts >= ddof)"),
    Mutant("rate in microseconds", A + "counting.py", "* float(SECOND_US) / size_us", "/ size_us"),
    Mutant("events sorted by offset before partition", K + "events.py", "np.lexsort((self.offset, self.partition, ", "np.lexsort((self.partition, self.offset, "),
    Mutant("a shifted window ends late", K + "windows.py", "(moments_us - self.shift_us) // self.slide_us if", "(moments_us - self.shift_us) // self.slide_us + 1 if", WINDOWS),
    Mutant("a shifted window forgets its end", K + "tiles.py", "covered &= tiles.tile < end[0]", "pass", shown_by("count")),
    Mutant("a shifted window forgets its end in the join", K + "values.py", "return low, place.at_or_after(spine_row, over.tiling.start_us(end))", "return low, high", shown_by("count")),
    Mutant("the period before is the one so far", K + "windows.py", "self.tiling.start_us(tile) - 1)", "self.tiling.start_us(tile))", shown_by("count")),
    Mutant("a pause as long as the gap ends a session", K + "tiles.py", "first_us[1:] - last_us[:-1] > over.gap_us", "first_us[1:] - last_us[:-1] >= over.gap_us", WINDOWS),
    Mutant("a session goes on after a pause", K + "tiles.py", "(number == number[ends]) & (moment_us", "(moment_us", WINDOWS),
    Mutant("a session stays open for ever", K + "tiles.py", "& (moment_us - last_us[ends] <= over.gap_us)", "", shown_by("count")),
    Mutant("a session stays open for ever in the join", K + "values.py", "is_open = (low < high) & (spine_us - events.event_us[newest] <= over.gap_us)", "is_open = low < high", shown_by("count")),
    Mutant("a session is longer than its longest in the join", K + "values.py", "np.maximum(low, since[newest])", "since[newest]", WINDOWS),
    Mutant("one event too many among the newest", K + "tiles.py", "np.arange(len(tiles)) >= ends - events", "np.arange(len(tiles)) >= ends - events - 1", shown_by("count")),
    Mutant("the newest of another entity", K + "values.py", "np.maximum(first, high - over.events)", "np.maximum(0, high - over.events)", shown_by("count")),
    Mutant("single events lose their order", K + "tiles.py", 'np.lexsort((places["offset"], places["partition"], tile, row))', "np.lexsort((tile, row))", WINDOWS),
    Mutant("an hour on UTC", K + "tilings.py", "return start + (event_us - start) // HOUR_US * HOUR_US", "return event_us // HOUR_US * HOUR_US", WINDOWS),
    Mutant("a day of summer time in winter", K + "tilings.py", "behind = clock.utcoffset(datetime(day.year, day.month, day.day))", "behind = clock.utcoffset(datetime(day.year, 1, 1))", WINDOWS),
    Mutant("weeks begin on Sunday", K + "tilings.py", "day.weekday() != 0", "day.weekday() != 6", WINDOWS),
    Mutant("a null condition is true", K + "prepare.py", "truths.fill_null(False)", "truths.fill_null(True)", EXPRESSIONS + shown_by("count")),
    Mutant("where forgets the column's nulls", K + "prepare.py", "masks = [] if source.valid is None else [source.valid]", "masks: list = []", shown_by("sum")),
    Mutant("two columns count where one is null", K + "prepare.py", "masks.append(partner)", "pass", shown_by("covariance")),
    Mutant("rows may look at each other", K + "expressions.py", "not columns or not _every_part_row_by_row(written)", "not columns", EXPRESSIONS),
    Mutant("a membership looks at other rows", K + "expressions.py", "if _mixes_rows(found, types):", "if False:", EXPRESSIONS),
    Mutant("one bad row takes its batch with it", K + "expressions.py", "if len(frame) <= 1:", "if True:", EXPRESSIONS),
    Mutant("division by zero is served", K + "expressions.py", "mask=~np.isfinite(held)", "mask=np.isnan(held)", EXPRESSIONS),
    Mutant("the last n, oldest first", A + "lists.py", 'reverse=self.which == "last"', 'reverse=self.which == "first"', shown_by("last_n")),
    Mutant("one value too many", A + "lists.py", "if len(kept) == self.length:", "if len(kept) > self.length:", shown_by("last_n")),
    Mutant("repeats in a distinct list", A + "lists.py", "if self.distinct and value in seen:", "if False:", shown_by("last_n_distinct")),
    Mutant("distinct zeros", A + "lists.py", "one_zero=self.distinct", "one_zero=False", shown_by("last_n_distinct")),
    Mutant("a tally forgets counts", A + "tallies.py", "held[value] += times", "held[value] = times", shown_by("counts")),
    Mutant("a tally keeps what left the window", A + "tallies.py", "if not held[value]:", "if held[value] < 0:", shown_by("counts")),
    Mutant("top values by name alone", A + "tallies.py", "key=lambda one: (-one[1], one[0])", "key=lambda one: one[0]", shown_by("top_k")),
    Mutant("kurtosis of a normal is 3", A + "moments.py", "(below * below) - 3)", "(below * below))", shown_by("kurtosis")),
    Mutant("skewness without its sign", A + "moments.py", "return _signed(math.sqrt(_float(above * above / below**3)), above)", "return math.sqrt(_float(above * above / below**3))", shown_by("skewness")),
    Mutant("covariance of a population", A + "moments.py", "/ (n * (n - 1))", "/ (n * n)", shown_by("covariance")),
    Mutant("trend in microseconds", A + "moments.py", "* SECOND_US / below", "/ below", shown_by("trend")),
    Mutant("a ratio by zero", A + "ratio.py", "& (down.values != 0)", "", shown_by("ratio")),
    Mutant("decay twice as fast", K + "decay.py", "np.divmod(age_us, half_life_us)", "np.divmod(2 * age_us, half_life_us)", shown_by("decayed_sum")),
    Mutant("decay from the start of a tile", K + "prepare.py", "each.decay.tiling.tile_of(event_us) + 1", "each.decay.tiling.tile_of(event_us)", shown_by("decayed_sum")),
    Mutant("the newest tile whole in the join", K + "values.py", "np.where(asked == newest_tile[chosen], head[chosen], sums(spine_row[chosen], asked))", "sums(spine_row[chosen], asked)", shown_by("decayed_sum")),
    Mutant("an own merge drops the odd one", A + "own.py", "kept = np.flatnonzero(inside % 2 == 0)", "kept = np.flatnonzero((inside % 2 == 0) & ((np.arange(total) < last) | (inside == 0)))", OWN),
    Mutant("an own range misses its end", A + "own.py", "((low, 1), (high, -1))", "((low, 1),)", OWN),
    Mutant("check_aggregate forgets zero", "featurestore/testing.py", "assert all(map(_same, one.tolist(), other.tolist()))", "assert all(map(_same, one.tolist(), one.tolist()))", OWN),
    Mutant("the first event of a batch is never late", "streams/watermark.py", "np.concatenate(([newest_before_us], newest_us[:-1]))", "np.concatenate(([0], newest_us[:-1]))", TIME),
    Mutant("a future event moves the watermark", "streams/watermark.py", "np.where(future, np.iinfo(np.int64).min, effective_us)", "effective_us", TIME),
    Mutant("events may come from the future", "streams/watermark.py", "np.minimum(event_us, arrival_us)", "event_us", TIME),
    Mutant("the watermark falls between batches", "streams/watermark.py", "np.maximum(np.maximum.accumulate(moving), newest_before_us)", "np.maximum.accumulate(moving)", TIME),
    # The protocol, found by the histories of the simulator.
    Mutant("a straddle is taken for done", S + "online_sink.py", "                ends[bucket] = stored.offset\n                return True", "                ends[bucket] = stored.offset\n                return False", SIMULATION),
    Mutant("events that a bucket has are counted again", S + "online_sink.py", "work.offsets[work.waiting] >= floor[bucket]", "work.offsets[work.waiting] >= 0", SIMULATION),
    Mutant("a conflict is taken for done", S + "online_sink.py", "            case Conflict():\n                return True", "            case Conflict():\n                return False", SIMULATION),
    Mutant("a lost tail is passed over", S + "online_sink.py", "raise LostTailError(self._view.name, self._view.source.name, partition, offset)", "return False", SIMULATION),
    Mutant("a view begins at its furthest bucket", S + "online_sink.py", "return min(known, key=lambda mark: mark.offset)", "return max(known, key=lambda mark: mark.offset)", SIMULATION),
    Mutant("settled by the furthest bucket", S + "online_sink.py", "return min(end or 0 for end in self._ends[partition])", "return max(end or 0 for end in self._ends[partition])", SIMULATION),
    Mutant("a heartbeat overtakes a commit", S + "online_sink.py", "so that a restart has little to read again.\"\"\"\n        self.finish()", "so that a restart has little to read again.\"\"\"", SIMULATION),
    Mutant("a batch does not wait for the one before", S + "online_sink.py", "or of the one before.\n        \"\"\"\n        self.finish()", "or of the one before.\n        \"\"\"", SIMULATION),
    Mutant("a watermark that is not compared", ONLINE + "functions.lua", "if stored ~= expected then", "if false then", SIMULATION),
    Mutant("no fencing of rows", ONLINE + "functions.lua", "if count > 0 and (state[2] or '') ~= token then", "if false then", SIMULATION),
    Mutant("a commit leaves the bucket's token as it was", ONLINE + "functions.lua", "place, new, 'ver', fresh)", "place, new)", SIMULATION),
    Mutant("a token that repeats", ONLINE + "store.py", "token = self._new_token()", "token = bytes(16)", SIMULATION),
    Mutant("a lost tail looks like a straddle", ONLINE + "functions.lua", "if expected ~= nil and stored < expected then return {'lost', state[1]} end", "", SIMULATION),
    Mutant("a duplicate is written again", ONLINE + "functions.lua", "if stored >= end_offset(new) then return {'duplicate', state[1]} end", "if stored >= end_offset(new) then redis.call('MSET', unpack({keys[2], args[8]})) return {'applied'} end", SIMULATION),
    Mutant("a batch of before a seek back is taken", S + "engine.py", "if batch.first_offset > before.offset or batch.end_offset <= before.offset:", "if batch.end_offset <= before.offset:", SIMULATION),
    Mutant("a batch is not cut to where the engine stands", S + "engine.py", "batch = batch.after(before.offset)", "batch = batch.after(0)", SIMULATION),
    Mutant("the engine begins at the furthest sink", S + "engine.py", "start = min(known, key=lambda mark: mark.offset)", "start = max(known, key=lambda mark: mark.offset)", SIMULATION),
    Mutant("letters are not sent before the log", S + "engine.py", "        self._letters.flush()\n", "", SIMULATION),
    Mutant("lateness begins anew with a restart", S + "engine.py", "new = Mark(batch.end_offset, newest_us,", "new = Mark(batch.end_offset, 0,", SIMULATION),
    Mutant("the group is told before the store holds it", S + "engine.py", "min([mark.offset, *(sink.settled(partition) for sink in self._sinks)])", "self._marks[partition].offset", SIMULATION),
    # The compiled loops.
    Mutant("a carry lost while adding", K + "loops/fold.py", "        carry = total >> 32\n", "        carry = np.int64(0)\n", LOOPS),
    Mutant("a stored tile before the new one is lost", K + "loops/fold.py", "                kept += (source - copied) // size\n", "", LOOPS),
    Mutant("an expired tile is kept", K + "loops/fold.py", "while source < source_end and get(words, source) < oldest[level, row]:", "while source < source_end and get(words, source) < oldest[level, row] - 1:", LOOPS),
    Mutant("an event of an expired tile is kept", K + "loops/fold.py", "while event < event_end and tiles[level, event] < oldest[level, row]:", "while False:", LOOPS),
    Mutant("floats ordered by their bits", K + "loops/words.py", "return bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))", "return bits + (bits >> 63)", LOOPS),
    Mutant("a tile at the window's end is counted", K + "loops/roll_up.py", "get(words, end - size) >= span_end[span]", "get(words, end - size) > span_end[span]", LOOPS),
    Mutant("the sign of a sum's top digit is lost", K + "loops/roll_up.py", "d3 += np.int64(np.int32(words[each + 3]))", "d3 += np.int64(words[each + 3])", LOOPS),
    Mutant("a half is rounded without what lies below", K + "loops/finish.py", "if inexact or head[2]", "if head[2]", LOOPS),
    Mutant("ties at the moment itself are left out", K + "loops/ranges.py", "return event_us <= moment if after else event_us < moment", "return event_us < moment", LOOPS),
)  # fmt: skip

_own = local()


def main() -> int:
    """All of them, or those whose name or file has one of the words given."""
    console, began = Console(), time.monotonic()
    words = sys.argv[1:]
    chosen = [one for one in MUTANTS if not words or any(word in one.what or word in one.file for word in words)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        folder = Path(name)
        if not _passes(_copy(folder), TIME + SIMULATION if words else KERNEL + TIME + SIMULATION):
            console.print("[red]the tests fail without any fault[/]; run `make test` first")
            return 1
        table = Table("planted", "where", "found", title="mutants", title_justify="left")
        found = []
        for mutant, is_found in zip(chosen, pool.map(lambda one: _is_found(one, folder), chosen), strict=True):
            found.append(is_found)
            console.print(f"  {len(found)}/{len(chosen)} {mutant.what}: {'found' if is_found else '[red]SURVIVED[/]'}")
            table.add_row(mutant.what, mutant.file, "yes" if is_found else "[red]NO[/]")
    console.print(table)
    console.print(f"mutants: {sum(found)} of {len(found)} found in {time.monotonic() - began:.0f} s")
    return 0 if all(found) else 1


def _is_found(mutant: Mutant, folder: Path) -> bool:
    copy = _copy(folder)
    path = copy / mutant.file
    source = path.read_text()
    if source.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.what!r}: {mutant.file} has {source.count(mutant.before)} of {mutant.before!r}")
    path.write_text(source.replace(mutant.before, mutant.after))
    try:
        return not _passes(copy, mutant.tests)
    finally:
        path.write_text(source)


def _passes(copy: Path, tests: tuple[str, ...]) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return False
    # 0: all passed; 1: a test failed. Anything else is a fault of this script.
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return done.returncode == 0


def _copy(folder: Path) -> Path:
    """A copy of the sources for this thread."""
    if not hasattr(_own, "copy"):
        _own.copy = Path(tempfile.mkdtemp(dir=folder))
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, _own.copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, _own.copy / name)
    copy: Path = _own.copy
    return copy


if __name__ == "__main__":
    sys.exit(main())
