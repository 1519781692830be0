"""`featurestore dead-letters`: which events could not be applied, why, and how they are taken back."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from featurestore.settings import Settings
    from featurestore.spec import Repository
    from streams.dead_letters import Held, HeldLetter
    from streams.letter_replay import LetterReport

letters_app = typer.Typer(
    no_args_is_help=True, help="Show the events that could not be applied, with their reasons; take them back."
)

TopicOption = Annotated[str | None, typer.Option(help="only letters of this topic")]
ReasonOption = Annotated[str | None, typer.Option(help="only letters with this reason, such as wrong_type")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
_PAYLOAD_SHOWN = 60


@letters_app.command("list")
def list_letters(
    topic: TopicOption = None,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(help="how many letters to show", min=0)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Count the letters by topic and reason, and show the newest."""
    from featurestore.cli import show_table

    found = _read(topic)
    if topic is not None and not found.letters:
        _refuse_unread(topic, found)
    held = [each for each in found.letters if reason in (None, each.letter.reason)]
    newest = held[::-1][:limit]
    waiting = Counter((each.letter.topic, each.letter.reason) for each in held if each.replayed is None)
    replayed = Counter((each.letter.topic, each.letter.reason) for each in held if each.replayed is not None)
    kinds = sorted(waiting.keys() | replayed.keys())
    if as_json:
        counts = [{"topic": t, "reason": r, "waiting": waiting[t, r], "replayed": replayed[t, r]} for t, r in kinds]
        letters = [_facts(each) for each in newest]
        print(json.dumps({"counts": counts, "letters": letters, "unreadable": len(found.unreadable)}))
        return
    rows = [[t, r, f"{waiting[t, r]:,}", f"{replayed[t, r]:,}"] for t, r in kinds]
    show_table("by reason", ["topic", "reason", "waiting", "replayed"], rows)
    columns = ["topic", "partition/offset", "reason", "detail", "payload", ""]
    show_table("dead letters, the newest first", columns, [_row(each) for each in newest])


@letters_app.command("show")
def show_letter(
    place: Annotated[
        list[str],
        typer.Argument(help="TOPIC PARTITION OFFSET, or topic/partition/offset; then the position in an Arrow record"),
    ],
    as_json: JsonOption = False,
) -> None:
    """Show all that is known of one letter."""
    from featurestore.cli import console, show_table

    wanted = _place("/".join(place))
    topic = wanted.split("/")[0]
    held = _read(topic).letters
    found = next((each for each in held if each.letter.place == wanted), None)
    if found is None:
        from featurestore.errors import UnknownObjectError

        raise UnknownObjectError("dead letter", wanted, [each.letter.place for each in held])
    facts = _facts(found)
    if as_json:
        print(json.dumps(facts))
        return
    payload = facts.pop("payload")
    if found.letter.is_cut:
        facts["whole_bytes"] = f"{found.letter.whole_bytes:,}: below is where they begin, all of them are at {wanted}"
    show_table(wanted, ["fact", "value"], [[name, escape(_shown(str(value)))] for name, value in facts.items()])
    console.print(_pretty(payload), markup=False, highlight=False, soft_wrap=True)


