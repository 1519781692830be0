"""A worker's process keeps one heap and does without pandas, which is installed beside it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

_LOOK = """
from streams.memory import keep_small
keep_small()
import sys
import pyarrow as pa
import streams.build
table = pa.table({"a": pa.array([0, None, 2]), "b": ["x", "y", None]})
assert table.to_pylist()[2] == {"a": 2, "b": None}
print(pa.default_memory_pool().backend_name, "pandas" in sys.modules)
"""


def test_a_worker_has_one_heap_and_no_pandas() -> None:
    assert importlib.util.find_spec("pandas") is not None
    done = subprocess.run([sys.executable, "-c", _LOOK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["system", "False"]
