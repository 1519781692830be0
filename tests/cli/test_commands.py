"""Commands as people meet them: tables, and errors of one line without a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from featurestore.errors import TopicError
from featurestore.settings import Settings
from featurestore.urls import shown_url
from streams.broker import admin_client
from streams.dead_letters import DeadLetterBox
from streams.ledger import ledgers
from streams.letters import DeadLetter
from streams.producer import EventProducer, kafka_producer
from streams.progress import Progress
from tests import processes
from tests.project import Project

DEFINITIONS = """
from featurestore import Entity, FeatureService, FeatureView, Topic, TrainingJob, count

steps = Topic("{topic}", schema={{"user": str, "group": int, "at": "timestamp"}}, event_time="at", key="user")
by_user = FeatureView("by_user", Entity("user", key="user"), steps, features={{"steps": count().over("1h")}})
by_group = FeatureView("by_group", Entity("group", key="group"), steps, features={{"steps": count()}})
walk = FeatureService("walk", [by_user])
walker = TrainingJob("walker", walk, label="walks")
"""
Make = Callable[..., Project]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(project: Make, unique: Callable[[str], str]) -> Project:
    return project(DEFINITIONS.format(topic=unique("steps")))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "walks", "user=a"], "'walk'"),
        (["get", "walk", "usr=a"], "['user']"),
        (["get", "by_group", "group=a"], "'group' must be int64"),
        (["get", "by_group", "group=99999999999999999999"], "'group' must be int64"),
        (["get", "by_group", "group=1_0"], "'group' must be int64: '1_0' is no number in plain digits, such as 10"),
        (["get", "by_group", "group=1", "group=2"], "'group' must be one int64: it is given more than once"),
        (["dead-letters", "list", "--topic", "stepz"], "'steps-"),
        (["dead-letters", "show", "stepz/0/1"], "'steps-"),
        (["dead-letters", "show", "steps"], "no place of a letter"),
        (["dead-letters", "replay", "--topic", "stepz"], "'steps-"),
        (["dead-letters", "replay", "--place", "steps"], "no place of a letter"),
        (["train", "walkr", "--spine", "pyproject.toml"], "'walker'"),
        (["train", "walker", "--spine", "none.parquet"], "none.parquet"),
        (["ledger", "--topic", "stepz"], "'steps-"),
        (["send", "stepz", "none.json"], "none.json"),
        (["send", "stepz", "pyproject.toml"], "'steps-"),
        (["send", "stepz", "-"], "'steps-"),
        (["send", "stepz", "tests"], "'tests' is a directory"),
    ],
)
def test_an_error_names_the_object_and_the_nearest_right_name(made: Project, arguments: list[str], says: str) -> None:
    done = made.command(*arguments)
    assert done.returncode != 0
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_apply_send_and_get(made: Project, tmp_path: Path) -> None:
    applied = made.command("apply")
    assert applied.returncode == 0, applied.stderr
    assert "by_user" in applied.stdout
    topic = next(iter(made.repository.topics))
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"user": "a", "group": 1, "at": 5}\n{"user": "a", "group": 1, "at": 6}\n')
    bad.write_text('{"user": "a", "group": 1, "at": 5}\n{"user": "a", "at": 6}\n')
    refused = made.command("send", topic, str(bad))
    assert refused.returncode == 1
    assert "line 2: missing_field" in refused.stderr
    assert "2 events acknowledged" in made.command("send", topic, str(good)).stdout
    worker = made.start_worker()
    made.wait_until_applied(worker)
    shown = made.command("get", "by_group", "group=1")
    assert shown.returncode == 0, shown.stderr
    assert "PRESENT" in shown.stdout
    assert "NOT_FOUND" in made.command("get", "by_group", "group=2").stdout


def test_send_reads_a_pipe_at_standard_input_and_checks_all_of_it_first(made: Project) -> None:
    topic = next(iter(made.repository.topics))
    # More than a part, and more than a pipe holds.
    lines = "".join(f'{{"user": "u{number % 9}", "group": 1, "at": {number}}}\n' for number in range(12_000))
    refused = made.command("send", topic, "-", given=lines + '{"user": "a", "at": 6}\n')
    assert refused.returncode == 1
    assert "line 12001: missing_field" in refused.stderr
    sent = made.command("send", topic, "-", given=lines)
    assert sent.returncode == 0, sent.stderr
    assert "12,000 events acknowledged" in sent.stdout
    nothing = made.command("send", topic, "-", given="")
    assert nothing.returncode == 0, nothing.stderr
    assert "0 events acknowledged" in nothing.stdout


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_send_names_the_lines_that_the_broker_refuses_and_what_is_there(
    project: Make, unique: Callable[[str], str], form: str
) -> None:
    topic = unique("large")
    schema = 'schema={"user": str, "note": str, "at": "timestamp"}, event_time="at", key="user"'
    made = project(f'from featurestore import Topic\nlarge = Topic("{topic}", {schema}, format="{form}")\n')
    lines = [f'{{"user": "u{number}", "note": "x", "at": 5}}' for number in range(9)]
    for number in (2, 6, 7):
        lines[number] = lines[number].replace('"x"', json.dumps("x" * 2_000_000))
    # Empty lines count.
    refused = made.command("send", topic, "-", given="\n" + "\n".join(lines))
    assert refused.returncode == 1
    assert "6 events are acknowledged and must not be sent again" in refused.stderr
    assert "refused: lines 4, 8-9 (" in refused.stderr
    assert "Message size too large); mend these lines and send only them" in refused.stderr
    mended = "\n".join(lines[number].replace("xx", "") for number in (2, 6, 7))
    assert "3 events acknowledged" in made.command("send", topic, "-", given=mended).stdout


def test_letters_are_counted_listed_and_shown_with_all_their_facts(made: Project) -> None:
    topic = next(iter(made.repository.topics))
    box = DeadLetterBox(kafka_producer(made.settings.kafka_bootstrap), made.settings.project)
    box.put(
        [
            DeadLetter(topic, 0, 7, "wrong_type", "Expected `int` - at `$.group`", b'{"group": "[x]"}', b"ann"),
            DeadLetter(topic, 1, 8, "broken_json", "cut", b"\xff\x00"),
            DeadLetter(topic, 1, 9, "no_value", "a tombstone", None),
        ]
    )
    box.flush()
    listed = made.command("dead-letters", "list", "--topic", topic, "--limit", "2")
    assert listed.returncode == 0, listed.stderr
    assert "no_value" in listed.stdout
    assert '"[x]"' not in listed.stdout, "the oldest of three is not among the newest two"
    said = json.loads(made.command("dead-letters", "list", "--topic", topic, "--reason", "wrong_type", "--json").stdout)
    assert said["counts"] == [{"topic": topic, "reason": "wrong_type", "waiting": 1, "replayed": 0}]
    assert [(one["offset"], one["key"]) for one in said["letters"]] == [(7, "ann")]
    for place in ([f"{topic}/0/7"], [topic, "0", "7"]):
        shown = made.command("dead-letters", "show", *place)
        assert shown.returncode == 0, shown.stderr
        assert "Expected `int` - at `$.group`" in shown.stdout
        assert '  "group": "[x]"' in shown.stdout
    assert "0xff00" in made.command("dead-letters", "show", f"{topic}/1/8").stdout
    assert "a tombstone" in made.command("dead-letters", "show", f"{topic}/1/9").stdout
    # What a terminal would obey is written out, wherever it stands.
    obeyed = "\x1b]0;mine\x07\x9b2J\u202e"
    box.put(
        [
            DeadLetter(topic, 1, 10, "wrong_type", f"no {obeyed}", obeyed.encode(), obeyed.encode()),
            DeadLetter(topic, 1, 11, "wrong_type", "no", json.dumps({"group": obeyed}).encode()),
        ]
    )
    box.flush()
    for arguments in (["list", "--topic", topic], ["show", f"{topic}/1/10"], ["show", f"{topic}/1/11"]):
        shown = made.command("dead-letters", *arguments)
        assert shown.returncode == 0, shown.stderr
        assert not set(obeyed[:1] + obeyed[8:9] + obeyed[-1]) & set(shown.stdout), arguments
        assert "\\u202e" in shown.stdout, arguments
    missing = made.command("dead-letters", "show", f"{topic}/1/7")
    assert missing.returncode == 1
    assert f"'{topic}/1/8'" in missing.stderr
    for more in ([], ["--dry-run"]):
        missing = made.command("dead-letters", "replay", "--place", f"{topic}/1/7", *more)
        assert missing.returncode == 1, missing.stdout
        assert f"there is no dead letter '{topic}/1/7'" in missing.stderr
        assert f"'{topic}/1/8'" in missing.stderr


def test_of_a_topic_that_no_view_reads_it_is_said_that_it_has_no_letters(
    project: Make, unique: Callable[[str], str]
) -> None:
    topic, lone = unique("steps"), unique("lone")
    unread = f"lone = Topic({lone!r}, schema={{'at': 'timestamp'}}, event_time='at')\n"
    made = project(DEFINITIONS.format(topic=topic) + unread)
    for command in ("list", "replay"):
        for more in ((), ("--json",)):
            refused = made.command("dead-letters", command, "--topic", lone, *more)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert f"no feature view reads topic {lone!r}; it has no dead letters here" in refused.stderr
            # One that is read has none yet.
            assert made.command("dead-letters", command, "--topic", topic, *more).returncode == 0
    # A view of before may have left some.
    box = DeadLetterBox(kafka_producer(made.settings.kafka_bootstrap), made.settings.project)
    box.put([DeadLetter(lone, 0, 3, "broken_json", "cut", b"{")])
    box.flush()
    assert "broken_json" in made.command("dead-letters", "list", "--topic", lone).stdout
    refused = made.command("dead-letters", "replay", "--topic", lone)
    assert (refused.returncode, "its 1 dead letters stay until one does" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["stream", "--plot", "x.svg"], "'stream' has no --plot; it has --json, --events, --rounds"),
        (["kernel", "--plot", "x.svg"], "'kernel' has no --plot"),
        (["kernel", "--events", "300000"], "'kernel' has no --events; it has --json, --rounds"),
        (["growth", "--json"], "'growth' has no --json; it has no options"),
        (["growth", "--rounds", "3"], "'growth' has no --rounds"),
        (["growth", "--events", "200000"], "'growth' has no --events"),
        (["growths"], "'growth'"),
    ],
)
def test_a_benchmark_refuses_an_option_that_it_does_not_have(tmp_path: Path, arguments: list[str], says: str) -> None:
    refused = bare(tmp_path, "bench", *arguments)
    assert refused.returncode != 0
    assert says in " ".join(refused.stderr.replace("│", " ").split()), refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_ledger_says_whether_every_record_is_somewhere_once(made: Project) -> None:
    topic = next(iter(made.repository.topics))
    empty = made.command("ledger")
    assert empty.returncode == 0, empty.stderr
    with EventProducer(made.settings.kafka_bootstrap) as producer:
        for payload in (b'{"user": "a", "group": 1, "at": 5}', b"{", b'{"user": "a", "group": "x", "at": 6}', b"{{"):
            producer.send_raw(topic, b"a", payload)
    # Nobody has applied anything yet.
    behind = made.command("ledger")
    assert behind.returncode == 1, behind.stderr
    assert "NO" in behind.stdout
    made.wait_until_applied(made.start_worker())
    shown = made.command("ledger", "--topic", topic)
    assert shown.returncode == 0, shown.stderr
    assert "broken_json 2, wrong_type 1" in shown.stdout
    assert "yes" in shown.stdout
    said = json.loads(made.command("ledger", "--json").stdout)
    wanted = {"topic": topic, "records": 4, "applied": 1, "repeated": 0, "twice": 0, "replayed": 0, "expired": 0}
    dead = {"broken_json": 2, "wrong_type": 1}
    assert said == {"topics": [{**wanted, "unreadable": 0, "unread": [], "balanced": True, "dead": dead}]}
    assert "must stand still" in made.command("ledger", "--help").stdout
    missing = made.command("ledger", "--topic", topic[:-1] + "x")
    assert missing.returncode == 1
    assert repr(topic) in missing.stderr
    # By its name until the answer is there: a client that nobody holds ends what was asked of it.
    admin = admin_client(made.settings.kafka_bootstrap)
    [deleted] = admin.delete_topics([topic]).values()
    deleted.result(30)
    with pytest.raises(TopicError, match=rf"topic '{topic}': .* run `featurestore apply` to create it"):
        ledgers(made.settings, made.repository)
    [gone] = Progress(made.settings, made.repository).look()
    assert (gone.end, set(gone.ends.values())) == (0, {0})


def test_plan_tells_what_apply_would_change_and_changes_nothing(made: Project) -> None:
    for _ in range(2):
        told = made.command("plan").stdout
        assert "2 of 2 views would change" in told
        assert "walk" in told
    made.command("apply")
    assert "0 of 2 views would change" in made.command("plan").stdout


def bare(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a folder, with no settings but these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FEATURESTORE_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **environment}
    return processes.run("featurestore.cli", *arguments, environment=environment, cwd=folder)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://me:hidden@db:6379/0", "redis://me:***@db:6379/0"),
        ("redis://:hidden@db:6379/0", "redis://:***@db:6379/0"),
        ("redis://me:hid@d/en@db:6379/0", "redis://me:***@db:6379/0"),
        ("redis+cluster://me:hidden@a:1,b:2", "redis+cluster://me:***@a:1,b:2"),
        ("redis://db:6379/0?username=me&password=hidden", "redis://db:6379/0?username=me&password=***"),
        ("rediss://db/0?ssl_keyfile_password=hid@d/en#&db=1", "rediss://db/0?ssl_keyfile_password=***&db=1"),
        ("postgresql://db:5432/x?user=me@there&sslpassword=hidden", "postgresql://db:5432/x?user=me@there&sslpassword=***"),
        ("postgresql://me:hidden@db/x?pass%77ord=hidden", "postgresql://me:***@db/x?pass%77ord=***"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dhidden", "mssql+pyodbc:///?odbc_connect=***"),
        ("https://registry?Access-Token=hidden", "https://registry?Access-Token=***"),
        ("https://hidden@registry/a", "https://***@registry/a"),
        ("https://hidden:@registry", "https://***@registry"),
        ("https://me:hidden@registry", "https://me:***@registry"),
        ("https://registry/a@b", "https://registry/a@b"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        ("redis://[::1]:6379/0?name=a@b", "redis://[::1]:6379/0?name=a@b"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("127.0.0.1:9092,[::1]:9092", "127.0.0.1:9092,[::1]:9092"),
        ("sqlite:///.local/registry.db", "sqlite:///.local/registry.db"),
    ],
)  # fmt: skip
def test_no_secret_of_a_url_is_shown_wherever_it_stands(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_a_file_of_settings_that_is_named_must_be_one(tmp_path: Path) -> None:
    for named, says in (("typo.toml", "typo.toml does not exist"), (str(tmp_path), f"{tmp_path} is no file")):
        refused = bare(tmp_path, "settings", FEATURESTORE_CONFIG=named)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"setting FEATURESTORE_CONFIG names a file that cannot be: {tmp_path}" in refused.stderr
        assert says in refused.stderr
    (tmp_path / "other.toml").write_text("buckets = \n")
    refused = bare(tmp_path, "settings", FEATURESTORE_CONFIG="other.toml")
    assert (refused.returncode, f"{tmp_path}/other.toml, which cannot be read" in refused.stderr) == (1, True)
    (tmp_path / "other.toml").write_text("buckets = 7\n")
    assert " 7 " in bare(tmp_path, "settings", FEATURESTORE_CONFIG="other.toml").stdout
    # Not named is not asked for.
    assert bare(tmp_path, "settings").returncode == bare(tmp_path, "settings", FEATURESTORE_CONFIG="").returncode == 0


@pytest.mark.parametrize(
    "url", ["localhost:6379", "redis://[::1:6379/0", "redis://me:hidden@db:port/0", "rediss+cluster://a:1,b:x", "http://db"]
)  # fmt: skip
def test_a_store_whose_url_is_none_is_told_with_the_setting_and_a_right_one(tmp_path: Path, url: str) -> None:
    (tmp_path / "definitions").mkdir()
    for command in (["worker"], ["settings"], ["get", "by_user", "user=a"]):
        refused = bare(tmp_path, *command, FEATURESTORE_REDIS_URL=url)
        assert (refused.returncode, refused.stdout) == (1, "")
        [said] = refused.stderr.splitlines()
        assert said.startswith("error: setting redis_url: ")
        assert "write one such as redis://127.0.0.1:6379/0" in said
        assert "hidden" not in said


def test_settings_are_shown_without_secrets_and_wrong_ones_are_named(tmp_path: Path) -> None:
    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        return bare(tmp_path, "settings", **environment)

    shown = run(FEATURESTORE_REDIS_URL="redis://me:hidden@db:6379/0", COLUMNS="200")
    assert "redis://me:***@db:6379/0" in shown.stdout
    assert "hidden" not in shown.stdout
    wrong = run(FEATURESTORE_BUCKETS="0")
    assert wrong.returncode == 1
    assert "buckets" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    (tmp_path / "featurestore.toml").write_text("buckts = 3\n")
    misspelt = run()
    assert misspelt.returncode == 1
    assert "buckts" in misspelt.stderr
    (tmp_path / "featurestore.toml").write_text("buckets = \n")
    broken = run()
    assert broken.returncode == 1
    assert "Traceback" not in broken.stderr


def test_the_sample_of_the_docs_is_read_as_it_stands_and_every_setting_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = (ROOT / "docs" / "settings.md").read_text().partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "sample.toml").write_text(sample)
    for name in list(os.environ):
        if name.startswith("FEATURESTORE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FEATURESTORE_CONFIG", str(tmp_path / "sample.toml"))
    settings, written = Settings(), tomllib.loads(sample)
    assert written
    assert {name: str(getattr(settings, name)) for name in written} == {name: str(it) for name, it in written.items()}
    told = " ".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    assert set(Settings.model_fields) - set(re.findall(r"\w+", told)) == set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["apply"], "no Kafka broker answers at 127.0.0.1:1"),
        (["dead-letters", "list"], "no Kafka broker answers at 127.0.0.1:1"),
        (["send", "{topic}", "docs/examples/departure.json"], "breaks the contract"),
        (["worker"], "online store does not answer"),
        (["get", "by_user", "user=a"], "online store does not answer"),
    ],
)
def test_servers_that_are_away_are_named_in_one_line(made: Project, arguments: list[str], says: str) -> None:
    away = {"kafka_bootstrap": "127.0.0.1:1", "redis_url": "redis://127.0.0.1:1/0"}
    made.settings = made.settings.model_copy(update=away)
    topic = next(iter(made.repository.topics))
    done = made.command(*(each.replace("{topic}", topic) for each in arguments))
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_narrow_screen_cuts_no_word_off() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "featurestore.cli", "aggregates"],
        env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "std_popula" in shown
    assert "…" not in shown
