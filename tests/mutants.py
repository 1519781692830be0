"""Plant faults one at a time and see that the tests of the core find every one: `make mutants`.

Each fault is one edit in a copy of the sources. A fault that survives means that a test is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import local

from rich.console import Console
from rich.markup import escape

ROOT = Path(__file__).parents[1]
AT_ONCE = ("--dist", "worksteal", "-n")
COPIED = ("featurestore", "streams", "tests", "definitions", "pyproject.toml")
TIME = ("tests/streams/test_watermark.py",)
WINDOWS = ("tests/kernel/test_windows.py",)
EXPRESSIONS = ("tests/kernel/test_expressions.py",)
OWN = ("tests/kernel/test_own.py",)
SIMULATION = ("tests/simulation/test_simulation.py",)
CLEANED = ("tests/offline/test_cleaned.py",)
MANY_DAYS = ("tests/offline/test_many_days.py",)
HOLES = ("tests/streams/test_holes.py",)
LOG_HISTORIES = ("tests/log_histories/test_log_histories.py",)
BUCKETS = ("tests/online/test_buckets.py",)
OWNER = ("tests/offline/test_event_log.py::test_a_log_is_written_by_one_project_and_read_by_all",)
GROUP = ("tests/streams/test_group.py",)
ALERT = (
    "tests/streams/test_broker_access.py::test_a_certificate_that_is_refused_after_the_handshake_is_no_lost_connection",
)
CUT_OFF = ("tests/streams/test_broker_access.py::test_a_login_that_was_cut_off_is_no_refusal",)
TRAINING = ("tests/offline/test_training_set.py",)
TOGETHER = ("tests/online/test_together.py",)
MEMORY = ("tests/streams/test_memory.py",)
LOST_TAIL = ("tests/simulation/test_lost_tail.py",)
EXACT = ("tests/kernel/test_exact.py",)
RANGES = ("tests/streams/test_ranges.py::test_no_history_commits_past_an_unfinished_batch[the-first-200]",)
PRESSURE = ("tests/streams/transport/test_pressure.py",)
DECIMALS = ("tests/kernel/test_decimals.py",)
DISTINCT = ("tests/kernel/test_distinct.py",)
PAIRS = ("tests/kernel/test_pairs.py",)
LOST = (
    "tests/streams/transport/test_with_faust.py"
    "::test_a_worker_that_fell_out_of_the_group_comes_back_and_tells_nothing_of_what_it_lost",
)
PAUSED = ("tests/streams/transport/test_paused.py::test_what_was_paused_goes_on_after_a_member_came_and_went[eager]",)
PAUSED_UNREAD = (
    "tests/streams/transport/test_paused.py::test_a_partition_that_gets_nothing_of_what_the_broker_has_is_seen",
)
UNREAD = ("tests/streams/transport/test_paused.py::test_only_who_stands_at_one_offset_for_so_long_is_unread",)
CODEC = ("tests/streams/test_json_codec.py",)
COLUMNS = ("tests/streams/test_json_columns.py",)
ARRIVAL = ("tests/streams/test_arrival.py",)
DEADLINE = ("tests/streams/test_deadline.py",)
CUT = ("tests/streams/test_cut_log.py",)
TIES = ("tests/kernel/test_ties.py",)
PLAIN = ("tests/kernel/test_plain.py",)
CODECS = tuple(f"tests/streams/codecs/test_{name}.py" for name in ("evolution", "framing", "contract", "every_format"))
FRAMES = ("tests/streams/codecs/test_framing.py",)
SIZES = ("tests/streams/codecs/test_sizes.py",)
TOO_MANY_BAD = ("tests/streams/test_too_many_bad.py::test_one_bad_event_more_than_a_record_may_have_rejects_it_whole",)
PLACES = ("tests/streams/codecs/test_records_of_many.py",)
NATIVE = ("tests/streams/transport/test_native.py",)
FILL = ("tests/streams/test_fill.py",)
CATCH_UP = ("tests/streams/test_catch_up.py",)
TOPIC_IDS = ("tests/streams/test_topic_ids.py",)
SERVING = ("tests/streams/test_serving_sink.py",)
SLICED = ("tests/streams/test_online_sink.py",)
LETTERS = ("tests/streams/test_letters.py",)
LARGE = ("tests/streams/test_large_letters.py",)
CUT_RECORDS = tuple(
    f"{file}::test_what_is_cut_is_one_letter_at_every_reading_whatever_its_beginning_says" for file in LARGE
)
PARTS = ("tests/streams/codecs/test_sizes.py::test_batches_of_many_bytes_are_decoded_part_by_part_and_applied_alike",)
PRODUCER = ("tests/streams/test_producer.py",)
SEND_PIPE = ("tests/cli/test_commands.py::test_send_reads_a_pipe_at_standard_input_and_checks_all_of_it_first",)
LETTER_REPLAY = tuple(
    f"tests/streams/test_letter_replay.py::test_{name}"
    for name in (
        "letters_that_find_no_room_any_more_are_left_and_all_others_come_back_once_in_order",
        "of_a_cut_letter_nothing_comes_back",
        "letters_are_decoded_in_bounded_parts_and_judged_alike",
        "erased_letters_are_gone_and_what_cannot_be_read_is_told_once",
    )
)
WAITING = (
    "tests/streams/test_failed_commit.py::test_letters_that_find_no_room_end_the_worker_once_and_wait_within_bounds",
)
PAYLOADS = ("tests/streams/test_payloads.py",)
DEFINITIONS = ("tests/spec/test_definitions.py",)
MANY = (
    "tests/streams/test_letters_of_many.py::test_a_record_comes_back_when_one_of_its_events_would_be_taken_as_it_came_for_the_first_time",
)
ALONE = (
    "tests/streams/test_backfill.py::test_a_second_run_of_a_view_is_refused_while_one_is_at_work_and_not_after_it",
)
LOG_COLUMNS = ("tests/offline/test_log_columns.py",)
TYPES = ("tests/streams/test_changed_type.py",)
LIMIT_S = 600


def in_kernel(file: str, test: str) -> tuple[str, ...]:
    """One test of the kernel."""
    return (f"tests/kernel/test_{file}.py::test_{test}",)


# The compiled loops against NumPy, then the whole kernel against plain events.
TWIN = in_kernel("loops", "rows_and_values_are_the_same")
MANY_ROWS = in_kernel("loops", "many_rows_of_many_shapes")
FOLDED = in_kernel("parity", "rows_folded_in_any_batches_roll_up_to_the_plain_value")
JOINED = in_kernel("parity", "point_in_time_values_equal_the_plain_value_at_any_moment")


def in_backfills(*tests: str) -> tuple[str, ...]:
    """Some tests of backfills, which start processes."""
    return tuple(f"tests/streams/test_backfill.py::test_{test}" for test in tests)


def in_replays(test: str) -> tuple[str, ...]:
    """One test of replays."""
    return (f"tests/streams/test_replay.py::test_{test}",)


def in_letter_replays(test: str) -> tuple[str, ...]:
    """One test of letters that are taken back."""
    return (f"tests/streams/test_letter_replay.py::test_{test}",)


# What a store lost while a backfill was under way.
FLUSHED = in_backfills("what_only_the_log_has_is_not_left_out_where_the_store_is_flushed_between_fill_and_follow")
BEHIND_FLIP = in_backfills("a_backfill_that_goes_on_behind_its_flip_fills_what_the_store_lost_since[before-drop]")
NOWHERE = in_backfills("rows_that_neither_log_nor_topic_have_are_not_called_complete_by_a_backfill")
OLDER_ALIAS = in_backfills("rows_are_not_dropped_while_an_alias_that_came_back_older_names_them")


def shown_by(function: str) -> tuple[str, ...]:
    """The column of the table that would show it."""
    return (f"tests/kernel/test_table.py::test_rows_and_join_equal_the_plain_value[{function}]",)


# A bucket's version and those of its rows are counted up, as they would be by somebody who needs them only to differ.
COUNTED = """\
  local number = string.format('%016d', (tonumber(state[1] or '') or 0) + 1)
  for row = first, last do args[call.head + row] = number .. string.sub(args[call.head + row], 17) end
  call.marks[2] = number
"""
# Each row has its own end offset beside it, and is written where that is less than the batch's: right as long as
# batches have the edges that they had before.
BESIDE_ROWS = """\
local function commit_bucket(call, keys, args, key, token, first, last)
  local state = fields_of(key, call.fields)
  if last >= first and (state[1] or '') ~= token then
    for row = first, last do
      local read = string.sub(args[call.head], (row - 1) * TOKEN_BYTES + 1, row * TOKEN_BYTES)
      local held = redis.call('GETRANGE', keys[call.states + row], 0, TOKEN_BYTES - 1)
      if held ~= read and not (held == '' and read == ABSENT) then return {'conflict'} end
    end
  end
  for row = first, last do
    local has_all, own = true, keys[call.states + row] .. ':ends'
    for move = 1, call.moves do
      local ends = end_offset(call.marks[2 * move + 2])
      if (tonumber(redis.call('HMGET', own, call.fields[move + 1])[1] or '') or 0) < ends then
        has_all = false
        redis.call('HSET', own, call.fields[move + 1], tostring(ends))
      end
    end
    if not has_all then set_rows(call, keys, args, row, row) end
  end
  redis.call('HSET', key, 'ver', call.marks[2])
  for move = 1, call.moves do
    if (end_offset(state[move + 1]) or 0) < end_offset(call.marks[2 * move + 2]) then
      redis.call('HSET', key, call.fields[move + 1], call.marks[2 * move + 2])
    end
  end
  return {'applied'}
end

