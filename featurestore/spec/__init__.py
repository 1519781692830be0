"""Definitions: what authors write, as frozen typed values.

Enter: the files of a definitions repository. Leave: a `Repository` of checked values, and the compiled plan
of every view. Promise: a wrong definition cannot exist; its error says what to write instead.
"""

from featurestore.spec.aggregates import (
    count,
    distinct,
    entropy,
    first,
    gap_mean,
    last,
    max,
    mean,
    min,
    quantile,
    rate,
    since_last,
    std,
    sum,
    variance,
)
from featurestore.spec.objects import Entity, FeatureService, FeatureView, Topic, TrainingJob, ViewSelection
from featurestore.spec.repository import Repository, collect, load

__all__ = [
    "Entity",
    "FeatureService",
    "FeatureView",
    "Repository",
    "Topic",
    "TrainingJob",
    "ViewSelection",
    "collect",
    "count",
    "distinct",
    "entropy",
    "first",
    "gap_mean",
    "last",
    "load",
    "max",
    "mean",
    "min",
    "quantile",
    "rate",
    "since_last",
    "std",
    "sum",
    "variance",
]
