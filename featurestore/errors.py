"""Every error of the project.

FeatureStoreError
├── DefinitionError            a definition cannot exist as written
│   ├── InvalidDurationError
│   ├── InvalidNameError
│   ├── UnknownColumnError
│   ├── UnsupportedAggregateError
│   └── MisalignedTileError
├── RequestError               a caller asked for something that is not there or not so typed
│   ├── UnknownObjectError
│   ├── MissingEntityKeyError
│   ├── WrongTypeError
│   ├── NotServedError
│   ├── NaiveDatetimeError
│   └── RequestTooLargeError
└── (stores, stream, local: below, each under its room's heading)

The message says what happened, to which object, and what to do; the facts stay on the error as attributes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path


class FeatureStoreError(Exception):
    """Base of all errors that this project raises on purpose."""


class DefinitionError(FeatureStoreError):
    """A definition cannot exist as written."""


class RequestError(FeatureStoreError):
    """A caller asked for something that is not there, or with a value of another type."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of a message: the nearest right names, or all of them when few."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(one) for one in close) + "?"
    if not names:
        return "none is defined"
    shown = ", ".join(repr(one) for one in names[:8])
    return f"known: {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")


class SettingError(FeatureStoreError):
    """A setting cannot be used."""

    def __init__(self, setting: str, what: str) -> None:
        self.setting = setting
        super().__init__(f"setting {setting} {what}")


class InvalidDurationError(DefinitionError):
    """A duration is not a whole number and a unit."""

    def __init__(self, text: object) -> None:
        self.text = text
        wanted = "a whole number and a unit, such as '90s', '24h' or '7d', up to a century"
        super().__init__(f"{text!r} is not a duration; write {wanted}")


class InvalidNameError(DefinitionError):
    """A name cannot be used in keys, columns and metric labels."""

    def __init__(self, kind: str, name: object) -> None:
        self.kind, self.name = kind, name
        super().__init__(
            f"{name!r} cannot name a {kind}; use lower-case letters, digits, '_' or '-', "
            "starting with a letter, without '__', 64 characters at most"
        )


class UnknownColumnError(DefinitionError):
    """A definition names a column that its topic does not have."""

    def __init__(self, owner: str, column: str, known: Iterable[str]) -> None:
        self.owner, self.column = owner, column
        super().__init__(f"{owner} uses column {column!r}, which is not in the schema; {nearest(column, known)}")


class UnsupportedAggregateError(DefinitionError):
    """An aggregate makes no sense for the type of its column, or for its window."""


class MisalignedTileError(DefinitionError):
    """A tile does not divide its window."""

    def __init__(self, feature: str, window: str, tile: str, instead: str) -> None:
        self.feature, self.window, self.tile = feature, window, tile
        super().__init__(
            f"slide of {tile} does not divide the window of {window} in feature {feature!r}; "
            f"use a slide such as {instead}"
        )


class UnknownObjectError(RequestError):
    """A view, service, topic, feature or job of that name does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        super().__init__(f"there is no {kind} {name!r}; {nearest(name, known)}")


class UnreadTopicError(RequestError):
    """No feature view reads a topic, so no worker judges its events."""

    def __init__(self, topic: str, letters: int) -> None:
        self.topic, self.letters = topic, letters
        has = f"its {letters:,} dead letters stay until one does" if letters else "it has no dead letters here"
        super().__init__(f"no feature view reads topic {topic!r}; {has}")


class MissingEntityKeyError(RequestError):
    """A request lacks an entity key, or has one that nothing asks for."""

    def __init__(self, target: str, wanted: Iterable[str], given: Iterable[str]) -> None:
        self.target, self.wanted, self.given = target, tuple(wanted), tuple(given)
        super().__init__(f"{target} needs the entity keys {list(self.wanted)}, but got {list(self.given)}")


class WrongTypeError(RequestError):
    """A value is not of the type that its column or key declares."""

    def __init__(self, name: str, wanted: str, got: object, why: str = "") -> None:
        self.name, self.wanted, self.got, self.why = name, wanted, got, why
        super().__init__(
            f"{name!r} must be {wanted}" + (f": {why}" if why else f", but {got!r} is {type(got).__name__}")
        )


class RepeatedColumnError(RequestError):
    """A training set would have two columns of one name."""

    def __init__(self, column: str, *, is_served: bool) -> None:
        self.column, self.is_served = column, is_served
        what = f"has a column {column!r}, which the join adds itself" if is_served else f"has two columns {column!r}"
        super().__init__(f"the spine {what}; rename it, or leave it out")


class NotServedError(RequestError):
    """A view without online rows was looked up."""

    def __init__(self, view: str) -> None:
        self.view = view
        super().__init__(f"feature view {view!r} has online=False: it is for training sets, not for lookups")


class NaiveDatetimeError(RequestError):
    """A datetime without a zone names no moment."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment
        super().__init__(f"{moment!r} has no time zone; pass an aware datetime such as datetime.now(timezone.utc)")