"""


@dataclass(frozen=True)
class Mutant:
    """One planted fault."""

    what: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


K = "featurestore/kernel/"
A = K + "aggregates/"
S = "streams/"
T = S + "transport/"
ONLINE = "featurestore/online/"
LOG = "featurestore/offline/event_log.py"
LOG_FILES = "featurestore/offline/log_files.py"
LOG_CLEANING = "featurestore/offline/log_cleaning.py"
LOG_MARKS = "featurestore/offline/log_marks.py"
MUTANTS = (
    Mutant("window tail one tile late", K + "windows.py", "(moments_us - self.shift_us - self.size_us) // self.slide_us", "(moments_us - self.shift_us - self.size_us) // self.slide_us + 1", in_kernel("distinct", "exact_to_the_bound_then_as_the_definition_says_in_any_order")),
    Mutant("tail edge exclusive", K + "tilings.py", "return tile * self.tile_us", "return tile * self.tile_us + 1", in_kernel("decimals", "conditions_and_added_columns_over_decimals")),
    Mutant("event on an edge in the wrong tile", K + "tilings.py", "return event_us // self.tile_us", "return (event_us + 1) // self.tile_us", FOLDED),
    Mutant("oldest tile left out of a roll-up", K + "tiles.py", "covered = tiles.tile >= over.first_tile(moment)[0]", "covered = tiles.tile > over.first_tile(moment)[0]", in_kernel("decimals", "conditions_and_added_columns_over_decimals")),
    Mutant("a tile dropped while it is still reached", K + "tiles.py", "tiles.tile >= oldest[tiles.row]", "tiles.tile > oldest[tiles.row]", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("a tile never dropped", K + "tiles.py", "return tiles.take(tiles.tile >= oldest[tiles.row])", "return tiles", TWIN),
    Mutant("neighbouring entities run together", K + "tiles.py", "(row[1:] != row[:-1]) | (tile[1:] != tile[:-1])", "tile[1:] != tile[:-1]", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("neighbouring tiles run together", K + "tiles.py", "(row[1:] != row[:-1]) | (tile[1:] != tile[:-1])", "row[1:] != row[:-1]", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("merge order lost", K + "tiles.py", "order = np.lexsort((tile, row))", "order = np.lexsort((row, tile))", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("newest event time wrong", K + "values.py", "np.maximum.at(newest_us", "np.minimum.at(newest_us", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("head edge exclusive in the join", K + "values.py", "return self._places(row, moment_us, True, run)", "return self._places(row, moment_us, False, run)", JOINED),
    Mutant("null shown as a value", K + "values.py", "valid[present], values[present] = done.valid, done.values", "valid[present], values[present] = True, done.values", TWIN),
    Mutant("empty count null", K + "values.py", "if output.aggregate.zero_when_empty or valid.all():", "if valid.all():", in_kernel("decimals", "types_of_features_are_told_before_there_is_a_value")),
    Mutant("two windows of one level share an answer", K + "values.py", "plan.levels[index], output.window, moment_us)", "plan.levels[index], plan.levels[index].windows[0], moment_us)", FOLDED),
    Mutant("newest event time not stored", K + "rows.py", "plan.layout, rows.newest_us, rungs", "plan.layout, rows.newest_us * 0, rungs", TWIN),
    Mutant("string bytes read twice", K + "rows.py", "heap_at[row] = start + size", "heap_at[row] = start", in_kernel("distinct", "exact_to_the_bound_then_as_the_definition_says_in_any_order")),
    Mutant("stored sums too narrow", K + "rows.py", "np.maximum.at(need[:", "np.minimum.at(need[:", MANY_ROWS),
    Mutant("sign of a narrowed sum lost", K + "exact.py", "fits &= (top >= 1 << 31) == (sign[:, 0] != 0)", "fits &= True", EXACT),
    Mutant("lost carry", K + "exact.py", "out[:, place + 1] += out[:, place] >> 32", "out[:, place + 1] += 0", in_kernel("decimals", "means_and_variances_of_eighteen_digits_after_the_point_are_rounded_once")),
    Mutant("a product's middle limb misplaced", K + "exact.py", "place + _LIMB_BITS * index", "place + (_LIMB_BITS - 1) * index", in_kernel("decimals", "means_and_variances_of_eighteen_digits_after_the_point_are_rounded_once")),
    Mutant("rounding forgets low digits", K + "exact.py", "sticky |= ((magnitude != 0) & below).any(axis=1)", "sticky |= False", in_kernel("loops", "a_tie_is_broken_by_whatever_lies_below")),
    Mutant("population for sample variance", K + "exact.py", "[counts, counts - ddof, ", "[counts, counts, ", in_kernel("decimals", "means_and_variances_of_eighteen_digits_after_the_point_are_rounded_once")),
    Mutant("a mean one unit off", K + "exact.py", "out = _rounded(quotient, exponent - 32 * pad, inexact, negative)", "out = np.nextafter(_rounded(quotient, exponent - 32 * pad, inexact, negative), np.inf)", in_kernel("decimals", "a_sum_has_room_for_more_than_any_column_holds")),
    Mutant("negative integers unsigned", K + "exact.py", "out[:, 1] = values >> 32", "out[:, 1] = (values >> 32) & _MASK", TWIN),
    Mutant("integer overflow not seen", K + "exact.py", "return low, (top == rest[:, None]).all(axis=1)", "return low, np.ones(len(low), dtype=np.bool_)", MANY_ROWS),
    Mutant("sum keeps a null's slot", A + "sums.py", "column.values if column.valid is None else np.where(column.valid, column.values, 0)", "column.values", TWIN),
    Mutant("sum misses the newest event in the join", A + "sums.py", "prefix[high] - prefix[low]", "prefix[high - 1] - prefix[low]", in_kernel("decimals", "means_and_variances_of_eighteen_digits_after_the_point_are_rounded_once")),
    Mutant("count takes nulls", A + "counting.py", "else valid.astype(np.int64)", "else np.ones(len(events), dtype=np.int64)", in_kernel("decimals", "an_own_aggregate_sees_whole_numbers_of_the_last_digit")),
    Mutant("count misses the newest event in the join", A + "counting.py", "prefix[high] - prefix[low]", "prefix[high - 1] - prefix[low]", in_kernel("loops", "ranges_are_merged_alike")),
    Mutant("zero keeps its sign in min and max", A + "extremes.py", "values = column.values + 0.0 if", "values = column.values if", TIES),
    Mutant("range extreme looks at one end", A + "extremes.py", "table[high[asked] - (1 << level)])", "table[low[asked]])", in_kernel("loops", "ranges_are_merged_alike")),
    Mutant("extreme keeps a null's slot", A + "extremes.py", "values if column.valid is None else np.where(column.valid, values, self._empty())", "values", TWIN),
    Mutant("ties forget the offset", A + "order.py", '(state["offset"], state["partition"], state["event_us"], np.cumsum(run))', '(state["partition"], state["event_us"], np.cumsum(run))', TIES),
    Mutant("ties forget the partition", A + "order.py", '(state["offset"], state["partition"], state["event_us"], np.cumsum(run))', '(state["offset"], state["event_us"], np.cumsum(run))', TIES),
    Mutant("last from before the window", A + "order.py", "inside = edge >= low", "inside = edge >= 0", MANY_ROWS),
    Mutant("first from after the window", A + "order.py", "inside = edge < high", "inside = edge < total", MANY_ROWS),
    Mutant("last takes a null", A + "order.py", "events.event_us if column.valid is None else np.where(column.valid, events.event_us, self._none())", "events.event_us", TWIN),
    Mutant("pairs forget their counts", A + "pairs.py", "np.add.reduceat(count, firsts)", "1", shown_by("entropy")),
    Mutant("pairs keep what left the window", A + "pairs.py", "if not held[key]:", "if held[key] < 0:", PAIRS),
    Mutant("negative buckets fall", A + "pairs.py", "top - np.uint64(1) - (whole - top), whole + top)", "whole - top, whole + top)", in_kernel("pairs", "the_middle_of_a_bucket_is_near_each_number_in_it")),
    Mutant("full pairs are forgotten", A + "pairs.py", "full[run[pairs[\"count\"][order] == 0]] = True", "pass", PAIRS),
    Mutant("pairs beyond their bound are kept", A + "pairs.py", "_FULL if full[index] or end - start > self.most else", "_FULL if full[index] else", PAIRS),
    Mutant("a logarithm without its exponent", K + "logarithm.py", "np.where(small, exponent - 1, exponent)", "exponent", PAIRS),
    Mutant("quantile one rank low", A + "pairs.py", 'side="right")])', 'side="left")])', FOLDED),
    Mutant("a gap of one event", A + "extremes.py", "np.maximum(gaps, 1)), gaps > 0)", "np.maximum(gaps, 1)), gaps >= 0)", FOLDED),
    Mutant("centuries rounded twice", A + "extremes.py", "np.abs(spans_us) > _FLOAT_WHOLE_MAX", "np.abs(spans_us) < 0", in_kernel("parity", "a_silence_of_many_centuries_is_rounded_once")),
    Mutant("a reach that begins inside a period", K + "plan.py", "dtype=np.int64))) - 1", "dtype=np.int64))) + 1", in_kernel("windows", "an_event_is_out_of_reach_only_after_it_has_left_its_window")),
    Mutant("one row taken for a constant", K + "expressions.py", "if len(frame) != 1 else", "if len(frame) else", in_kernel("expressions", "a_row_has_the_same_bits_alone_and_among_others")),
    Mutant("9999 without days", K + "tilings.py", "_FAR_YEAR = 1969, 2100, 10_000", "_FAR_YEAR = 1969, 2100, 9_999", in_kernel("windows", "the_last_year_that_clocks_know_has_periods_too")),
    Mutant("deviation of one value", A + "moments.py", "counts > ddof)", "counts >= ddof)", FOLDED),
    Mutant("rate in microseconds", A + "counting.py", "* float(SECOND_US) / size_us", "/ size_us", FOLDED),
    Mutant("events sorted by offset before partition", K + "events.py", "np.lexsort((self.offset, self.partition, ", "np.lexsort((self.partition, self.offset, ", JOINED),
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
    Mutant("a ratio by zero", A + "ratio.py", "some = some & (down != 0)", "some = some & True", shown_by("ratio")),
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
    # Decimals: digits that are lost, or counted in the wrong unit.
    Mutant("a decimal is rounded to fit", K + "decimals.py", "traps = [Inexact, InvalidOperation,", "traps = [InvalidOperation,", DECIMALS),
    Mutant("a decimal has digits too many", K + "decimals.py", "prec=self.precision,", "prec=38,", DECIMALS),
    Mutant("a decimal is read through a float", K + "decimals.py", "number = Decimal(text)", "number = Decimal(repr(float(text)))", DECIMALS),
    Mutant("anything that Python reads is a number", K + "decimals.py", "isinstance(written, bool) or not _NUMBER.fullmatch(text)", "isinstance(written, bool)", DECIMALS),
    Mutant("a wide decimal is cut to 64 bits", K + "decimals.py", "& (high == low >> 63)", "", DECIMALS),
    Mutant("nineteen digits are taken", K + "decimals.py", "& (low < most)", "", DECIMALS),
    Mutant("a slice of decimals begins at the start", K + "decimals.py", "words[array.offset : array.offset + len(array)]", "words[: len(array)]", DECIMALS),
    Mutant("nulls of decimals are shown", K + "decimals.py", "if valid is not None and not valid.all():", "if False:", DECIMALS),
    Mutant("a large decimal is rounded twice", K + "decimals.py", "out[place] = int(wholes[place]) / below", "pass", DECIMALS),
    Mutant("a sum of decimals is cut to 64 bits", K + "exact.py", "| (whole[:, 1] << 32), whole[:, 2]]", "| (whole[:, 1] << 32), whole[:, 1] >> 31]", DECIMALS),
    Mutant("no text is an empty text", A + "texts.py", '_THERE + text if held else b""', "_THERE + (text if held else b'')", shown_by("min")),
    Mutant("nothing before every text in the join", A + "texts.py", 'nothing = len(ranked) if self.which == "min" else -1', "nothing = -1", shown_by("min")),
    Mutant("a mean counts last digits", K + "exact.py", "    if scale:\n", "    if False:\n", DECIMALS),
    Mutant("a variance in the unit of a mean", K + "exact.py", "*_tens(2 * scale, len(sums))", "*_tens(scale, len(sums))", DECIMALS),
    Mutant("many divisions leave too few bits", K + "exact.py", "pad = 2 + len(divisors)", "pad = 2", DECIMALS),
    Mutant("a covariance counts last digits", A + "moments.py", "_in_units(products, x * y)", "products", shown_by("covariance")),
    Mutant("a ratio forgets the point", A + "ratio.py", "below = 10 ** scale_of(kind)", "below = 1", shown_by("ratio")),
    Mutant("a decimal fades by last digits", K + "prepare.py", "floats_of(source.values, scale) if scale else source.values", "source.values", shown_by("decayed_sum")),
    Mutant("a quantile of last digits", A + "pairs.py", "floats_of(column.values, scale) if scale else column.values", "column.values", shown_by("quantile")),
    Mutant("a list loses the point", A + "packed.py", "decimals.value_of(unpack(raw)[0])", "unpack(raw)[0]", shown_by("last_n")),
    Mutant("a null decimal where none may be", S + "codecs/json.py", 'if text == "null" and name in self._topic.nullable:', 'if text == "null":', CODEC),
    Mutant("a bad decimal takes its batch with it", S + "codecs/json.py", 'rejected.append(Rejected(place, "wrong_type", str(error)))\n                continue\n            kept', 'return [], [], rejected\n            kept', CODEC),
    # Distinct counts.
    Mutant("one zero less", K + "hyperloglog.py", "(RANK_MAX - bits)", "(RANK_MAX - 1 - bits)", DISTINCT),
    Mutant("the lesser register stays", A + "distinct.py", "others.max(axis=0)", "others.min(axis=0)", DISTINCT),
    Mutant("a sketch forgets new hashes", A + "distinct.py", "registers = np.maximum(registers, others.max(axis=0))", "registers = others.max(axis=0)", DISTINCT),
    Mutant("the bound is one lower in rows", A + "distinct.py", "end - start <= EXACT_MAX:", "end - start < EXACT_MAX:", DISTINCT),
    Mutant("hashes twice in a tile", A + "distinct.py", "(hashes[1:] != hashes[:-1]) | (run[1:] != run[:-1])", "True", DISTINCT),
    Mutant("hashes of neighbours run together", A + "distinct.py", "(hashes[1:] != hashes[:-1]) | (run[1:] != run[:-1])", "hashes[1:] != hashes[:-1]", DISTINCT),
    Mutant("empty registers say nothing", K + "hyperloglog.py", "total = total + REGISTERS * _sigma(share[:, 0])", "pass", DISTINCT),
    Mutant("a rank too few in the estimate", K + "hyperloglog.py", "range(RANK_MAX - 1, 0, -1)", "range(RANK_MAX - 1, 1, -1)", DISTINCT),
    Mutant("what left a range keeps its register", K + "loops/distinct.py", "        top[register] = left\n", "", DISTINCT),
    Mutant("what comes twice leaves once", K + "loops/distinct.py", "    if occurs[value] > 0:\n        return 0\n", "", DISTINCT),
    Mutant("registers packed in the wrong order", K + "hyperloglog.py", "for shift in (0, 6, 12, 18)", "for shift in (6, 0, 12, 18)", DISTINCT),
    # The protocol, found by the histories of the simulator.
    Mutant("a straddle is taken for done", S + "online_sink.py", "if len(moves) > 1 or isinstance(outcome, Straddle):", "if len(moves) > 1:", SIMULATION),
    Mutant("of two partitions a duplicate ends both", S + "online_sink.py", "if len(moves) > 1 or isinstance(outcome, Straddle):", "if isinstance(outcome, Straddle):", SIMULATION),
    Mutant("events that a bucket has are counted again", S + "online_sink.py", "work.offsets[work.waiting] >= floor[which, bucket]", "work.offsets[work.waiting] >= 0 * floor[which, bucket]", SIMULATION),
    Mutant("a conflict is taken for done", S + "online_sink.py", "                case Conflict():\n                    again.append(bucket)", "                case Conflict():\n                    pass", SIMULATION),
    Mutant("a lost tail is passed over", S + "online_sink.py", "                    error = LostTailError(self._view.name, self._view.source.name, partition, offset, dropped)\n                    self._lost.update(dict.fromkeys({partition, *dropped}, error))\n                    raise error\n", "                    self._ends[partition][bucket] = None if stored is None else stored.offset\n", SIMULATION),
    Mutant("partitions committed with a lost one go on", S + "online_sink.py", "else stored.offset, frozenset(together)", "else stored.offset, frozenset()", SIMULATION),
    Mutant("a lost tail is seen and nothing is done", S + "online_sink.py", "                    error = LostTailError(self._view.name, self._view.source.name, partition, offset, dropped)\n                    self._lost.update(dict.fromkeys({partition, *dropped}, error))\n                    raise error\n", "", SIMULATION),
    Mutant("other buckets move on while one has lost its tail", S + "online_sink.py", "            if partition in self._lost:\n                raise self._lost[partition]", "            pass", LOST_TAIL),
    Mutant("a batch whose edge moved is counted whole", ONLINE + "functions.lua", "      return {'straddle', held, move - 1}\n", "", SIMULATION),
    Mutant("only the first partition's watermark moves", ONLINE + "functions.lua", "  set_fields(key, call.marks)\n", "  redis.call('HSET', key, unpack(call.marks, 1, 4))\n", SIMULATION),
    Mutant("only the first partition's watermark is compared", ONLINE + "functions.lua", "  for move = 1, call.moves do\n    local held, expected", "  for move = 1, 1 do\n    local held, expected", SIMULATION),
    Mutant("a heartbeat that does not compare", ONLINE + "functions.lua", "if stored ~= expected then", "if last >= first and stored ~= expected then", SIMULATION),
    Mutant("the bucket's token is read apart from the rows", S + "online_sink.py", "        return commit, self._store.commit(self.row_id, commit)", "        import dataclasses\n        now = self._store.read(self.row_id, list(commit.keys))\n        commit = dataclasses.replace(commit, tokens=now.tokens)\n        return commit, self._store.commit(self.row_id, commit)", SIMULATION),
    Mutant("a view begins at its furthest bucket", S + "online_sink.py", "return min(known, key=lambda mark: mark.offset)", "return max(known, key=lambda mark: mark.offset)", SIMULATION),
    Mutant("settled by the furthest bucket", S + "online_sink.py", "return min((end or 0 for end in self._ends.get(partition, ())), default=0)", "return max((end or 0 for end in self._ends.get(partition, ())), default=0)", SIMULATION),
    Mutant("a heartbeat overtakes a commit", S + "online_sink.py", "        new  partition -> up to where all its events have been applied\n        \"\"\"\n        self.finish()", "        new  partition -> up to where all its events have been applied\n        \"\"\"", SIMULATION),
    Mutant("a batch does not wait for the one before", S + "online_sink.py", "of these events or of those before.\n        \"\"\"\n        self.finish()", "of these events or of those before.\n        \"\"\"", SIMULATION),
    Mutant("a watermark that is not compared", ONLINE + "functions.lua", "if stored ~= expected then", "if false then", SIMULATION),
    Mutant("no fencing of rows", ONLINE + "functions.lua", "if last >= first and (state[1] or '') ~= token then", "if false then", SIMULATION),
    Mutant("a commit leaves the bucket's token as it was", ONLINE + "functions.lua", "marks = {'ver', fresh}", "marks = {'ver', args[5 + 3 * moves]}", SIMULATION),
    Mutant("versions that count commits", ONLINE + "functions.lua", "  -- Every check is done: ", COUNTED + "  -- Every check is done: ", SIMULATION),
    Mutant("an end offset beside each row", ONLINE + "functions.lua", "-- Some buckets, each for itself, ", BESIDE_ROWS + "-- Some buckets, each for itself, ", SIMULATION),
    Mutant("buckets that go together write the first one's rows", ONLINE + "functions.lua", "    row = last\n", "", TOGETHER),
    Mutant("one bucket that is refused refuses the others", ONLINE + "functions.lua", "    row = last\n", "    row = last\n    if out[bucket][1] ~= 'applied' then for other = 1, buckets do out[other] = out[bucket] end return out end\n", TOGETHER),
    Mutant("buckets that move otherwise go together", ONLINE + "store.py", "is_alike = alike is None or alike[place] == alike[first]", "is_alike = True", TOGETHER),
    Mutant("a call has no bound in buckets", ONLINE + "store.py", "size = begins[place + 1] - begins[first] + place + 1 - first", "size = begins[place + 1] - begins[first]", TOGETHER),
    Mutant("a call has no bound in rows", ONLINE + "store.py", "size = begins[place + 1] - begins[first] + place + 1 - first", "size = place + 1 - first", TOGETHER),
    Mutant("large rows go together", ONLINE + "store.py", "size <= _ROWS_TOGETHER and at[place + 1] - at[first] <= _BYTES_TOGETHER", "size <= _ROWS_TOGETHER", TOGETHER),
    Mutant("how large rows were is forgotten", ONLINE + "store.py", "self._row_bytes[view_id] = sum(sizes) // len(sizes)", "pass", TOGETHER),
    Mutant("buckets that go together share the first one's token", ONLINE + "functions.lua", "keys[bucket], args[at], row + 1, last)", "keys[bucket], args[of_bucket + 1], row + 1, last)", TOGETHER),
    Mutant("every call makes the first one's moves", ONLINE + "store.py", "        for move in commit.moves[first]:", "        for move in commit.moves[0]:", TOGETHER),
    Mutant("names have no bytes", ONLINE + "store.py", "commit.keys.begin[begins] + commit.payloads.begin[begins]", "commit.payloads.begin[begins]", TOGETHER),
    Mutant("the watermarks of many partitions are set at once", ONLINE + "functions.lua", "  set_fields(key, call.marks)\n", "  redis.call('HSET', key, unpack(call.marks))\n", ("tests/online/test_commit.py",)),
    Mutant("fields beyond the first call have no value", ONLINE + "functions.lua", "out[first + place - 1] = some[place]", "out[place] = some[place]", ("tests/online/test_commit.py",)),
    Mutant("several buckets in one call of a cluster", ONLINE + "store.py", "if out and self._servers.has_all and is_alike", "if out and is_alike", ("tests/online/test_cluster.py::test_rows_lie_on_all_nodes_and_are_read_in_the_order_asked",)),
    Mutant("a token that repeats", ONLINE + "store.py", "bucket), self._new_token()", "bucket), bytes(16)", SIMULATION),
    Mutant("a lost tail looks like a straddle", ONLINE + "functions.lua", "if expected ~= nil and stored < expected then return {'lost', held, move - 1} end", "", SIMULATION),
    Mutant("a duplicate is written again", ONLINE + "functions.lua", "if stored >= end_offset(new) then return {'duplicate', held, move - 1} end", "if stored >= end_offset(new) then if last >= first then redis.call('MSET', keys[call.states + first], args[call.head + first]) end return {'applied'} end", SIMULATION),
    Mutant("a batch of before a seek back is taken", S + "engine.py", "if batch.first_offset <= self._marks[batch.partition].offset < batch.end_offset", "if self._marks[batch.partition].offset < batch.end_offset", SIMULATION),
    Mutant("events of several batches lose their partition", S + "engine.py", "np.full(len(part.event_us), part.batch.partition, dtype=np.int32)", "np.full(len(part.event_us), parts[0].batch.partition, dtype=np.int32)", SIMULATION),
    Mutant("a batch is not cut to where the engine stands", S + "engine.py", "batch.after(self._marks[batch.partition].offset)\n", "batch.after(0)\n", SIMULATION),
    Mutant("the engine begins at the furthest sink", S + "engine.py", "start = min(known, key=lambda mark: mark.offset)", "start = max(known, key=lambda mark: mark.offset)", SIMULATION),
    Mutant("a hot key is written in several goes a batch", S + "online_sink.py", "        grouped, bucket = grouped.by_bucket(", "        if len(new) == 1 and (half := len(offsets) // 2):\n            first = {place: Mark(int(offsets[half]), mark.newest_us) for place, mark in new.items()}\n            self.apply(grouped.take(np.arange(half)), partition[:half], offsets[:half], first, events)\n            self.finish()\n        grouped, bucket = grouped.by_bucket(", ("tests/streams/test_online_sink.py::test_a_hot_key_costs_one_row_write_a_batch",)),
    Mutant("a slice leaves its first row out", S + "online_sink.py", "(row >= first) & (row < end)", "(row > first) & (row < end)", SIMULATION),
    Mutant("the last buckets are in no slice", S + "online_sink.py", "return np.arange(slices + 1) * buckets // slices", "return np.arange(slices + 1) * (buckets - 1) // slices", SIMULATION),
    Mutant("a batch that is half in the store is forgotten", S + "online_sink.py", "            self._failure = error\n            raise\n        self._work = work", "            raise\n        self._work = work", SLICED),
    Mutant("what others have changed is tried again in large slices", S + "online_sink.py", "slices = min(buckets, _SMALL_SLICES) if work.tries else few", "slices = few", SLICED),
    Mutant("lookups look for rows in any number of buckets", ONLINE + "store.py", "        for [said, *_] in (*before, *after):\n            self._refuse_other(said)\n", "", BUCKETS),
    Mutant("a flushed store forgets its number of buckets", S + "online_sink.py", "        # A store that was flushed forgets that as well, also where no commit would find it out.\n        self._store.claim()\n", "", SERVING),
    Mutant("ready is written where there was no alias", S + "serving_sink.py", "if self._alias is None and not self._point(None, Alias(self._inner.row_id, False, self._clock_us())):", "if False:", SERVING),
    Mutant("a barrier of before a loss serves after it", S + "serving_sink.py", "elif is_news or self._barrier is None:", "elif self._barrier is None:", ("tests/streams/test_served_histories.py",)),
    Mutant("what came back older while it was filled is taken for ready", S + "serving_sink.py", "is_lacking = bool(self._filling) or", "is_lacking = False and", ("tests/streams/test_served_histories.py",)),
    Mutant("rows that stand earlier when they are opened again are no loss", S + "serving_sink.py", "if stands < stood:", "if False:", SERVING),
    Mutant("a loss is not told over filling", S + "serving_sink.py", "        if alias is not None:\n            # Also over", "        if alias is not None and alias.is_ready:\n            # Also over", SERVING),
    Mutant("a loss is looked for where the server was started anew alone", S + "serving_sink.py", "lost = [partition for partition in self._inner.lost() if", "lost = [partition for partition in (self._inner.lost() if self._barrier else ()) if", SERVING),
    Mutant("what another project took back is taken", T + "message_loop.py", "if _is_for_others(messages[index], header, ours, functions, held):", "if False:", NATIVE),
    Mutant("rows for the log are counted and not weighed", S + "log_writer.py", "batches = max(self._rows / ROWS_MAX, self._bytes / BYTES_MAX)", "batches = self._rows / ROWS_MAX", ("tests/streams/test_log_writer.py",)),
    Mutant("the first rows behind a backlog wait as long as all of it would", S + "log_writer.py", "self._took_us * min(self._rows / self._took_rows, 1)", "self._took_us", ("tests/streams/test_log_writer.py",)),
    Mutant("a slice has so many offsets, whatever these hold", "featurestore/offline/log_slices.py", "if not self.topic.is_batched or self._dataset is None:", "if True:", FILL),
    Mutant("a slice has so many events, whatever their texts", "featurestore/offline/log_parts.py", "if bytes_max is not None and size > bytes_max:", "if False:", FILL),
    Mutant("where the ids begin is looked for in reads without a bound", S + "repeats.py", "return self._read_bytes_max if end - first > 1 else None", "return None", ("tests/streams/test_repeats.py",)),
    Mutant("a stretch without events is read in small steps", "featurestore/offline/log_parts.py", "if table.nbytes else None", "if table.nbytes else self._offsets", ("tests/offline/test_log_parts.py",)),
    Mutant("rows of any texts are decoded together", "featurestore/offline/log_parts.py", "                    return _TEXTS\n", "                    pass\n", ("tests/offline/test_log_parts.py",)),
    Mutant("the log's decisions are read by offsets, whatever these hold", S + "decided.py", "            high = log.end_within(partition, low, high, _EVENTS_MAX)\n", "            pass\n", FILL),
    Mutant("a record is taken before what the log has of its partition", S + "engine.py", "        for batch in batches:\n            self._catch_up(batch.partition)\n", "", CATCH_UP),
    Mutant("the epoch of rows is said of where the log ends", S + "engine.py", "return self._behind.get(partition) or self._marks.get(partition)", "return self._marks.get(partition)", CATCH_UP),
    Mutant("a log that vanished is made again", "featurestore/offline/event_log.py", "            if self._claimed is not None:\n", "            if False:\n", ("tests/offline/test_event_log.py",)),
    Mutant("keys that were evicted before anybody noted it are forgotten", "featurestore/online/store.py", "            if is_empty:\n", "            if True:\n", ("tests/online/test_commit.py",)),
    Mutant("what rows lack ends where a part of it does", S + "catch_up.py", "if sink.settled(partition) < stop:", "if sink.settled(partition) < stop and stop == end.offset:", CATCH_UP),
    Mutant("what rows held before they were lost is asked for no more", S + "serving_sink.py", "max(end, asked.get(partition, 0))", "end", SERVING),
    Mutant("a replay calls repeats too late", S + "replay.py", "((late_by > view.lateness_us) & (late_by != REPEATED_US)).sum()", "(late_by > view.lateness_us).sum()", in_replays("events_left_out_as_repeats_are_not_called_too_late")),
    Mutant("another range under a replay's name shows the earlier one", S + "replay.py", "self._view_ids(), (self._first, self._end))\n            if", "self._view_ids(), held.said)\n            if", in_replays("a_name_stands_for_one_question")),
    Mutant("a replay counts what was taken back at both of its places", S + "engine.py", "decoded = self._taken_back[batch.partition].left(whole, batch.offsets)", "decoded = whole", in_replays("what_was_taken_back_counts_once_in_a_replay_as_it_does_where_it_is_served")),
    Mutant("a log that is made again counts what was taken back at both of its places", S + "build.py", "            taken_back=taken_back(repository.topic(name)).behind,\n", "", in_letter_replays("a_mended_definition_takes_its_letters_back_and_all_readers_count_each_event_once")),
    Mutant("the group is told how far a log is made again that lacks what was taken back", S + "engine.py", " if end * all_of >= self._taken_back[partition].end}", "}", in_letter_replays("a_log_that_is_made_again_takes_an_event_where_it_came_back_to_also_after_a_kill")),
    Mutant("letters of a record's events come back beside that of the record", S + "letter_replay.py", "why = fault or twofold.get(letter.place)", "why = fault", ("tests/streams/test_letters_of_many.py::test_of_a_record_that_comes_back_what_is_in_time_counts_and_the_rest_are_letters_of_their_own",)),
    Mutant("retention that cut a replay's range is told as a worker's", S + "replay.py", "raise (self._cut(engine, lacking) or error) from error", "raise", in_replays("a_range_that_retention_cut_since_the_replay_began_says_the_way_on")),
    Mutant("secrets in the query of a URL are shown", "featurestore/urls.py", "    rest = _PARAMETER.sub(_shown_parameter, rest)\n", "", ("tests/cli/test_commands.py::test_no_secret_of_a_url_is_shown_wherever_it_stands",)),
    Mutant("what int does not read is taken for an offset", S + "replay.py", "text.isdecimal()", "text.isdigit()", in_replays("a_name_stands_for_one_question")),
    Mutant("a replay is dropped by the definitions of now", S + "replay.py", "*(() if held is None else held.views)", "", in_replays("a_name_stands_for_one_question")),
    Mutant("a replay judges lateness by the views that are shown", S + "replay.py", "for view in repository.views_of(topic)), default=0)\n", "for view in self._views), default=0)\n", in_replays("what_some_view_takes_is_no_dead_letter_of_a_replay_of_another")),
    Mutant("any partition's records hide one that is stuck", S + "replay.py", "heard.update(dict.fromkeys((batch.partition for batch in batches), time.monotonic()))", "heard = dict.fromkeys(begin, time.monotonic()) if batches else heard", in_replays("a_partition_that_gives_nothing_is_noticed_beside_one_that_gives")),
    Mutant("a follower takes lost rows for those of a topic whose beginning nobody has", S + "follow.py", "if stands < bounds.low and logged is not None and stands < logged.offset:", "if False:", FLUSHED),
    Mutant("a follower passes over what neither log nor topic has", S + "follow.py", "if mark is not None and stands < bounds.low:", "if False:", NOWHERE),
    Mutant("a follower reads the topic beside workers, by its own definition", S + "follow.py", "return self._looked_s - self._seen_s < _GONE_S", "return False", in_backfills("a_follower_reads_the_topic_only_while_no_worker_does_and_says_who_is_silent")),
    Mutant("rows that come on do not count where the log is not looked at", S + "follow.py", "seen = self._source, done, sum(", "seen = self._source, sum(", in_backfills("a_follower_reads_the_topic_only_while_no_worker_does_and_says_who_is_silent")),
    Mutant("workers that begin behind a follower are not seen", S + "follow.py", "if logged < stands and not self._is_served():", "if False:", in_backfills("a_follower_reads_the_topic_only_while_no_worker_does_and_says_who_is_silent")),
    Mutant("what is served is dropped where its backfill came back older", S + "backfill.py", 'if state is not None and state.stage in ("fill", "abandoned") and self._names(state.id):', "if False:", in_backfills("rows_that_differ_from_the_log_are_not_flipped_to")),
    Mutant("what somebody left is never known again", ONLINE + "store.py", "or '?') == '?' then", "or '') == '' then", ("tests/online/test_commit.py",)),
    Mutant("a version of a log that was lost is taken for one of another", S + "backfill.py", "if state.log_id and state.log_id != self._log.identity() and not is_served:", "if False:", in_backfills("compact_keeps_the_version_at_which_a_killed_backfill_stands_and_refuses_it_once_it_is_gone")),
    Mutant("a backfill that flipped looks for no loss", S + "backfill.py", "if self._is_lacking(state) if self._names(state.id) else", "if False if self._names(state.id) else", BEHIND_FLIP),
    Mutant("served rows that lost something are not told incomplete", S + "backfill.py", "            self._tell_incomplete(state)\n", "", BEHIND_FLIP),
    Mutant("rows are dropped whatever the alias names", S + "backfill.py", ", may=lambda: self._names(state.id))", ")", OLDER_ALIAS),
    Mutant("a backfill ends whatever the alias names", S + "backfill.py", "if self._aliases.end_backfill(self._view.id, state.id):", "if self._aliases.end_backfill(self._view.id):", OLDER_ALIAS),
    Mutant("a half-dropped shadow is filled on", S + "backfill.py", 'self._drop_abandoned(self._save(state, stage="abandoned"))', "self._drop_abandoned(state)", in_backfills("a_shadow_that_the_store_lost_before_the_flip_is_not_flipped_to")),
    Mutant("a fill counts records where they hold many events", S + "serving_sink.py", "if stands and self._are_few(events, partition, stands, slices.marks[partition].offset):", "if stands and slices.marks[partition].offset - stands <= AT_ONCE_MAX:", SERVING),
    Mutant("a backfill that flipped does not flip again", S + "backfill.py", 'else state.stage == "flipped":', "else False:", OLDER_ALIAS),
    Mutant("an id of rows is used again where the count of them was evicted", ONLINE + "alias.py", "-{token_hex(4)}", "", SERVING),
    Mutant("a key of an address is any number that Python reads", "featurestore/client.py", "if _NUMBER.fullmatch(text) is None:", "if text is None:", ("tests/server/test_http.py",)),
    Mutant("rows of a store that evicted keys are believed", S + "serving_sink.py", "if before is None or has_more(before, now):", "if before is None:", SERVING),
    Mutant("a full server takes no alias", ONLINE + "store.py", '_POINTED = """#!lua flags=allow-oom', '_POINTED = """#!lua flags=no-cluster', SERVING),
    Mutant("rows of a view are dropped before the next view's alias moves", S + "serving_sink.py", "self._dropping.start()", "self._dropping.run()", SERVING),
    Mutant("what a run evicted ends with it", ONLINE + "store.py", "seen[run.id] = _ANY_NUMBER", "seen[run.id] = run.evicted", ("tests/online/test_commit.py",)),
    Mutant("events are folded onto rows of which nobody knows what they hold", S + "online_sink.py", "if not all(read.tokens):", "if False:", ("tests/streams/test_serving_sink.py::test_rows_without_their_watermarks_are_left_for_others_also_where_events_come_live",)),
    Mutant("a look learns of a loss before it knows what was sent", S + "serving_sink.py", "            self.finish()\n            self._incarnation = incarnation", "            self._incarnation = incarnation", SERVING),
    Mutant("a follower skips the ids between log and rows", S + "engine.py", "            start = log_end\n        self._marks", "            pass\n        self._marks", ("tests/simulation/test_follower.py",)),
    Mutant("a fetch goes on when the flow is stopped", T + "consumer.py", "while not self.should_stop and self.flow_active:", "while not self.should_stop:", ("tests/streams/transport/test_with_faust_at_rest.py",)),
    Mutant("a drop takes what only looks like it", ONLINE + "store.py", " and ours.match(each)]", "]", ("tests/online/test_drop.py",)),
    Mutant("a set of other rows is let in", K + "expressions.py", "if function and any(", "if not function and any(", EXPRESSIONS),
    Mutant("a topic made again is not seen", S + "topic_watch.py", "if told.id != identity:", "if name not in now:", ("tests/streams/test_topic_watch.py",)),
    Mutant("letters are not sent before the log", S + "log_writer.py", "        self._before()\n", "", SIMULATION),
    Mutant("the log goes on behind letters that failed", S + "log_writer.py", "        self._before()\n", "        import contextlib\n        with contextlib.suppress(Exception):\n            self._before()\n", SIMULATION),
    Mutant("lateness begins anew with a restart", S + "engine.py", "return Mark(self.batch.end_offset, newest_us,", "return Mark(self.batch.end_offset, 0,", SIMULATION),
    Mutant("the group is told before the store holds it", S + "engine.py", "min([mark.offset, *(sink.settled(partition) for sink in self._sinks)])", "self._marks[partition].offset", SIMULATION),
    Mutant("stopped actors stay with the supervisor", T + "agent.py", "        self.supervisor.discard(actor)\n", "", ("tests/streams/transport/test_with_faust.py::test_a_worker_keeps_nothing_of_partitions_that_have_left",)),
    Mutant("stopped actors stay in the tree of services", T + "agent.py", "            self.beacon.discard(service.beacon)\n", "            pass\n", ("tests/streams/transport/test_with_faust.py::test_a_worker_keeps_nothing_of_partitions_that_have_left",)),
    Mutant("F5: an exception counts as done", S + "worker.py", "            done.set_exception(what)", "            done.set_result({})", ("tests/streams/test_applied_together.py",)),
    # The transport's ranges: F1 to F6 are how Faust's own bookkeeping commits past unfinished work.
    Mutant("F1: the head of the line is off by one", T + "ranges.py", "return self.open[0].first if self.open else self.hand_end", "return self.open[0].first + 1 if self.open else self.hand_end", RANGES),
    Mutant("F2: nothing told yet, so what is in flight is passed", T + "ranges.py", "end = min(at.settled, at.finished_end)", "end = at.settled if at.told is None else min(at.settled, at.finished_end)", RANGES),
    Mutant("F3: a hole counts as done before the batch after it", T + "ranges.py", "ticket = Ticket(place, at.hand_end, end, size_bytes)", "ticket = Ticket(place, end - 1, end, size_bytes)", RANGES),
    Mutant("F4: a hole is a list of offsets", T + "ranges.py", "        at.read_end = end\n\n    def seek_back", "        at.read_end = max([at.read_end, *(offset + 1 for offset in list(range(at.read_end, end)))])\n\n    def seek_back", RANGES),
    Mutant("F5: what was not begun counts as done", T + "ranges.py", "            at.hand_end = back[0].first\n", "            pass\n", RANGES),
    Mutant("F6: a refused commit counts as told", T + "ranges.py", "        if at is not None and at.asked == end:\n            at.asked = None", "        if at is not None and at.asked == end:\n            at.told, at.asked = end, None", RANGES),
    Mutant("a batch of before a rebalance is applied", T + "ranges.py", "                for ticket in at.open:\n                    ticket.is_void = True\n", "                pass\n", RANGES),
    Mutant("a seek of before a rebalance is done", T + "ranges.py", "if at is None or at.epoch != epoch or offset >= at.hand_end:", "if at is None or offset >= at.hand_end:", RANGES),
    Mutant("a seek forward passes over what waits", T + "ranges.py", "if at is None or at.epoch != epoch or offset >= at.hand_end:", "if at is None or at.epoch != epoch:", RANGES),
    Mutant("batches of before a seek back count", T + "ranges.py", "            at.open.pop().is_void = True\n", "            at.open.pop()\n", RANGES),
    Mutant("sinks that fell back do not lower the commit", T + "ranges.py", "            at.settled = min(at.settled, offset)\n", "            pass\n", RANGES),
    Mutant("the group is told although sinks lack it", T + "ranges.py", "end = min(at.settled, at.finished_end)", "end = at.finished_end", RANGES),
    Mutant("an earlier answer counts for a later commit", T + "ranges.py", "            at.told = end\n            if at.asked == end:\n", "            at.told = end if at.asked is None else at.asked\n            if at.asked is not None:\n", RANGES),
    Mutant("bytes are not bounded", T + "pressure.py", "if total >= self._bytes_max:", "if False:", PRESSURE),
    Mutant("what is paused stays so", T + "pressure.py", "return Advice(resume=resume & held.keys())", "return Advice()", PRESSURE),
    Mutant("a short stall pauses", T + "pressure.py", "if now_s - self._since_s < STALLED_S and not self.paused:", "if False:", PRESSURE),
    # The compiled loops.
    Mutant("a carry lost while adding", K + "loops/fold.py", "        carry = total >> 32\n", "        carry = np.int64(0)\n", TWIN),
    Mutant("a stored tile before the new one is lost", K + "loops/fold.py", "                kept += (source - copied) // size\n", "", TWIN),
    Mutant("an expired tile is kept", K + "loops/fold.py", "while source < source_end and get(words, source) < oldest[level, row]:", "while source < source_end and get(words, source) < oldest[level, row] - 1:", MANY_ROWS),
    Mutant("an event of an expired tile is kept", K + "loops/fold.py", "while event < event_end and tiles[level, event] < oldest[level, row]:", "while False:", TWIN),
    Mutant("floats ordered by their bits", K + "loops/words.py", "return bits ^ ((bits >> 63) & np.int64(0x7FFF_FFFF_FFFF_FFFF))", "return bits + (bits >> 63)", TWIN),
    Mutant("a tile at the window's end is counted", K + "loops/roll_up.py", "get(words, end - size) >= span_end[span]", "get(words, end - size) > span_end[span]", in_kernel("loops", "windows_begin_and_end_at_the_same_tiles")),
    Mutant("the sign of a sum's top digit is lost", K + "loops/roll_up.py", "d3 += np.int64(np.int32(words[each + 3]))", "d3 += np.int64(words[each + 3])", TWIN),
    Mutant("a half is rounded without what lies below", K + "loops/finish.py", "if inexact or head[2]", "if head[2]", in_kernel("loops", "a_tie_is_broken_by_whatever_lies_below")),
    Mutant("ties at the moment itself are left out", K + "loops/ranges.py", "return number <= asked if after else number < asked", "return number < asked", MANY_ROWS),
    Mutant("what a total lost is left out of its mean", K + "loops/rounding.py", "total) + below) * (1.0 / divisor)", "total)) * (1.0 / divisor)", PLAIN),
    Mutant("a mean in doubt is taken", K + "loops/rounding.py", "if least == most:", "if True:", PLAIN),
    Mutant("a sum is cut where floats cannot hold it", K + "loops/rounding.py", "_HIGH_MAX = np.int64(1) << 42", "_HIGH_MAX = np.int64(1) << 52", PLAIN),
    Mutant("a borrow between two words is lost", K + "loops/ranges.py", "np.int64(more[1] - less[1] - borrow)", "np.int64(more[1] - less[1])", PLAIN),
    Mutant("sums go on from a place in another block", K + "loops/ranges.py", "if at > place or at >> SUM_BITS != block:", "if at > place:", PLAIN),
    Mutant("the low part of a negative sum is not carried", K + "loops/ranges.py", "return low, high + np.uint64(lower >> 63) + np.uint64(low < np.uint64(lower))", "return low, high + np.uint64(low < np.uint64(lower))", PLAIN),
    Mutant("bits below the unit fall off", K + "loops/ranges.py", "return np.int64((lower != float(np.int64(lower))) | (abs(number) >= _ORDINARY))", "return np.int64(abs(number) >= _ORDINARY)", PLAIN),
    Mutant("the newest block runs on from the one before", K + "loops/ranges.py", "if at < begin or at > end:", "if at > end:", PLAIN),
    Mutant("a window keeps the beginning of the one before", K + "loops/ranges.py", "if begin != head_at:", "if head_at < 0:", PLAIN),
    Mutant("ends of another window are taken", K + "plain.py", "self._newest[name, id(high)][1:]", "next(iter(self._newest.values()))[1:]", PLAIN),
    Mutant("tiles overflow two words", K + "loops/roll_values.py", "not -_TOPS_MAX < tops < _TOPS_MAX - tiles", "False", PLAIN),
    Mutant("a minimum is read where the maximum is", K + "loops/roll_values.py", "apart += widths[between]", "apart += 0", PLAIN),
    Mutant("a sum that does not fit int64 is served", K + "loops/roll_values.py", "there &= high[row] == low[row] >> 63", "there &= True", PLAIN),
    Mutant("a tile at the window's end is read", K + "loops/roll_values.py", "get(words, end - size) >= span_end[span]", "get(words, end - size) > span_end[span]", in_kernel("loops", "windows_begin_and_end_at_the_same_tiles")),
    Mutant("a log that was widened is written by the marks of before", LOG, "if self._widen(table):", "if self._widen(table) and False:", ("tests/offline/test_widened_beside.py",)),
    Mutant("a log takes rows that it has", LOG, "write_files(self.path, _lacking(rows, held))", "write_files(self.path, rows)", LOG_HISTORIES),
    Mutant("a log looks for rows that it has in one partition alone", LOG, "for partition, mark in held.items():\n        had", "for partition, mark in list(held.items())[:1]:\n        had", LOG_HISTORIES),
    Mutant("a log commits with another handle than it read marks with", LOG, "self._commit(table, ", "self._commit(self._open(), ", LOG_HISTORIES),
    Mutant("a log goes by the marks that it remembers", LOG, "held = self._held(table)", "held = self._marks or self._marks_of(table)", LOG_HISTORIES),
    Mutant("a log remembers marks that another has moved", LOG, "== (last.table_id, last.since + 1)", ">= (last.table_id, last.since + 1)", LOG_HISTORIES),
    Mutant("marks of a log go back", LOG, "moved = {p: mark for p, mark in marks.items() if p not in held or held[p].offset < mark.offset}", "moved = dict(marks)", LOG_HISTORIES),
    Mutant("a log moves the mark of one partition alone", LOG, "for partition, mark in marks.items():\n            place", "for partition, mark in list(marks.items())[:1]:\n            place", LOG_HISTORIES),
    Mutant("the newest time of a log's mark is an offset", LOG, "#newest_us\", mark.newest_us)", "#newest_us\", mark.offset)", LOG_HISTORIES),
    Mutant("a refused commit to a log is taken for one", LOG, "on the next round.\n                continue", "on the next round.\n                return", LOG_HISTORIES),
    Mutant("a log says that it is further before it has committed", LOG, "                self._commit(table, ", "                self._marks = {**held, **moved}\n                self._commit(table, ", LOG_HISTORIES),
    Mutant("a log that another has brought further is where it was asked to be", LOG, "                    self._marks = held\n", "                    self._marks = dict(marks)\n", LOG_HISTORIES),
    Mutant("a log that another makes at the same time ends its writer", LOG, "            try:\n                table = self._open()\n                held", "            table = self._open()\n            try:\n                held", LOG_HISTORIES),
    Mutant("two projects write one log", LOG, "if owner is not None and self._project not in (None, owner):", "if False:", OWNER),
    Mutant("workers of one project have logs of their own", ONLINE + "store.py", "if other is not None and other != log.encode():", "if False:", BUCKETS),
    Mutant("a training set is of any log of its version", "featurestore/offline/training_set.py", "service.version, logs, versions, _hash(spine), event_time, label)\n    name", "service.version, versions, _hash(spine), event_time, label)\n    name", TRAINING),
    Mutant("workers of two online stores share a topic", S + "group.py", "and member.client_id != f\"{_CLIENT}{identity}\":", "and False:", GROUP),
    Mutant("a log does not say which topic it was read from", LOG, "            if mark.topic_id:\n", "            if False:\n", ("tests/streams/test_topic_in_log.py",)),
    Mutant("a commit of another worker is not looked for", LOG_MARKS, "os.stat(_entry(known.version + 1), dir_fd=folder)", "return known.said", ("tests/offline/test_log_marks.py",)),
    Mutant("a log is compacted by two at once", LOG, "flock(lock, LOCK_EX | LOCK_NB)", "pass", LOG_HISTORIES),
    Mutant("a log's version at which a backfill stands is removed", LOG_CLEANING, "if version >= first)", "if version < 0)", CLEANED),
    Mutant("a log's file is removed before its commit", LOG_CLEANING, "files = [path for path in files if _changed_us(path) <= before_us]", "files = list(files)", CLEANED),
    Mutant("the newest checkpoint is removed", LOG_CLEANING, "for path in checkpoints[:-1]", "for path in checkpoints", CLEANED),
    Mutant("a log's file of one day has the rows of all days", LOG_FILES, "yield date, body.slice(first, end - first)", "yield date, body", LOG_HISTORIES),
    Mutant("days in the log's file of many are passed over", LOG_FILES, 'MANY_DAYS = "many"', 'MANY_DAYS = "0000-many"', MANY_DAYS),
    Mutant("each day of a commit has a file", LOG_FILES, "if len(dates) > DAYS_MAX:", "if False:", MANY_DAYS),
    Mutant("a log's statistics leave rows out", LOG_FILES, "\"maxValues\": {name: end[\"max\"]", "\"maxValues\": {name: end[\"min\"]", LOG_HISTORIES),
    # Codecs and contracts.
    Mutant("the place in a record is forgotten", K + "events.py", "return offset * PLACES_MAX + position", "return offset * PLACES_MAX", PLACES),
    Mutant("places of one record reach into the next", K + "events.py", "PLACES_MAX = 1 << 20", "PLACES_MAX = 1 << 2", PLACES),
    Mutant("a text's moment has no upper bound", S + "codecs/json.py", "<= MOMENT_MAX_US:", "< 2**63:", CODEC),
    Mutant("a stored moment of the year 10,000 is given", K + "values.py", "if pc.any(is_late).as_py() else", "if False else", PLAIN),
    Mutant("a greatest allowed value is refused", S + "codecs/contract.py", "(most, pc.less_equal, ", "(most, pc.less, ", CODECS),
    Mutant("a null is outside of a range", S + "codecs/contract.py", ".fill_null(True)", ".fill_null(False)", CODECS),
    Mutant("characters are counted in bytes", S + "codecs/contract.py", "pc.utf8_length", "pc.binary_length", CODECS),
    Mutant("bytes behind an Avro event pass", S + "codecs/avro.py", "if stream.tell() != len(body):", "if False:", CODECS),
    Mutant("milliseconds are taken for microseconds", S + "codecs/avro.py", '"timestamp-millis": (1, 1_000)', '"timestamp-millis": (1, 1)', CODECS),
    Mutant("fields of nobody are made of an Avro event", S + "codecs/avro.py", "self._wanted = None if all(map(_is_flat, left)) else", "self._wanted = None if True else", CODECS),
    Mutant("an Avro type within itself is read", S + "codecs/avro.py", "if written in within:", "if False:", CODECS),
    Mutant("empty items of an error are counted without end", S + "codecs/avro.py", '_RECORDS = ("record", "error")', '_RECORDS = ("record",)', CODECS),
    Mutant("fields of nobody are made of a Protobuf event", S + "codecs/protobuf.py", "GetMessageClass(file.part(path, taken))", "GetMessageClass(message)", CODECS),
    Mutant("a schema's text is kept for every kind alike", S + "schemas/confluent.py", "self._known[schema_id, kind] = self", 'self._known[schema_id, "AVRO"] = self._known[schema_id, "PROTOBUF"] = self', FRAMES),
    Mutant("a zero that was not sent is a value", S + "codecs/protobuf.py", "value if value or e.HasField(name) else None", "value", CODECS),
    Mutant("a number of a lost field is used again", S + "codecs/protobuf.py", "free = max([0, *numbers.values(), *gone]) + 1", "free = len(topic.schema)", CODECS),
    Mutant("the last number of a path ends it early", S + "codecs/protobuf.py", "for _ in range(count):", "for _ in range(1):", CODECS),
    Mutant("a silent registry makes dead letters", S + "schemas/confluent.py", "if error.error_code in _NOT_FOUND:", "if True:", CODECS),
    Mutant("an id that is no int is asked for", S + "schemas/confluent.py", "if schema_id > _ID_MAX:", "if False:", FRAMES),
    Mutant("unknown ids are asked for one after the other", S + "schemas/confluent.py", "ThreadPoolExecutor(min(len(ids), _AT_ONCE)", "ThreadPoolExecutor(min(len(ids), 1)", FRAMES),
    Mutant("an unknown id is remembered", S + "codecs/framed.py", "unknown = self._ask(asked)", "unknown = self._unknown = {**self._ask(asked), **getattr(self, '_unknown', {})}", FRAMES),
    Mutant("a flood of ids is asked for at once", S + "codecs/framed.py", "return self._decode(payloads, ASKED_MAX)", "return self._decode(payloads, len(payloads))", FRAMES),
    Mutant("a whole batch is held as its library makes it", S + "codecs/framed.py", "if size > _HELD_BYTES_MAX:", "if False:", FRAMES),
    Mutant("a known id counts as asked for", S + "codecs/framed.py", "if schema[0] not in self._written and schema[0] not in asked:", "if schema[0] not in asked:", FRAMES),
    Mutant("messages that no schema has are kept for ever", S + "codecs/framed.py", "if len(self._refused) == _REFUSED_MAX:", "if False:", FRAMES),
    Mutant("an id is given twice", S + "schemas/folder.py", "os.link(draft,", "os.replace(draft,", CODECS),
    Mutant("a cut off Arrow stream is taken", S + "codecs/arrow.py", "if not payload.endswith(_END):", "if False:", CODECS),
    Mutant("text is not looked at before it is used", S + "codecs/arrow.py", "column.validate(full=True)", "column.validate()", CODECS),
    Mutant("a dictionary counts as long as its record is", S + "codecs/arrow_sizes.py", "lengths = pc.take(pc.binary_length(texts.dictionary), texts.indices)", "lengths = pc.binary_length(texts.dictionary)", SIZES),
    Mutant("views of one text count as that text", S + "codecs/arrow_sizes.py", "np.maximum(views, 0).astype(np.int64)", "np.minimum(views, 12).astype(np.int64)", SIZES),
    Mutant("what a record becomes is not asked before it is read", S + "codecs/arrow.py", "if size > BODY_BYTES_MAX:", "if False:", SIZES),
    Mutant("a dictionary that grows is copied for nothing", S + "codecs/arrow_sizes.py", "total += dictionaries[which] if held else 0", "total += 0", SIZES),
    Mutant("columns of nulls take no room", S + "codecs/arrow_sizes.py", "return rows * _WIDTHS[dtype] + text", "return text", SIZES),
    Mutant("a batch of large records is decoded at once", S + "codecs/arrow.py", "return self._decode(payloads, PART_BYTES_MAX)", "return self._decode(payloads, WHOLE_BYTES_MAX)", SIZES),
    Mutant("every bad event of a record is a letter, however many", S + "codecs/arrow.py", "if count > BAD_EVENTS_MAX:", "if False:", TOO_MANY_BAD),
    Mutant("events out of range are counted without the others of their record", S + "codecs/contract.py", "np.bincount(np.concatenate([records, before]))", "np.bincount(records)", TOO_MANY_BAD),
    Mutant("a batch of any size is decoded at once", S + "engine.py", "batches = _within(batches, self._part_bytes_max)", "batches = list(batches)", PARTS),
    Mutant("what was not decoded is passed over", S + "engine.py", "return [*out, batch.before(int(batch.offsets[count]))] if count else out", "return [*out, batch] if count else out", SIZES),
    Mutant("records that were not decoded are nowhere", S + "codecs/arrow.py", "rejected=Rejections.of([*decoded.rejected, *rest])", "rejected=decoded.rejected", SIZES),
    Mutant("the letter of a row takes its dictionary along", S + "codecs/arrow.py", "        return array.dictionary_decode()", "        return array", SIZES),
    Mutant("a null of a dictionary is a value", S + "codecs/arrow.py", "np.asarray(arrays[name].is_null()) if arrays[name].null_count", "np.asarray(column.is_null()) if column.null_count", SIZES),
    Mutant("a rejected row has the place of another", S + "codecs/codec.py", "decoded.position[places].tolist()", "places.tolist()", CODECS),
    Mutant("parts of a batch stay in the order of their schemas", S + "codecs/framed.py", "order = np.argsort(index)", "order = np.arange(len(index))", CODECS),
    Mutant("what is no number is taken", S + "codecs/columns.py", "return ~np.asarray(pc.is_finite(array)", "return np.zeros(len(array), bool) & np.asarray(pc.is_finite(array)", CODECS),
    Mutant("a pack's key tells its ends alone", S + "letters.py", "digest), value", 'b""), value', LETTERS),
    Mutant("a pack's last letter is lost", S + "letters.py", "    yield from _packed(letters[half:],", "    yield from _packed(letters[half:-1] or letters[half:],", LETTERS),
    Mutant("packs have no bound in bytes", S + "letters.py", "if len(value) <= PACK_BYTES_MAX:", "if True:", LETTERS),
    Mutant("a letter is sent that its topic cannot take", S + "dead_letters.py", "pack if len(pack.value) <= _VALUE_BYTES_MAX else", "pack if True else", LARGE),
    Mutant("a letter that is refused for its size is not cut", S + "dead_letters.py", "len((smaller := beginning_of(value)).value) < len(value):", "len((smaller := beginning_of(value)).value) < 0:", LARGE),
    Mutant("the beginning of a record is read as a record", S + "engine.py", "        if not cut:\n", "        if True:\n", CUT_RECORDS),
    Mutant("a record of any size leaves the client", T + "message_loop.py", "return words[_SIZE] + words[_KEY_SIZE] > record_bytes_max", "return False", NATIVE),
    Mutant("a cut letter does not say so", S + "letters.py", "if is_cut else self.whole_bytes", "if False else self.whole_bytes", LETTERS),
    Mutant("a cut letter keeps all that is said of it", S + "letters.py", "detail=self.detail[:_TEXT_CHARACTERS_MAX]", "detail=self.detail", LETTERS),
    Mutant("a key that waits takes no room", S + "letters.py", ' + len(one.record_key or b"")', "", WAITING),
    Mutant("keys of letters that are yet to be made take no room", S + "letters.py", " + self._keys.size_bytes", "", LETTERS),
    Mutant("letters keep the whole batch in memory", S + "payloads.py", "return Payloads(together, ends[:-1], lengths)", "return Payloads(self.data, self.starts[places], lengths)", PAYLOADS),
    Mutant("letters in a part of them are those of the beginning", S + "letters.py", "self._payloads[index], self._keys[index]", "self._payloads, self._keys[index]", LETTERS),
    Mutant("letters of rows have no bound in bytes", S + "unapplied.py", " or bytes_made >= PART_BYTES_MAX:", ":", LETTERS),
    Mutant("letters of rows have no bound in number", S + "unapplied.py", "len(part) == PART_LETTERS_MAX or ", "", LETTERS),
    Mutant("the last letters of rows are lost", S + "unapplied.py", "                part, bytes_made = [], 0\n    yield part\n", "                part, bytes_made = [], 0\n", LETTERS),
    Mutant("dead ones that were counted count again", S + "counts.py", "rejected.reasons[int(np.searchsorted(rejected.records, cut)) :]", "rejected.reasons", ("tests/streams/test_counts.py",)),
    Mutant("a refusal is told by every flush", S + "producer.py", "            self._refused, self._refused_said = 0, []\n", "", PRODUCER),
    Mutant("a key is made of the number as it was written", S + "producer.py", "value = float(value) + 0.0", "pass", PRODUCER),
    Mutant("a definition is known by its name", S + "producer.py", "if found is None or (found[0] is not topic and found[0] != topic):", "if found is None:", PRODUCER),
    Mutant("a producer works on behind a fork", S + "producer.py", "        if os.getpid() != self._made_in:\n            raise", "        if False:\n            raise", PRODUCER),
    Mutant("a refused line counts as there", S + "send.py", "            self._refused += lines\n", "", ("tests/streams/test_send.py",)),
    Mutant("standard input is a file of that name", "featurestore/cli/__init__.py", 'if str(file) != "-" and not file.exists():', "if not file.exists():", SEND_PIPE),
    Mutant("a letter that is refused alone ends the replay", S + "letter_replay.py", "                elif _is_of(error, _TOO_LARGE):\n", "                elif False:\n", LETTER_REPLAY),
    Mutant("letters that are too large together are left", S + "letter_replay.py", "if _is_of(error, _TOO_LARGE) and half:", "if False:", LETTER_REPLAY),
    Mutant("the later half of a refused batch comes first", S + "letter_replay.py", "batches.extendleft((batch[half:], batch[:half]))", "batches.extendleft((batch[:half], batch[half:]))", LETTER_REPLAY),
    Mutant("a purge behind a refusal ends the replay", S + "letter_replay.py", "elif was_refused and", "elif False and", LETTER_REPLAY),
    Mutant("the beginning of a record comes back as an event", S + "letter_replay.py", "if letter.is_cut:", "if False:", LETTER_REPLAY),
    Mutant("all letters of a topic are decoded at once", S + "letter_replay.py", "for part in _batches(letters) for why", "for part in [letters] for why", LETTER_REPLAY),
    Mutant("a feature may be called like what lookups tell", "featurestore/spec/objects.py", "if taken is not None:", "if False:", DEFINITIONS),
    Mutant("copies without a key are told apart by partition", "featurestore/spec/objects.py", "if self.key in self.nullable:", "if False:", DEFINITIONS),
    Mutant("a column may be called like the log's own", "featurestore/spec/objects.py", "        checked_columns(owner, typed, self.format)\n", "", DEFINITIONS),
    Mutant("a renamed column has no history", "featurestore/offline/log_parts.py", "    for name in former:\n", "    for name in ():\n", LOG_COLUMNS),
    Mutant("another event time is taken", "featurestore/offline/event_log.py", "        self._refuse_other_times(table)\n", "", LOG_COLUMNS),
    Mutant("letters of a changed type are sent", "featurestore/cli/dead_letters.py", "    check_types(chosen.offline_path, [", "    print([", TYPES),
    Mutant("the last event decides for its record", S + "letter_replay.py", "            if index in taken:\n                continue\n", "            at[index] = PLACES_MAX\n", MANY),
    Mutant("two backfills of a view go together", S + "alone.py", "            flock(lock, LOCK_EX | LOCK_NB)\n", "            pass\n", ALONE),
    Mutant("a null value erases nothing", S + "dead_letters.py", "        records.pop((topic, key), None)\n", "", LETTER_REPLAY),
    Mutant("what is no letter is not told", S + "dead_letters.py", "            unreadable.append(where)\n", "", LETTER_REPLAY),
    Mutant("an event that is too late has the bytes of another", S + "unapplied.py", "batch, decoded.index[places], [reason]", "batch, places, [reason]", LETTERS),
    Mutant("payloads that are not there are empty", S + "payloads.py", "buffers = [pa.py_buffer(there),", "buffers = [None,", PAYLOADS),
    Mutant("rejected records of a later batch keep the place of the first", S + "codecs/rejections.py", "self.records[low:high] - first", "self.records[low:high]", LETTERS),
    Mutant("a time as text is refused unread", S + "codecs/json_loop.py", "is_other = kind != STRING and kind != MOMENT and", "is_other = kind != STRING and", COLUMNS),
    Mutant("the last field that is missing is named", S + "codecs/json_loop.py", "if good[index] and not nullable[field] and", "if not nullable[field] and", COLUMNS),
    Mutant("a byte that is too many is named by its own place", S + "codecs/json_loop.py", "                at += 1\n        if not is_sure:", "        if not is_sure:", COLUMNS),
    Mutant("a record without a value is called cut off", S + "codecs/json_columns.py", "fault[records.lengths == ABSENT] = json_loop.UNSURE", "", COLUMNS),
    Mutant("what comes behind a float that is too large is wrong first", S + "codecs/json_loop.py", "is_sure &= exact", "is_sure &= True", COLUMNS),
    Mutant("a byte is counted from the beginning of the batch", S + "codecs/json_loop.py", "where[index] = at - begins[index]", "where[index] = at", COLUMNS),
    Mutant("a fault of one field is told in the words of another", S + "codecs/json_words.py", "codes = fault * _FIELDS_MAX + np.where(has_field, where, 0)", "codes = fault * _FIELDS_MAX", COLUMNS),
    Mutant("refusals that the loop tells stand beside those of others out of order", S + "codecs/rejections.py", "ordered = sorted(rejected, key=lambda one: (one.index, -1 if one.position is None else one.position))", "ordered = list(rejected)", COLUMNS),
    Mutant("keys have no bytes", T + "batch.py", "Parts([self.values, self.keys]).parts", "Parts([self.values]).parts", PAYLOADS),
    Mutant("a producer says that a record is of the future", T + "message_loop.py", "not 0 <= stamps[at] <= now_ms", "stamps[at] < 0", ("tests/streams/test_arrival.py",)),
    Mutant("a broker's stamp is held to our clock", T + "message_loop.py", "if kind[0] != BY_BROKER and", "if", ("tests/streams/test_arrival.py",)),
    Mutant("a stop has no deadline", S + "worker.py", "        if self._signal_stop_time is None:\n            self.begins_to_end()\n", "", DEADLINE),
    Mutant("last words wait for who reads them", S + "watchdog.py", "    if end is None:\n        threading.Thread(target=run, name=\"end\"", "    if False:\n        threading.Thread(target=run, name=\"end\"", DEADLINE),
    Mutant("who cannot say what is left does not end", S + "watchdog.py", "        except Exception as error:  # the other", "        except OSError as error:  # the other", DEADLINE),
    Mutant("waits are measured by a clock that is set", S + "build.py", "            steady_us,\n", "            _now_us,\n", ("tests/streams/test_worker.py::test_a_clock_that_is_set_back_holds_nothing_up",)),
    Mutant("a fatal error does not say what it is", S + "transport/native.py", "if code != KafkaError._FATAL:", "if True:", ("tests/streams/test_worker.py::test_a_worker_whose_name_another_one_takes_says_so",)),
    Mutant("who watches a worker does not see its letters", S + "engine.py", "self.letters_put += len(letters)", "pass", ("tests/streams/test_letters_of_many.py",)),
    Mutant("a letter's bytes go to the terminal", "featurestore/cli/dead_letters.py", "sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text", "text", ("tests/cli/test_commands.py::test_letters_are_counted_listed_and_shown_with_all_their_facts",)),
    Mutant("a failure has no deadline", S + "worker.py", "        if not self.crashed:\n            self.begins_to_end()\n", "", ("tests/streams/transport/test_with_faust.py::test_a_worker_that_fails_has_the_deadline_of_one_that_is_stopped",)),
    Mutant("letters that wait are not told", S + "worker.py", "self._letters is not None and (count", "False and (count", DEADLINE),
    Mutant("what was lost goes on being told", T + "reader.py", "            self._leave(consumer, partitions)\n\n        self._rebalance(lose)", "            consumer.incremental_unassign(partitions)\n\n        self._rebalance(lose)", LOST),
    Mutant("what was lost stays with the engine", T + "consumer.py", "        self.revoked(places)\n", "        pass\n", LOST),
    Mutant("what was paused leaves as it is", T + "reader.py", "        if paused:\n            self._guard", "        if False:\n            self._guard", PAUSED),
    Mutant("a partition that gets nothing is seen by nobody", T + "reader.py", "if place in said.reachable and place", "if place in said.ends.values() and place", PAUSED_UNREAD),
    Mutant("where a partition stands does not count", S + "watchdog.py", "before[place][0] == at else", "at else", UNREAD),
    Mutant("the broker is not asked whether its log was cut", T + "reader.py", "known = epoch if start == expected else -1", "known = -1", CUT),
    Mutant("a partition is given up with buckets that lag", S + "engine.py", "            self._beat()\n        end =", "            pass\n        end =", CATCH_UP),
    Mutant("a start has the epoch of the log, which keeps none", S + "engine.py", "leader_epoch=max(epochs, default=-1)", "leader_epoch=-1", CUT),
    Mutant("what nobody foresaw ends the watch of topics", S + "topic_watch.py", "            except Exception:\n", "            except ArithmeticError:\n", ("tests/streams/test_topic_watch.py",)),
    Mutant("a topic that grows is the same topic", S + "topic_watch.py", "if told.partitions > partitions:", "if False:", ("tests/streams/test_topic_watch.py",)),
    Mutant("what is to be made whole passes over partitions", S + "topics.py", "if told[name].partitions > topic.partitions:", "if False:", TOPIC_IDS),
    Mutant("who is silent at a worker's port stays", S + "metrics.py", "        timeout = silent_s\n", "", ("tests/streams/test_metrics_port.py",)),
    Mutant("what was answered of topics is kept", S + "topic_ids.py", "                lib.event_destroy(event)\n", "                pass\n", TOPIC_IDS),
    Mutant("every question for topics leaves its queue", S + "topic_ids.py", "            lib.queue_destroy(queue)\n", "            pass\n", TOPIC_IDS),
    Mutant("a topic that is not there is the broker's silence", S + "topic_ids.py", "if code != KafkaError.UNKNOWN_TOPIC_OR_PART:", "if True:", TOPIC_IDS),
    Mutant("a partition that is only defined has to have bounds", S + "bounds.py", "if error.args[0].code() not in NO_PARTITION:", "if True:", ("tests/streams/test_bounds.py",)),
    Mutant("a hole is found in a record of the gap before", S + "holes.py", "(place >= 0) & (offsets < ends[place])", "place >= 0", HOLES),
    Mutant("all that lies between two holes is read", S + "holes.py", "_NEAR = 10_000", "_NEAR = 10**9", HOLES),
    Mutant("rows that came back older are ready for the next worker", S + "serving_sink.py", "is_behind = logged is not None and self._inner.reached(partition) < logged.offset", "is_behind = False", SERVING),
    Mutant("a bucket that lags is taken for a loss", S + "serving_sink.py", "is_behind = logged is not None and self._inner.reached(partition) < logged.offset", "is_behind = logged is not None and self._inner.settled(partition) < logged.offset", SERVING),
    Mutant("definitions are as they were compiled", "featurestore/spec/repository.py", "sys.dont_write_bytecode, True\n", "sys.dont_write_bytecode, False\n", DEFINITIONS),
    Mutant("a certificate that is refused is a lost connection", S + "broker.py", "_CERTIFICATE_ALERT.search(error.str())", "False", ALERT),
    Mutant("a login that was cut off is a wrong password", S + "broker.py", "None if is_broken_off(error) else ", "", CUT_OFF),
    Mutant("Arrow keeps a heap of its own", "streams/memory.py", 'os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")', "pass", MEMORY),
    Mutant("pages that were written to are thrown away", "streams/memory.py", " and not each.anonymous and not each.swap", "", MEMORY),
    Mutant("a record that stands elsewhere counts here too", S + "counts.py", "0 if whole is decoded else _records", "0 if True else _records", ("tests/streams/test_counts.py",)),
)  # fmt: skip

