"""Benchmarks: each figure is a ratio of two things measured side by side in one run, since machines are noisy.

Enter: a name. Leave: a table, or one JSON object. Promise: the raw times stand beside the ratio.
"""

from featurestore.bench.report import Bench, Figure

__all__ = ["Bench", "Figure"]
