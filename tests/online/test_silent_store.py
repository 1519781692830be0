"""A store that takes a connection and then says nothing: a hung server, or a wire that is cut in silence."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from featurestore.client import FeatureStore
from featurestore.errors import OnlineStoreError
from featurestore.settings import Settings
from featurestore.spec import load

DEFINITIONS = """
from featurestore import Entity, FeatureView, Topic, count

seen = Topic("seen", schema={"user": str, "at": "timestamp"}, event_time="at")
by_user = FeatureView("by_user", Entity("user", key="user"), seen, features={"n": count()})
"""


# The bound is what is claimed: a worker's patience would end this test.
@pytest.mark.timeout(20)
def test_a_lookup_does_not_wait_for_a_store_that_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "all.py").write_text(DEFINITIONS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        store = FeatureStore(Settings(definitions=tmp_path, redis_url=url), load(tmp_path))
        with pytest.raises(OnlineStoreError, match="does not answer"):
            store.get("by_user", {"user": "ann"})