_own = local()
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?:\S*/)?(.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """By which test a fault was found, None where all passed; and how long they took."""

    by: str | None
    took_s: float


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "--only", action="append", metavar="TEXT", help="in whose name or file this stands; may be repeated"
    )
    asked.add_argument("--from", type=int, default=1, metavar="N", dest="first", help="begin at the Nth of these")
    # One more than there are processors: many of the tests wait for servers.
    jobs = (os.cpu_count() or 1) + 1
    asked.add_argument("--jobs", type=int, default=jobs, metavar="N", help=f"how many at a time, here {jobs}")
    asked.add_argument("--unchecked", action="store_true", help="do not run the tests without any fault first")
    chosen = asked.parse_args()
    words = chosen.only or [""]
    planted = [one for one in MUTANTS if any(word in one.what or word in one.file for word in words)]
    return _run(planted, chosen.first, chosen.jobs, is_checked=not chosen.unchecked)


def _run(planted: Sequence[Mutant], first: int, jobs: int, *, is_checked: bool) -> int:
    console, began, some = Console(soft_wrap=True), time.monotonic(), planted[first - 1 :]
    for mutant in some:
        _ensure_plantable(mutant)
    survivors = list[Mutant]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name)
        # Tests that fail anyway would find every fault.
        if is_checked:
            tests = _all_tests(some)
            console.print(f"  {len(tests)} tests and files of tests first run without any fault, which takes minutes")
            failing = _first_failing(_copy(folder), (*AT_ONCE, str(jobs), *tests), None)
            if failing is not None:
                console.print(f"[red]without any fault {escape(failing)} fails[/]; run `make test` first")
                return 1
            console.print(f"  all passed in {time.monotonic() - began:.0f} s; now the faults, {jobs} at a time")
        judged = pool.map(lambda one: _judged(one, folder), some)
        for number, (mutant, verdict) in enumerate(zip(some, judged, strict=True), first):
            said = "[red]SURVIVED[/]" if verdict.by is None else f"found by {escape(verdict.by)}"
            console.print(f"  {number}/{len(planted)} {mutant.what}: {said} in {verdict.took_s:.0f} s")
            if verdict.by is None:
                survivors.append(mutant)
    for mutant in survivors:
        console.print(f"[red]survived:[/] {mutant.what}, in {mutant.file}")
    console.print(f"mutants: {len(some) - len(survivors)} of {len(some)} found in {time.monotonic() - began:.0f} s")
    return 1 if survivors else 0