@letters_app.command("replay")
def replay_letters(
    topic: TopicOption = None,
    reason: ReasonOption = None,
    place: Annotated[
        str | None, typer.Option(help="only this letter: topic/partition/offset, and /position in an Arrow record")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take letters back that the definitions accept by now, each exactly once; safe to repeat.

    Workers must run with the mended definitions already. Letters that would die again are left as they are.
    """
    from featurestore.cli import errors, show_table
    from featurestore.offline import EventLog, check_types
    from streams.broker import broker_of
    from streams.codecs import codec_of
    from streams.letter_replay import LetterReplay, Wanted
    from streams.schemas import schemas_at

    chosen, repository = _chosen()
    reports: dict[str, LetterReport] = {}
    if place is not None:
        place = _place(place)
        topic = topic or place.split("/")[0]
    names = _topics(repository, topic)
    if topic is not None and place is None and not repository.views_of(topic):
        _refuse_unread(topic, _read(topic))
    # What comes back now, no worker could log any more.
    check_types(chosen.offline_path, [repository.topic(name) for name in names], chosen.project)
    for name in names:
        views = repository.views_of(name)
        if not views:
            continue
        wanted_topic = repository.topic(name)
        log = EventLog(chosen.offline_path, wanted_topic)
        replay = LetterReplay(
            broker_of(chosen),
            chosen.project,
            wanted_topic,
            max(view.lateness_us for view in views),
            {partition: mark.newest_us for partition, mark in log.marks().items()},
            lambda: time.time_ns() // 1_000,
            lambda step, done, name=name: (  # type: ignore[misc]  # bound now
                errors.print(f"  {name}: {done:,} replayed", highlight=False) if step == "committed" else None
            ),
            codec_of(wanted_topic, schemas_at(chosen.schema_address)),
            log,
        )
        wanted = Wanted(reason, place)
        reports[name] = replay.look(wanted) if dry_run else replay.run(wanted)
    if place is not None and not reports:
        from featurestore.errors import UnknownObjectError

        # No view reads the topic.
        raise UnknownObjectError("dead letter", place, [])
    _tell_unreadable([where for one in reports.values() for where in one.unreadable])
    if as_json:
        said = {
            name: {"replayed": one.replayed, "before": one.before, "left": one.left, "example": one.example}
            for name, one in reports.items()
        }
        print(json.dumps({"dry_run": dry_run, "topics": said}))
        return
    done = "would be replayed" if dry_run else "replayed"
    rows = []
    for name, one in reports.items():
        rows.append([name, done, f"{one.replayed:,}", ""])
        rows.append([name, "replayed before", f"{one.before:,}", ""])
        rows += [
            [name, f"left: {why}", f"{n:,}", escape(_shown(one.example[why]))] for why, n in sorted(one.left.items())
        ]
    show_table("replay of dead letters", ["topic", "what", "letters", "such as"], rows)


def _place(said: str) -> str:
    """The place of a letter as letters have it; raises BadParameter."""
    topic, *numbers = said.split("/")
    # Where a record holds many events, a third number is the event's position in it.
    if len(numbers) not in (2, 3) or not all(number.isdecimal() for number in numbers):
        raise typer.BadParameter(f"{said!r} is no place of a letter, such as payments/0/918 or payments 0 918")
    return "/".join([topic, *(str(int(number)) for number in numbers)])


def _chosen() -> tuple[Settings, Repository]:
    from featurestore.settings import Settings
    from featurestore.spec import load

    chosen = Settings()
    return chosen, load(chosen.definitions)


def _topics(repository: Repository, topic: str | None) -> Sequence[str]:
    return list(repository.topics) if topic is None else [repository.topic(topic).name]


def _read(topic: str | None) -> Held:
    from streams.broker import broker_of
    from streams.dead_letters import held_letters

    chosen, repository = _chosen()
    held = held_letters(broker_of(chosen), chosen.project, _topics(repository, topic))
    _tell_unreadable(held.unreadable)
    return held


def _refuse_unread(topic: str, held: Held) -> None:
    """Raises UnreadTopicError where no view reads the topic: an empty table would look as if all were well."""
    from featurestore.errors import UnreadTopicError

    if not _chosen()[1].views_of(topic):
        raise UnreadTopicError(topic, len(held.letters))


def _tell_unreadable(places: Sequence[str]) -> None:
    from featurestore.cli import errors

    if places:
        said = f"{len(places):,} records hold no letter and are left out, such as {places[0]}"
        errors.print(said, markup=False, highlight=False, soft_wrap=True)


def _row(held: HeldLetter) -> list[str]:
    one = held.letter
    shown = (one.payload or b"").decode("utf-8", "replace")[:_PAYLOAD_SHOWN]
    status = "" if held.replayed is None else f"replayed as {held.replayed.new_offset}"
    if one.whole_bytes is not None:
        status = f"cut: {one.whole_bytes:,} bytes"
    place = one.place.removeprefix(f"{one.topic}/")
    return [one.topic, place, one.reason, escape(_shown(one.detail)), escape(_shown(shown)), status]


def _facts(held: HeldLetter) -> dict[str, Any]:
    from featurestore.event_time import as_datetime

    one = held.letter
    return {
        "topic": one.topic,
        "partition": one.partition,
        "offset": one.offset,
        "position": one.position,
        "reason": one.reason,
        "detail": one.detail,
        "written": as_datetime(held.written_us).isoformat(),
        "key": _text(one.record_key),
        "replayed_as_offset": None if held.replayed is None else held.replayed.new_offset,
        "kept_under": _text(held.kept_under),
        "whole_bytes": one.whole_bytes,
        "bytes": None if one.payload is None else len(one.payload),
        "payload": _text(one.payload),
    }


def _text(data: bytes | None) -> str | None:
    """Text where it is UTF-8 that can be shown, else hexadecimal."""
    if data is None:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()
    return text if text.replace("\n", "").replace("\t", "").isprintable() else "0x" + data.hex()


def _shown(text: str) -> str:
    """As a terminal may have it: what would move its cursor, colour it or turn lines round is written out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _pretty(payload: str | None) -> str:
    if payload is None:
        return "no payload (a tombstone)"
    try:
        made = json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return payload
    # A text in it may have been written with escapes.
    return "\n".join(map(_shown, made.split("\n")))