class RequestTooLargeError(RequestError):
    """A request is larger than a server takes at once."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        super().__init__(f"the body is larger than {bytes_max} bytes; ask in several requests")


# --- kernel ---------------------------------------------------------------------------------------------------------


class RowLayoutError(FeatureStoreError):
    """A stored row was written with another layout than its view has, or is cut short or damaged."""

    def __init__(self, wanted: int, found: int | None) -> None:
        self.wanted, self.found = wanted, found
        what = "is cut short or damaged" if found is None else f"has layout {found:08x}"
        super().__init__(f"a stored row {what}, but its view has layout {wanted:08x}; rebuild the view's online rows")


# --- streams --------------------------------------------------------------------------------------------------------


class DeadLetterError(FeatureStoreError):
    """Dead letters could not be stored or read, so their events must not count as done."""

    def __init__(self, left: int, reasons: list[str]) -> None:
        self.left, self.reasons = left, reasons
        said = "; ".join(dict.fromkeys(reasons)) or "the broker did not acknowledge them in time"
        super().__init__(f"dead letters could not be handled ({left} outstanding): {said}; check the broker")


class TooManyIdsError(FeatureStoreError):
    """A partition saw more event ids within the horizon of its topic's `dedupe` than are remembered."""

    def __init__(self, ids: int, ids_max: int) -> None:
        self.ids, self.ids_max = ids, ids_max
        super().__init__(
            f"{ids} event ids fall into the time `within` of one partition, but at most {ids_max} are remembered; "
            "say a shorter `within` in the topic's definition, or give the topic more partitions"
        )


class LetterReplayError(FeatureStoreError):
    """Taking dead letters back was ended by another run, or by the broker; no letter was taken back by half."""

    def __init__(self, topic: str, replayed: int, what: str) -> None:
        self.topic, self.replayed = topic, replayed
        super().__init__(
            f"the replay of dead letters of {topic!r} ended after {replayed}: {what}; run the command again, "
            "it goes on with the letters that are left"
        )


class LostTailError(FeatureStoreError):
    """The online store lost its newest commits: the engine must read again from where the store stands.

    also  other partitions whose events were dropped with those of this one, since they were committed together
    """

    def __init__(self, view: str, topic: str, partition: int, offset: int, also: frozenset[int] = frozenset()) -> None:
        self.view, self.topic, self.partition, self.offset, self.also = view, topic, partition, offset, also
        super().__init__(
            f"online rows of {view!r} stand at offset {offset} of {topic}/{partition}; reading again from there"
        )


class CommitRetriesError(FeatureStoreError):
    """Another writer kept changing the same rows."""

    def __init__(self, view: str, tries: int) -> None:
        self.view, self.tries = view, tries
        super().__init__(f"a commit of view {view!r} met changed rows {tries} times; the batch is handed back")


class BackfillError(FeatureStoreError):
    """A backfill must not go on."""

    def __init__(self, view: str, what: str) -> None:
        self.view = view
        super().__init__(f"backfill of {view!r}: {what}")


class ReplayError(FeatureStoreError):
    """A range of a topic cannot be replayed as asked."""

    def __init__(self, topic: str, what: str) -> None:
        self.topic = topic
        super().__init__(f"replay of topic {topic!r}: {what}")


# --- online ---------------------------------------------------------------------------------------------------------


class OnlineStoreError(FeatureStoreError):
    """The online store cannot be used as it is."""


