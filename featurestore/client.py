"""The Python SDK: look features up, and make training sets.

Enter: a feature service or view, and entity keys or a spine. Leave: values of now, or of the spine's moments,
as Arrow or plain values. Promise: both come from one definition and one arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import redis

from featurestore.errors import MissingEntityKeyError, OnlineStoreError, WrongTypeError
from featurestore.kernel import ARROW_TYPES, newest_event_us, roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.online import OnlineStore
from featurestore.settings import Settings
from featurestore.spec import FeatureService, Repository, ViewSelection, load

if TYPE_CHECKING:
    from featurestore.offline import EventLog

# One request is one round trip; beyond this many entities ask several times.
ENTITIES_MAX = 10_000

Status = Literal["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


class FeatureStore:
    """Lookups and training sets of one project. Settings come from `featurestore.toml` and the environment.

    clock_us  gives the moment of a lookup; windows decay although no new event came
    """

    def __init__(
        self,
        settings: Settings | None = None,
        repository: Repository | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self.settings = settings or Settings()
        self.repository = repository or load(self.settings.definitions)
        self._clock_us = clock_us
        client = redis.Redis.from_url(self.settings.redis_url)
        self._online = OnlineStore(client, namespace=self.settings.project, buckets=self.settings.buckets)

    def get(self, name: str, entity: Mapping[str, Any]) -> dict[str, Any]:
        """Features of one entity as plain values; see `get_many`."""
        table = self.get_many(name, {key: [value] for key, value in entity.items()})
        return {column: table[column][0].as_py() for column in table.column_names}

    def get_many(self, name: str, entities: Mapping[str, Sequence[Any] | pa.Array]) -> pa.Table:
        """Features of n entities now.

        name      of a feature service, or of a view
        entities  each entity key with its n values
        returns   (n rows) the keys; for each view its `view__feature` columns, then `view__status`,
                  `view__age_s` (of the newest event that the values include; null without one)

        Raises UnknownObjectError, MissingEntityKeyError, WrongTypeError, OnlineStoreError.
        """
        service = self.repository.service(name)
        keys = _typed_keys(service, entities)
        moment_us = self._clock_us()
        asked = [
            (selection.view.id, encode_keys([keys[key] for key in selection.view.entity.keys]))
            for selection in service.selections
        ]
        try:
            found = self._online.payloads(asked)
        except redis.RedisError as error:
            raise OnlineStoreError(f"the online store does not answer: {error}") from error
        columns: dict[str, pa.Array] = dict(keys)
        for selection, payloads in zip(service.selections, found, strict=True):
            columns.update(_values(selection, payloads, moment_us))
        return pa.table(columns)

    def point_in_time(self, name: str, spine: pa.Table, *, event_time: str = "event_timestamp") -> pa.Table:
        """The spine with the features that each row's entities had at its moment; spine order, one row a row."""
        from featurestore.offline import point_in_time_join

        service = self.repository.service(name)
        return point_in_time_join(spine, service.selections, self.event_log, event_time=event_time)

    def event_log(self, topic: Any) -> EventLog:
        """The log of a topic."""
        from featurestore.offline import EventLog

        return EventLog(self.settings.offline_path, topic)


def _values(selection: ViewSelection, payloads: list[bytes | None], moment_us: int) -> dict[str, pa.Array]:
    view = selection.view
    values = roll_up(payloads, moment_us, view.plan)
    newest = newest_event_us(payloads, view.plan)
    ages_us = [None if event_us is None else max(0, moment_us - event_us) for event_us in newest]
    out = {column: values[feature] for feature, column in zip(selection.features, selection.columns, strict=True)}
    out[f"{view.name}__status"] = pa.array([_status(age_us, view.max_age_us) for age_us in ages_us], pa.string())
    seconds = [None if age_us is None else age_us / 1e6 for age_us in ages_us]
    out[f"{view.name}__age_s"] = pa.array(seconds, pa.float64())
    return out


def _status(age_us: int | None, max_age_us: int | None) -> Status:
    if age_us is None:
        return "NOT_FOUND"
    return "OUTSIDE_MAX_AGE" if max_age_us is not None and age_us > max_age_us else "PRESENT"


def _typed_keys(service: FeatureService, entities: Mapping[str, Sequence[Any] | pa.Array]) -> dict[str, pa.Array]:
    if set(entities) != set(service.entity_keys):
        raise MissingEntityKeyError(f"{service.name!r}", service.entity_keys, entities)
    types = {key: s.view.source.schema[key] for s in service.selections for key in s.view.entity.keys}
    out: dict[str, pa.Array] = {}
    for key in service.entity_keys:
        values = entities[key]
        if isinstance(values, str):
            raise WrongTypeError(key, f"a list of {types[key]}", values)
        try:
            array = values if isinstance(values, pa.Array) else pa.array(list(values), ARROW_TYPES[types[key]])
            out[key] = array.cast(ARROW_TYPES[types[key]])
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
            raise WrongTypeError(key, types[key], values[0] if len(values) else None) from error
    lengths = {len(array) for array in out.values()}
    if len(lengths) > 1:
        raise MissingEntityKeyError(f"{service.name!r} (lists of one length)", service.entity_keys, entities)
    if max(lengths) > ENTITIES_MAX:
        raise WrongTypeError("entities", f"at most {ENTITIES_MAX} at once", max(lengths))
    return out
