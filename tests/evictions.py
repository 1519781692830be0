"""Keys that a real server evicts, as it does under a wrong policy."""

from __future__ import annotations

from contextlib import suppress

import redis


def evict(client: redis.Redis, key: bytes, *, is_full: bool = False) -> None:
    """Evict this key, where no other one expires; then the policy is mended.

    is_full  the server still has as much as it may, as one has whose policy alone was mended
    """
    client.expire(key, 1_000)
    try:
        client.config_set("maxmemory-policy", "volatile-random")
        client.config_set("maxmemory", 1)
        with suppress(redis.exceptions.OutOfMemoryError):
            client.set("more", b"")
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        if not is_full:
            client.config_set("maxmemory", 0)
    assert client.get(key) is None
