"""A streaming feature store: a feature value is a function of a feature view, an entity key, and a moment.

    from featurestore import Entity, FeatureView, Topic, count, mean      # definitions
    from featurestore import FeatureStore                                # lookups and training sets

Names are loaded on first use, so that importing the package is quick and pulls in only what is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurestore.client import FeatureStore as FeatureStore
    from featurestore.spec import Entity as Entity
    from featurestore.spec import FeatureService as FeatureService
    from featurestore.spec import FeatureView as FeatureView
    from featurestore.spec import OwnAggregate as OwnAggregate
    from featurestore.spec import Topic as Topic
    from featurestore.spec import TrainingJob as TrainingJob
    from featurestore.spec import aggregate as aggregate
    from featurestore.spec import before as before
    from featurestore.spec import calendar as calendar
    from featurestore.spec import correlation as correlation
    from featurestore.spec import count as count
    from featurestore.spec import counts as counts
    from featurestore.spec import covariance as covariance
    from featurestore.spec import decayed_mean as decayed_mean
    from featurestore.spec import decayed_sum as decayed_sum
    from featurestore.spec import distinct as distinct
    from featurestore.spec import entropy as entropy
    from featurestore.spec import first as first
    from featurestore.spec import first_n as first_n
    from featurestore.spec import gap_mean as gap_mean
    from featurestore.spec import kurtosis as kurtosis
    from featurestore.spec import last as last
    from featurestore.spec import last_n as last_n
    from featurestore.spec import max as max
    from featurestore.spec import mean as mean
    from featurestore.spec import min as min
    from featurestore.spec import newest as newest
    from featurestore.spec import quantile as quantile
    from featurestore.spec import rate as rate
    from featurestore.spec import ratio as ratio
    from featurestore.spec import session as session
    from featurestore.spec import since_last as since_last
    from featurestore.spec import skewness as skewness
    from featurestore.spec import std as std
    from featurestore.spec import sum as sum
    from featurestore.spec import top_k as top_k
    from featurestore.spec import trend as trend
    from featurestore.spec import tumbling as tumbling
    from featurestore.spec import values as values
    from featurestore.spec import variance as variance

_SPEC = "featurestore.spec"
_WORDS = (
    "aggregate",
    "before",
    "calendar",
    "correlation",
    "count",
    "counts",
    "covariance",
    "decayed_mean",
    "decayed_sum",
    "distinct",
    "entropy",
    "first",
    "first_n",
    "gap_mean",
    "kurtosis",
    "last",
    "last_n",
    "max",
    "mean",
    "min",
    "newest",
    "quantile",
    "rate",
    "ratio",
    "session",
    "since_last",
    "skewness",
    "std",
    "sum",
    "top_k",
    "trend",
    "tumbling",
    "values",
    "variance",
)
_OBJECTS = ("Entity", "FeatureService", "FeatureView", "OwnAggregate", "Topic", "TrainingJob")
_HOMES = {"FeatureStore": "featurestore.client", **dict.fromkeys((*_OBJECTS, *_WORDS), _SPEC)}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
