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
    from featurestore.spec import Topic as Topic
    from featurestore.spec import TrainingJob as TrainingJob
    from featurestore.spec import count as count
    from featurestore.spec import distinct as distinct
    from featurestore.spec import entropy as entropy
    from featurestore.spec import first as first
    from featurestore.spec import gap_mean as gap_mean
    from featurestore.spec import last as last
    from featurestore.spec import max as max
    from featurestore.spec import mean as mean
    from featurestore.spec import min as min
    from featurestore.spec import quantile as quantile
    from featurestore.spec import rate as rate
    from featurestore.spec import since_last as since_last
    from featurestore.spec import std as std
    from featurestore.spec import sum as sum
    from featurestore.spec import variance as variance

_SPEC = "featurestore.spec"
_AGGREGATES = (
    "count",
    "distinct",
    "entropy",
    "first",
    "gap_mean",
    "last",
    "max",
    "mean",
    "min",
    "quantile",
    "rate",
    "since_last",
    "std",
    "sum",
    "variance",
)
_OBJECTS = ("Entity", "FeatureService", "FeatureView", "Topic", "TrainingJob")
_HOMES = {"FeatureStore": "featurestore.client", **dict.fromkeys((*_OBJECTS, *_AGGREGATES), _SPEC)}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
