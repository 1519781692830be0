"""A wrong definition cannot exist, and its error says what to write instead."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from featurestore import Entity, FeatureView, Topic, count
from featurestore.errors import DefinitionError
from featurestore.event_time import DAY_US, duration_us, show_duration
from featurestore.spec import load

GOOD = """
from featurestore import *
user = Entity("user", key="user")
paid = Topic("paid", schema={"user": str, "at": "timestamp", "x": float}, event_time="at")
"""
# Fine each by itself: two things, of two types, that have a column of one name.
TWO_TYPES = """
other = Topic("other", schema={"user": int, "at": "timestamp"}, event_time="at")
v = FeatureView("v", user, paid, features={"a": count()})
w = FeatureView("w", Entity("account", key="user"), other, features={"a": count()})
"""


def read(folder: Path, text: str) -> str:
    """The error of a definitions file."""
    (folder / "file.py").write_text(GOOD + text)
    with pytest.raises(DefinitionError) as raised:
        load(folder)
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("x = (", "SyntaxError"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("v = FeatureView('v', user, paid, features={'a': sum('y')})", "'x'"),
        ("v = FeatureView('v', user, paid, features={'a': sum('user')})", "int64, float64, decimal, bool"),
        ("v = FeatureView('v', user, paid, features={'a': sum('x').over('25x')})", "'24h'"),
        ("v = FeatureView('v', user, paid, features={'a': sum('x').over('0s')})", "'0s' is not a duration"),
        ("v = FeatureView('v', user, paid, features={'a': sum('x').over('1h', slide='7m')})", "such as 1m"),
        ("v = FeatureView('v', user, paid, features={'a': count().over(newest(3), slide='1m')})", "slide of its own"),
        ("v = FeatureView('v', user, paid, features={'a': covariance('user', 'x')})", "covariance of 'user' is not"),
        (
            "v = FeatureView('v', user, paid, features={'a': ratio(last_n('x', 2), count())})",
            "'a' of view 'v': ratio divides",
        ),
        ("v = FeatureView('v', user, paid, features={'a': quantile('x', 2)})", "from 0 to 1"),
        ("v = FeatureView('v', user, paid, features={'a': rate()})", ".over('1h')"),
        ("v = FeatureView('v', user, paid, features={'a': count})", "such as count()"),
        ("v = FeatureView('v', user, paid, features={})", "at least one"),
        ("v = FeatureView('V x', user, paid, features={'a': count()})", "lower-case"),
        ("v = FeatureView('v', user, paid, features={'a': count()}, lateness=-5)", "not a duration"),
        ("v = FeatureView('v', user, paid, features={'a': count()}, lateness=1.5)", "not a duration"),
        ("v = FeatureView('v', user, paid, features={'a': count()}, max_age='200000d')", "century"),
        ("v = FeatureView('v', 'user', paid, features={'a': count()})", "needs an Entity"),
        ("v = FeatureView('v', Entity('w', key='nope'), paid, features={'a': count()})", "'nope'"),
        ("v = FeatureView('v', Entity('w', key='x'), paid, features={'a': count()})", "floats do not name"),
        ("v = FeatureView('v', user, paid, features={'a': count().over('1h'), 'a_1h': count()})", "twice"),
        (
            "v = FeatureView('v', user, paid, features={'status': last('x')})",
            "rename the feature, such as 'its_status'",
        ),
        (
            "v = FeatureView('v', user, paid, features={'a': count(), 'age_s': last('x')})",
            "would serve 'age_s', but look",
        ),
        ("v = FeatureView('v', user, paid, features={'watermark': ratio(sum('x'), count())})", "'its_watermark'"),
        ("v = FeatureView('v', Entity('w', key=()), paid, features={'a': count()})", "entity 'w' has no key; name the"),
        ("e = Entity('w', key=('user', 'user'))", "entity 'w' has the key 'user' twice"),
        ("t = Topic('t', schema={'at': 'timestamp'}, event_time='at', partitions=2.5)", "has 2.5 partitions"),
        ("t = Topic('t', schema={'at': 'timestamp', 'u': str}, event_time='at', nullable='u')", "names, as ('u',)"),
        (
            "t = Topic('t', schema={'at': 'timestamp', 'u': str}, event_time='at', dedupe='u', within='1h')",
            "but no key",
        ),
        (
            "t = Topic('t', schema={'at': 'timestamp', 'u': str, 'k': str}, event_time='at', key='k', nullable=('k',), "
            "dedupe='u', within='1h')",
            "its key 'k' may be null: events without a key go to any partition",
        ),
        (
            TWO_TYPES + "s = FeatureService('s', [v, w])",
            "'user' of feature service 's' is string in view 'v' and int64 in",
        ),
        (
            TWO_TYPES + "z = FeatureView('z', user, other, features={'a': count()})",
            "key 'user' of entity 'user' is string in view 'v' and int64 in view 'z'; give one of the views an",
        ),
        ("t = Topic('t', schema={'at': list}, event_time='at')", "use one of"),
        ("t = Topic('t', schema={'at': 'timestamp', 'x': 'decimal(19, 2)'}, event_time='at')", "1 to 18 digits"),
        (
            "t = Topic('t', schema={'at': 'timestamp', 'x': 'decimal(2, 3)'}, event_time='at')",
            "such as 'decimal(12, 2)'",
        ),
        ("t = Topic('t', schema={'at': 'timestamp', 'x': 'decimal'}, event_time='at')", "'decimal(12, 2)'"),
        (
            "v = FeatureView('v', Entity('w', key='m'), Topic('t', schema={'at': 'timestamp', 'm': 'decimal(3,1)'}, "
            "event_time='at'), features={'a': count()})",
            "amounts do not name",
        ),
        ("t = Topic('t', schema={'at': str}, event_time='at')", "must be a 'timestamp'"),
        ("t = Topic('paid', schema={'at': 'timestamp'}, event_time='at')", "two different definitions"),
        (
            "t = Topic('t', schema={'at': 'timestamp', 'date': str}, event_time='at')",
            "column 'date' of topic 't' is called like one of its event log's own (partition, offset, event_us, "
            "effective_us, arrival_us, late_by_us, date); choose another name, such as 'its_date'",
        ),
        (
            "t = Topic('t', schema={'at': 'timestamp', 'position': int}, event_time='at', format='arrow')",
            "choose another name, such as 'its_position', with renamed={'its_position': 'position'} where writers",
        ),
        ("s = FeatureService('s', [])", "no views"),
        (TWO_TYPES + "s = FeatureService('s', v)", "write [view]"),
        (TWO_TYPES + "j = TrainingJob('j', FeatureService('s', [v]), 'label', baseline='x')", "write names, as ('x',)"),
    ],
)
def test_an_error_says_what_to_write(tmp_path: Path, text: str, says: str) -> None:
    assert says in read(tmp_path, text)


def test_files_import_one_another_and_everything_mentioned_is_found(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text(GOOD)
    (tmp_path / "views.py").write_text(
        "from featurestore import *\nfrom .base import paid, user\n"
        "v = FeatureView('v', user, paid, features={'a': count().over('24h', '7d')})\n"
    )
    found = load(tmp_path)
    assert list(found.views["v"].outputs) == ["a_24h", "a_7d"]
    assert list(found.topics) == ["paid"]


def test_a_version_changes_with_what_decides_values_and_with_nothing_else(tmp_path: Path) -> None:
    def version(more: str) -> str:
        (tmp_path / "file.py").write_text(GOOD + f"v = FeatureView('v', user, paid, {more})")
        return load(tmp_path).view("v").version

    plain = version("features={'a': count()}")
    assert version("features={'a': count()}, owner='me', tags={'x': 'y'}, description='d', max_age='1h'") == plain
    for other in (
        "features={'a': count()}, lateness='1h'",
        "features={'b': count()}",
        "features={'a': count('x')}",
        "features={'a': count().over('1h')}",
        "features={'a': quantile('x', 0.5)}",
    ):
        assert version(other) != plain
    assert version("features={'a': quantile('x', 0.5)}") != version("features={'a': quantile('x', 0.6)}")
    avro = Topic("paid", {"user": str, "at": "timestamp"}, "at", format="avro")
    # Events of before are found under their former name, and count for something else.
    views = [
        FeatureView("v", Entity("user", key="user"), topic, {"n": count()})
        for topic in (avro, replace(avro, renamed={"user": "who"}))
    ]
    assert views[0].version != views[1].version


def test_files_changed_within_a_second_are_read_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "a.py").write_text("from .b import v\n")
    for name in ("one", "two"):
        (tmp_path / "b.py").write_text(GOOD + f"v = FeatureView('{name}', user, paid, features={{'a': count()}})")
        os.utime(tmp_path / "b.py", (1, 1))
        assert list(load(tmp_path).views) == [name]


def test_durations_are_read_and_shown() -> None:
    for text, us in (("90s", 90_000_000), ("24h", DAY_US), ("7d", 7 * DAY_US), ("5us", 5), (timedelta(days=1), DAY_US)):
        assert duration_us(text) == us
    for text in ("24h", "7d", "90s", "1m", "1ms", "3us", "30d"):
        assert show_duration(duration_us(text)) == text
