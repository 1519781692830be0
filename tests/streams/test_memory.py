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
