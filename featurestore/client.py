"""The Python SDK: look features up, and make training sets.

Enter: a feature service or view, and entity keys or a spine. Leave: values of now, or of the spine's moments,
as Arrow or plain values. Promise: both come from one definition and one arithmetic.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.errors import MissingEntityKeyError, NotServedError, WrongTypeError
from featurestore.event_time import MOMENT_MAX_US, YEAR_1_US
from featurestore.kernel import DataType, arrow_type, decimal_type, decimals_from, newest_event_us, roll_up
from featurestore.kernel.keys import encode_keys
from featurestore.online import Aliases, OnlineStore, Served
from featurestore.settings import Settings
from featurestore.spec import (
    AGE_S,
    STATUS,
    WATERMARK,
    FeatureService,
    FeatureView,
    Repository,
    Topic,
    ViewSelection,
    load,
    typed_column,
)

if TYPE_CHECKING:
    from featurestore.offline import EventLog, TrainingSet

# One request is one round trip; beyond this many entities ask several times.
ENTITIES_MAX = 10_000
# Who waits for a lookup has no use for a later one; a worker is more patient.
LOOKUP_S = 2.0

_NUMBER = re.compile(r"[-+.0-9A-Za-z]+")

Status = Literal["PRESENT", "NOT_FOUND", "OUTSIDE_MAX_AGE", "STALE"]


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
        self._online = OnlineStore.at(
            self.settings.redis_url,
            namespace=self.settings.project,
            buckets=self.settings.buckets,
            answer_s=LOOKUP_S,
        )
        self._aliases = Aliases(self._online)

    def get(self, name: str, entity: Mapping[str, Any], *, watermark: bool = False) -> dict[str, Any]:
        """Features of one entity as plain values; see `get_many`."""
        columns = self._columns(name, {key: [value] for key, value in entity.items()}, watermark=watermark)
        return {column: values[0].as_py(maps_as_pydicts="strict") for column, values in columns.items()}

    def get_many(
        self, name: str, entities: Mapping[str, Sequence[Any] | pa.Array], *, watermark: bool = False
    ) -> pa.Table:
        """Features of n entities now.

        name       of a feature service, or of a view
        entities   each entity key, and each request column of the service, with its n values
        watermark  also say how far the stream has come; one round trip more
        returns    (n rows) the keys; for each view its `view__feature` columns, then `view__status` (PRESENT,
                   NOT_FOUND, OUTSIDE_MAX_AGE, or STALE while the view's rows may be old or incomplete),
                   `view__age_s` (of the newest event that the values include; null without one), and, if asked for,
                   `view__watermark`: every event up to this moment that was not too late is in, later ones may still
                   be on their way; so may the first records of a partition that had none yet, and they take it back

        Raises UnknownObjectError, MissingEntityKeyError, WrongTypeError, NotServedError, OnlineStoreError.
        """
        return pa.table(self._columns(name, entities, watermark=watermark))

    def _columns(
        self, name: str, entities: Mapping[str, Sequence[Any] | pa.Array], *, watermark: bool
    ) -> dict[str, pa.Array]:
        service = self.repository.service(name)
        for selection in service.selections:
            if not selection.view.online:
                raise NotServedError(selection.view.name)
        keys = _typed_keys(service, entities)
        moment_us = self._clock_us()
        asked = [
            (selection.view.id, encode_keys([keys[key] for key in selection.view.entity.keys]))
            for selection in service.selections
        ]
        found = self._aliases.read(asked)
        columns: dict[str, pa.Array] = dict(keys)
        for selection, (_, encoded), served in zip(service.selections, asked, found, strict=True):
            columns.update(_values(selection, served, moment_us))
            if watermark:
                columns[f"{selection.view.name}__{WATERMARK}"] = self._watermark(selection.view, served.id, encoded)
        columns.update(service.derive(columns))
        return columns

    def entity_of_text(self, name: str, texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Entity keys as a command line or an address gives them, typed as `name` wants them.

        Raises WrongTypeError, also where a key is given twice.
        """
        types = self.repository.service(name).asked
        entity: dict[str, Any] = {}
        for key, text in texts:
            dtype = types.get(key, "string")
            if key in entity:
                raise WrongTypeError(key, f"one {dtype}", text, f"it is given more than once, last as {text!r}")
            entity[key] = _of_text(key, dtype, text)
        return entity

    def ping(self) -> None:
        """Return when the online store answers; raises OnlineStoreError."""
        self._online.ping()

    def point_in_time(self, name: str, spine: pa.Table, *, event_time: str = "event_timestamp") -> pa.Table:
        """The spine with the features that each row's entities had at its moment; spine order, one row a row."""
        from featurestore.offline import service_join

        return service_join(spine, self.repository.service(name), self.event_log, event_time=event_time)

    def training_set(
        self, name: str, spine: pa.Table, *, label: str | None = None, event_time: str = "event_timestamp"
    ) -> TrainingSet:
        """The point-in-time join, kept for ever under the hash of all that decides it; a second call finds it again.

        spine  (n rows) entity keys, event_time, the label, and any other columns to keep

        Raises UnknownObjectError, MissingEntityKeyError, WrongTypeError.
        """
        from featurestore.offline import make_training_set

        service = self.repository.service(name)
        folder = self.settings.training_path / "sets"
        return make_training_set(spine, service, self.event_log, folder, label=label, event_time=event_time)

    def event_log(self, topic: Topic) -> EventLog:
        """The log of a topic."""
        from featurestore.offline import EventLog

        return EventLog(self.settings.offline_path, topic)

    def _watermark(self, view: FeatureView, row_id: str, encoded: Sequence[bytes]) -> pa.Array:
        newest = self._online.newest_us(row_id, view.source.name, encoded)
        moments = [None if event_us is None else max(0, event_us - view.lateness_us) for event_us in newest]
        return pa.array(moments, pa.timestamp("us", tz="UTC"))


def _values(selection: ViewSelection, served: Served, moment_us: int) -> dict[str, pa.Array]:
    view, payloads = selection.view, served.payloads
    values = roll_up(payloads, moment_us, view.plan)
    newest = newest_event_us(payloads, view.plan)
    ages_us = [None if event_us is None else max(0, moment_us - event_us) for event_us in newest]
    out = {column: values[feature] for feature, column in zip(selection.features, selection.columns, strict=True)}
    statuses = [_status(age_us, view.max_age_us) if served.is_ready else "STALE" for age_us in ages_us]
    out[f"{view.name}__{STATUS}"] = pa.array(statuses, pa.string())
    seconds = [None if age_us is None else age_us / 1e6 for age_us in ages_us]
    out[f"{view.name}__{AGE_S}"] = pa.array(seconds, pa.float64())
    return out


def _status(age_us: int | None, max_age_us: int | None) -> Status:
    if age_us is None:
        return "NOT_FOUND"
    return "OUTSIDE_MAX_AGE" if max_age_us is not None and age_us > max_age_us else "PRESENT"


def _of_text(key: str, dtype: DataType, text: str) -> Any:
    if dtype in ("int64", "float64"):
        try:
            # Python reads '1_0', spaces and the digits of every script as well: keys that nobody meant.
            if _NUMBER.fullmatch(text) is None:
                raise ValueError(text)
            return int(text) if dtype == "int64" else float(text)
        except ValueError as error:
            why = f"{text!r} is no number in plain digits, such as {'10' if dtype == 'int64' else '10.5'}"
            raise WrongTypeError(key, dtype, text, why) from error
    if dtype == "bool":
        if text not in ("true", "false"):
            raise WrongTypeError(key, "true or false", text)
        return text == "true"
    return text


def _moment(key: str, text: str) -> datetime:
    """ISO 8601 text with its zone, to the same microsecond as in an event."""
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:
        raise WrongTypeError(key, "timestamp", text, f"{text!r} is not ISO 8601, as events have it") from error
    if moment.tzinfo is None:
        raise WrongTypeError(key, "timestamp", text, f"{text} has no zone; write {text}Z")
    return moment


def _array(key: str, values: Sequence[Any] | pa.Array, dtype: DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    decimals = decimal_type(dtype)
    if decimals is None:
        if dtype == "timestamp":
            values = [_moment(key, value) if isinstance(value, str) else value for value in values]
        if dtype in ("int64", "timestamp"):
            # Arrow would cut these off, and look something else up.
            for broken in (value for value in values if isinstance(value, float) and not value.is_integer()):
                raise WrongTypeError(key, dtype, broken)
        return pa.array(list(values), arrow_type(dtype))
    try:
        return decimals_from(values, decimals)
    except ValueError as error:
        raise WrongTypeError(key, dtype, values, str(error)) from error


def _check_years(key: str, moments: pa.Array) -> None:
    """Python has no others: answers with one of them could not be given."""
    numbers = moments.cast(pa.int64())
    is_outside = pc.or_(pc.less(numbers, YEAR_1_US), pc.greater(numbers, MOMENT_MAX_US))
    for number in numbers.filter(is_outside).to_pylist():
        raise WrongTypeError(key, "timestamp", number, f"{number} us after 1970 is not in the years 1 to 9999 (UTC)")


def _typed_keys(service: FeatureService, entities: Mapping[str, Sequence[Any] | pa.Array]) -> dict[str, pa.Array]:
    types = service.asked
    if set(entities) != set(types):
        raise MissingEntityKeyError(f"{service.name!r}", types, entities)
    out: dict[str, pa.Array] = {}
    for key in types:
        values = entities[key]
        if isinstance(values, str):
            raise WrongTypeError(key, f"a list of {types[key]}", values)
        try:
            out[key] = typed_column(key, _array(key, values, types[key]), types[key])
            if out[key].null_count:
                raise WrongTypeError(key, types[key], None)
            if types[key] == "timestamp":
                _check_years(key, out[key])
        except UnicodeEncodeError as error:
            # Of a command line: bytes that are not UTF-8.
            raise WrongTypeError(key, types[key], values[0], f"{error.object!r} is not UTF-8") from error
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, OverflowError) as error:
            raise WrongTypeError(key, types[key], values[0] if len(values) else None) from error
    lengths = {len(array) for array in out.values()}
    if len(lengths) > 1:
        raise MissingEntityKeyError(f"{service.name!r} (lists of one length)", types, entities)
    if max(lengths) > ENTITIES_MAX:
        raise WrongTypeError("entities", f"at most {ENTITIES_MAX} at once", max(lengths))
    return out