class FullStoreError(OnlineStoreError):
    """The server has no room, and drops nothing to make some."""

    def __init__(self) -> None:
        super().__init__(
            "the online store is full: its server holds as much as its maxmemory allows; raise that with CONFIG SET, "
            "or take keys away that nobody needs. Do not start the server anew: it would forget that it evicted keys"
        )


class UnmarkedRowsError(OnlineStoreError):
    """A bucket has rows, and nothing that says which events they hold: folded onto, they would count some twice."""

    def __init__(self, row_id: str, bucket: int) -> None:
        self.row_id, self.bucket = row_id, bucket
        super().__init__(
            f"the online store has rows of {row_id!r} in bucket {bucket}, but not up to where they have come: it "
            "evicted keys, or the rows were dropped in part; set its maxmemory-policy to 'noeviction', drop these rows "
            "(`featurestore replay` with --drop, `featurestore backfill` with --abandon; where that has flipped to "
            "them, a worker fills others and drops these) and run it again"
        )


class ChangedBucketsError(OnlineStoreError):
    """The rows of a project lie in another number of buckets than its settings say, so most are not found."""

    def __init__(self, project: str, held: int, buckets: int) -> None:
        self.project, self.held, self.buckets = project, held, buckets
        super().__init__(
            f"the setting buckets is {buckets}, and the online store has the rows of {project!r} in {held}; "
            f"set buckets back to {held}, or take another project, with an offline_path of its own: this one can have "
            f"{buckets} in an empty store only"
        )


class OtherLogError(OnlineStoreError):
    """The workers of a project keep the events of a topic in another event log than this one."""

    def __init__(self, project: str, topic: str, held: str, log_id: str) -> None:
        self.project, self.topic, self.held, self.log_id = project, topic, held, log_id
        super().__init__(
            f"the workers of project {project!r} keep the events of topic {topic!r} in the event log (Delta table) "
            f"{held}, and the one in this worker's offline_path is {log_id}: each would have a part of them; all "
            "workers of a project share one offline_path, so set it to theirs. Where their log is lost, stop all "
            f"workers and run `featurestore forget-log {topic}`: the next worker goes on with the log that it finds"
        )


class OtherStoreError(OnlineStoreError):
    """Workers of a project that live write into another online store than this one."""

    def __init__(self, project: str, group: str) -> None:
        self.project, self.group = project, group
        super().__init__(
            f"workers of project {project!r} (members of the group {group!r}) write into another online store than the "
            "one of this worker's redis_url: each would have a part of the events; all workers of a project share one "
            "redis_url, so set it to theirs. To move to another store, stop all workers first (one that was killed, or "
            "has a worker_id, is counted until worker_session_s have passed)"
        )


# --- local ----------------------------------------------------------------------------------------------------------


class LocalServerError(FeatureStoreError):
    """A local server did not start, or ended."""

    def __init__(self, server: str, what: str, log: str) -> None:
        self.server, self.log = server, log
        super().__init__(f"the local {server} {what}; its last words:\n{log}")


# --- offline --------------------------------------------------------------------------------------------------------


class EventLogError(FeatureStoreError):
    """The event log of a topic cannot be written."""

    def __init__(self, topic: str, what: str) -> None:
        self.topic = topic
        super().__init__(f"the event log of topic {topic!r} cannot be written: {what}; check for other writers")


class OtherProjectError(EventLogError):
    """The event log of a topic is another project's, so it has what that one's definitions took."""

    def __init__(self, topic: str, path: Path, owner: str, project: str) -> None:
        self.topic, self.path, self.owner, self.project = topic, path, owner, project
        FeatureStoreError.__init__(
            self,
            f"the event log of topic {topic!r} in {path} is written by project {owner!r}, and has no event that its "
            f"definitions refuse; give project {project!r} an offline_path of its own",
        )


class GoneVersionError(FeatureStoreError):
    """A version of an event log was removed by `featurestore compact`."""

    def __init__(self, topic: str, version: int, first: int) -> None:
        self.topic, self.version, self.first = topic, version, first
        super().__init__(
            f"version {version} of the event log of topic {topic!r} was removed by `featurestore compact`: "
            f"the first that is there is {first}; begin again on the newest one "
            "(a backfill: with --abandon, then without), and give `compact` a longer --keep"
        )


