"""What we apply, Feast's own API lists, and there is no code in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from featurestore import Entity, FeatureView, Topic, calendar, count, counts, last_n, ratio, session
from featurestore import sum as total
from featurestore.errors import SettingError
from featurestore.feast.registry import FeastRegistry
from featurestore.settings import Settings
from featurestore.spec import collect, load

DEFINITIONS = Path(__file__).parents[2] / "definitions"


def settings_in(folder: Path) -> Settings:
    return Settings(project="tried", registry_url=f"sqlite:///{folder / 'registry.db'}", offline_path=folder)


def test_applied_definitions_are_listed_by_feast_with_schema_tags_and_owner(tmp_path: Path) -> None:
    repository = load(DEFINITIONS)
    with FeastRegistry(settings_in(tmp_path)) as registry:
        changes = registry.apply(repository)
    assert "+ view aircraft_arrivals" in changes
    assert "+ service delay_risk" in changes
    with FeastRegistry(settings_in(tmp_path)) as fresh:
        listed = {(one.kind, one.name): one for one in fresh.listing()}
    view = listed["view", "aircraft_arrivals"]
    assert "flights_24h: Int64" in view.schema
    assert "last_origin: String" in view.schema
    assert view.owner == "fleet@example.org"
    assert view.tags["featurestore.version"] == repository.view("aircraft_arrivals").version
    assert "aircraft_arrivals:flights_24h" in listed["service", "delay_risk"].schema


def test_a_second_apply_changes_nothing_and_a_removed_view_goes(tmp_path: Path) -> None:
    repository = load(DEFINITIONS)
    with FeastRegistry(settings_in(tmp_path)) as registry:
        registry.apply(repository)
        assert registry.apply(repository) == []
        left = collect([repository.view("airport_weather")])
        assert "- view aircraft_arrivals" in registry.apply(left)


def test_the_registry_holds_no_code(tmp_path: Path) -> None:
    with FeastRegistry(settings_in(tmp_path)) as registry:
        registry.apply(load(DEFINITIONS))
    with closing(sqlite3.connect(tmp_path / "registry.db")) as database:
        names = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        held = b"".join(repr(row).encode() for name in names for row in database.execute(f'select * from "{name}"'))
    assert b"aircraft_arrivals" in held
    assert not any(word in held for word in (b"dill", b"pickle", b"__main__", b"udf", b"lambda"))


def test_lists_maps_and_expressions_are_told_without_code(tmp_path: Path) -> None:
    topic = Topic(
        "rides", schema={"rider": str, "at": "timestamp", "fare": float, "tip": "decimal(6, 2)"}, event_time="at"
    )
    features = {
        "fares": last_n("fare", 2).over(session("30m")),
        "riders": counts("rider"),
        "tips": total("tip"),
        "last_tips": last_n("tip", 2),
        "dear": count(where=pl.col("fare") >= 5).over("1h"),
        "share": ratio(total("fare"), count()).over(calendar("day", "Europe/Berlin")),
    }
    view = FeatureView("habits", Entity("rider", key="rider"), topic, features)
    with FeastRegistry(settings_in(tmp_path)) as registry:
        registry.apply(collect([topic, view, view.entity]))
        [listed] = [one for one in registry.listing() if one.kind == "view"]
    assert {"fares_session_30m: Array(Float64)", "riders: Map", "share_day: Float64"} <= set(listed.schema)
    assert {"tips: Decimal", "last_tips: Array(Decimal)"} <= set(listed.schema)
    assert listed.tags["featurestore.decimals"] == "tips=decimal(16, 2); last_tips=list<decimal(6, 2)>"
    said = listed.tags["featurestore.features"]
    assert 'dear=count(where=[(col("fare")) >= (dyn int: 5)]).over(1h)' in said
    assert "share=ratio(sum(fare), count()).over(day)" in said


def test_keys_of_two_entities_share_a_name_and_not_a_type(tmp_path: Path) -> None:
    topics = [Topic(f"of_{kind.__name__}", {"user": kind, "at": "timestamp"}, event_time="at") for kind in (str, int)]
    views = [
        FeatureView(name, Entity(name, key="user"), topic, {"n": count()})
        for name, topic in zip(("shopper", "account"), topics, strict=True)
    ]
    with FeastRegistry(settings_in(tmp_path)) as registry:
        registry.apply(collect(views))
        listed = {one.name: one.schema for one in registry.listing() if one.kind == "view"}
    assert "user: String" in listed["shopper"]
    assert "user: Int64" in listed["account"]


@pytest.mark.parametrize(
    "url",
    ["nonsense", "nosuch://host/db", "postgresql+psycopg://me:hidden@127.0.0.1:1/db", "postgresql+psycopg://h:x/db"],
)
def test_a_registry_that_cannot_be_opened_is_told_by_its_setting(url: str, tmp_path: Path) -> None:
    settings = Settings(project="tried", registry_url=url, offline_path=tmp_path)
    with pytest.raises(SettingError, match=r"setting registry_url is .*no registry can be opened there") as told:
        FeastRegistry(settings)
    assert "hidden" not in str(told.value)
