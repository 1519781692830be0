"""How good scores are: area under the ROC curve, precision and recall."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def auc(scores: Floats, labels: Mask) -> float:
    """Chance that a positive scores above a negative, ties counted half; nan when one of the two is missing."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return float("nan")
    distinct, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    end = np.cumsum(count)
    # Tied scores share the mean of the ranks that they cover.
    rank = (end - count + 1 + end) / 2.0
    total = float(rank[place.reshape(-1)][labels].sum())
    assert len(distinct) == len(end)
    return (total - positives * (positives + 1) / 2.0) / (positives * negatives)


def precision_recall(predicted: Mask, labels: Mask) -> tuple[float, float]:
    """Share of the predicted that are right, and share of the positives that are found; nan without any."""
    right = int((predicted & labels).sum())
    said, there = int(predicted.sum()), int(labels.sum())
    return right / said if said else float("nan"), right / there if there else float("nan")