class TransportError(FeatureStoreError):
    """The Faust transport was asked for something that it does not do, or could not finish in time."""


class TopicError(FeatureStoreError):
    """A Kafka topic cannot be created, found or written."""

    def __init__(self, topic: str, what: str) -> None:
        self.topic = topic
        super().__init__(f"topic {topic!r}: {what}")


class GrownTopicError(TopicError):
    """The broker has more partitions of a topic than its definition says, and nobody reads the others."""

    def __init__(self, topic: str, said: int, held: int) -> None:
        self.said, self.held = said, held
        super().__init__(
            topic,
            f"the broker has {held} partitions of it, but its definition says partitions={said}, and what is sent to "
            f"the others is not read; say partitions={held} there, run `featurestore apply`, start the workers again",
        )


class BrokerError(FeatureStoreError):
    """No Kafka broker answers."""

    def __init__(self, bootstrap: str, what: str) -> None:
        self.bootstrap = bootstrap
        super().__init__(
            f"no Kafka broker answers at {bootstrap}: {what}; "
            "check kafka_bootstrap, kafka_security_protocol and the broker"
        )


class BrokerAccessError(FeatureStoreError):
    """The broker, or the way to it, refuses us; trying again does not help."""

    def __init__(self, what: str, settings: str) -> None:
        self.what, self.settings = what, settings
        super().__init__(f"the Kafka broker refuses us: {what}; check the settings {settings}")


class RecordsGoneError(FeatureStoreError):
    """The broker has deleted records before they were applied."""

    def __init__(
        self, topic: str, partition: int, offset: int | None, what: str, bounds: tuple[int, int] | None = None
    ) -> None:
        """bounds: the first offset that the broker has, and its end; None where it does not say."""
        self.topic, self.partition, self.offset, self.bounds = topic, partition, offset, bounds
        low, end = bounds or (None, None)
        if offset is not None and low is not None and offset < low:
            gone = f"offsets {offset} to {low} of {topic}/{partition} are incomplete: records were deleted before they"
            gone += " were applied"
        elif offset is not None and end is not None and end < offset:
            gone = f"the log of {topic}/{partition} was cut, or its topic was deleted and made again: it ends at {end}"
            gone += f", and {offset} is what comes next here"
        elif offset is not None and end is not None:
            gone = f"the log of {topic}/{partition} was cut below {offset}, and other records have taken the place of "
            gone += "some that were applied, as after an unclean leader election or where its topic was made again"
        else:
            gone = f"offset {offset} of {topic}/{partition} is out of range at the broker: records were deleted before "
            gone += "they were applied, or the log was cut"
        if offset is not None and low is not None and offset < low:
            advice = (
                "start the worker again, it fills from the event log what that has; what the log lacks as well "
                f"`featurestore skip-expired --topic {topic}` goes on without; a longer retention saves others"
            )
        else:
            advice = (
                "fill its views anew from a topic of another name, or in another project, with an offline_path of its "
                "own"
            )
        super().__init__(f"{gone} ({what}); nothing is skipped by itself: {advice}")


class WorkersRunningError(FeatureStoreError):
    """What was asked for needs all workers of the project to have ended."""

    def __init__(self, group: str, members: int) -> None:
        self.group, self.members = group, members
        super().__init__(
            f"workers of the group {group!r} are running ({members}) and may still write events of before; stop them "
            "first (one that was killed, or has a worker_id, is counted until worker_session_s have passed)"
        )


class StalledError(FeatureStoreError):
    """Records are there, and nothing is done with them."""

    def __init__(self, seconds: float, waiting: str) -> None:
        self.seconds = seconds
        super().__init__(
            f"no batch was finished for {seconds:.0f} s although {waiting}; the worker ends, to be started again "
            "(worker_stall_s is the bound)"
        )


