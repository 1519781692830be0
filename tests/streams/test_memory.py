"""What keeps a worker small takes nothing from those who write definitions; asked of a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOK = """
import sys
from streams.memory import keep_small
keep_small()
import numpy as np
import pyarrow as pa
import streams.build
import streams.worker
pa.table({"a": pa.array([1.5, None]), "b": pa.array(np.arange(2))}).to_pylist()
assert "pandas" not in sys.modules
import pandas
assert pa.table({"a": [1]}).to_pandas().shape == (1, 1)
"""


def test_a_worker_has_no_pandas_until_a_definition_imports_it() -> None:
    pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


LET_GO = """
import os, sys
from pathlib import Path
from streams.memory import keep_small, let_compiler_go
keep_small()
import numba
import psutil

def held():
    maps = psutil.Process().memory_maps(grouped=False)
    return sum(each.rss for each in maps if "libllvmlite" in each.path and "w" not in each.perms and not each.anonymous)

before = held()
assert before > 1 << 20
assert let_compiler_go() == before
assert held() < before // 4
# What was let go is there again when it is asked for.
assert numba.njit(lambda a, b: a * b + 1)(6, 7) == 43
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what a process has in memory")
def test_pages_of_the_compiler_are_given_back_and_it_still_compiles() -> None:
    done = subprocess.run([sys.executable, "-c", LET_GO], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ONE_HEAP = """
from streams.memory import keep_small
keep_small()
import pyarrow as pa
import pyarrow.parquet as pq
file = pa.BufferOutputStream()
pq.write_table(pa.table({"a": list(range(100_000))}), file)
pq.read_table(pa.BufferReader(file.getvalue()))
assert pa.system_memory_pool().max_memory() > 1 << 20
assert pa.mimalloc_memory_pool().max_memory() == 0
"""


def test_arrow_takes_its_memory_where_all_others_do() -> None:
    done = subprocess.run([sys.executable, "-c", ONE_HEAP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