def _ensure_plantable(mutant: Mutant) -> None:
    """Raises SystemExit where the code has moved from under the fault."""
    times = (ROOT / mutant.file).read_text().count(mutant.before)
    if times != 1:
        raise SystemExit(f"{mutant.what!r}: {mutant.file} has {times} of {mutant.before!r}")


def _all_tests(planted: Sequence[Mutant]) -> tuple[str, ...]:
    """Those that any of them names, each once."""
    named = sorted({test for mutant in planted for test in mutant.tests})
    return tuple(test for test in named if not any(test.startswith((f"{room}/", f"{room}::")) for room in named))


def _judged(mutant: Mutant, folder: Path) -> Verdict:
    copy, began = _copy(folder), time.monotonic()
    path = copy / mutant.file
    source, stamp = path.read_text(), path.stat()
    path.write_text(source.replace(mutant.before, mutant.after))
    try:
        return Verdict(_first_failing(copy, mutant.tests, LIMIT_S), time.monotonic() - began)
    finally:
        path.write_text(source)
        # What was compiled from the source as it is now stays good.
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def _first_failing(copy: Path, tests: tuple[str, ...], limit_s: float | None) -> str | None:
    """The name of the first test that fails, None where all pass."""
    # A single test has no limit here: on a machine at work one that is only slow would count as a fault found.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--timeout", "0", *tests]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "mutants", "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = str(copy)
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return f"no end in {limit_s:.0f} s"
    said = done.stdout.decode()
    # 0: all passed; 1: a test failed. Anything else is a fault of this script.
    if done.returncode not in (0, 1):
        raise SystemExit(said + done.stderr.decode())
    failed = _FAILED.search(said)
    assert (failed is None) == (done.returncode == 0), said
    return None if failed is None else failed[1]


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