class UnreadError(FeatureStoreError):
    """The broker has records of a partition, answers, and none of them come."""

    def __init__(self, topic: str, partition: int, offset: int, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(
            f"topic {topic!r}, partition {partition}: nothing was read after offset {offset} for {seconds:.0f} s "
            "although the broker has more; the worker ends, to be started again (worker_stall_s is the bound)"
        )


class UndrainedError(FeatureStoreError):
    """A worker that was told to stop could not bring all that it had read to where it belongs in time."""

    def __init__(self, seconds: float, undrained: Sequence[str]) -> None:
        self.seconds, self.undrained = seconds, tuple(undrained)
        left = "; ".join(undrained) or "nothing that a sink lacks is known"
        super().__init__(
            f"told to stop, and not drained after {seconds:.1f} s (worker_drain_s and a moment more): {left}. The "
            "worker ends all the same; what a sink does not hold is read again by whoever reads its partition next"
        )


class NotAcknowledgedError(FeatureStoreError):
    """The broker did not take events that were sent.

    count  how many records it did not take, None where nobody counted
    """

    def __init__(self, what: str, count: int | None = None) -> None:
        self.what, self.count = what, count
        super().__init__(
            f"events were not acknowledged: {what}; check them and the broker, then send these again and no others"
        )


class LinesNotAcknowledgedError(FeatureStoreError):
    """The broker did not take some lines of a file; it has all others that were sent.

    refused   lines that it does not have, and why
    unsure    lines without an answer, which it may have
    ended_at  the last line that was sent, where what comes after it was not
    """

    def __init__(
        self,
        topic: str,
        acknowledged: int,
        refused: Sequence[int],
        reasons: Sequence[str],
        unsure: Sequence[int],
        ended_at: int | None = None,
    ) -> None:
        self.topic, self.acknowledged, self.refused, self.unsure = topic, acknowledged, tuple(refused), tuple(unsure)
        self.ended_at = ended_at
        said = [f"topic {topic!r}: {acknowledged:,} events are acknowledged and must not be sent again"]
        if refused:
            rest = "" if ended_at is None else f" and those after line {ended_at}, of which none was sent"
            said.append(f"refused: {_lines(refused)} ({'; '.join(reasons)}); mend these lines and send only them{rest}")
        if unsure:
            said.append(f"without an answer, so there or not: {_lines(unsure)}; check the broker before sending them")
        super().__init__("; ".join(said))


def _lines(numbers: Sequence[int]) -> str:
    """Numbers of lines, rising, neighbours together: 'lines 3, 7-9'."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}"


class OtherProcessError(FeatureStoreError):
    """A producer is used in another process than the one that made it."""

    def __init__(self, broker: str, made_in: int, used_in: int) -> None:
        self.broker, self.made_in, self.used_in = broker, made_in, used_in
        super().__init__(
            f"the EventProducer for {broker} was made in process {made_in} and used in process {used_in}, where none "
            "of its threads are and nothing was sent; make one in each process, after the fork"
        )


class InvalidEventError(FeatureStoreError):
    """An event breaks the contract of its topic; it was not sent."""

    def __init__(self, topic: str, what: str) -> None:
        self.topic, self.detail = topic, what
        super().__init__(f"the event breaks the contract of topic {topic!r}: {what}; it was not sent")


class UnknownSchemaError(FeatureStoreError):
    """The schema registry answers, and has no schema of that id."""

    def __init__(self, schema_id: int, where: str) -> None:
        self.schema_id, self.where = schema_id, where
        super().__init__(
            f"schema {schema_id} is not in the registry at {where}; was the event written for another one?"
        )


class IncompatibleSchemaError(FeatureStoreError):
    """Events that were written with this schema cannot become events of the topic's definition."""

    def __init__(self, schema_id: int, what: str) -> None:
        self.schema_id = schema_id
        super().__init__(f"schema {schema_id} does not fit the definition: {what}")


class SchemaRegistryError(FeatureStoreError):
    """The schema registry cannot be asked, or refuses. Events that need it wait; they are never dead letters for it."""

    def __init__(self, where: str, what: str) -> None:
        self.where = where
        super().__init__(f"the schema registry at {where}: {what}; check the setting schema_registry and the registry")


class DemoCheckError(FeatureStoreError):
    """A check of the demo failed."""

    def __init__(self, step: str, what: str) -> None:
        self.step = step
        super().__init__(f"demo: the step {step!r} failed: {what}")
