"""A cluster of Valkey nodes on this machine, whose slots can be moved step by step while they are used."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from featurestore.local import free_port
from tests.campaign.servers import Valkey

SLOTS = 16_384
_NODES, _SPARE = 3, 3
_WHOLE_S = 30.0


class ValkeyCluster:
    """Three nodes have a third of the slots each at first; a fourth one has none."""

    def __init__(self, folder: Path, *options: str) -> None:
        # A node that loses its last slot would become a replica by itself.
        options = ("--cluster-allow-replica-migration", "no", *options)
        # The bus between nodes is ten thousand above a node's port by default, which may be beyond the last one.
        self.nodes = [
            Valkey(folder / f"node-{number}", "--cluster-enabled", "yes", "--cluster-port", str(free_port()), *options)
            for number in range(_NODES + 1)
        ]
        self._target: dict[int, int] = {}
        self._of_slot = [slot * _NODES // SLOTS for slot in range(SLOTS)]
        for number, node in enumerate(self.nodes[:_NODES]):
            slots = [slot for slot in range(SLOTS) if self._of_slot[slot] == number]
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", slots[0], slots[-1])
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            bus = int(node.client.config_get("cluster-port")["cluster-port"])
            self.nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        deadline = time.monotonic() + _WHOLE_S
        while not all(b"cluster_state:ok" in _raw(node, "CLUSTER", "INFO") for node in self.nodes):
            assert time.monotonic() < deadline, "the cluster is not whole"
            time.sleep(0.05)

    @property
    def url(self) -> str:
        return self.nodes[0].url.replace("redis://", "redis+cluster://")

    def node_of(self, slot: int) -> Valkey:
        return self.nodes[self._of_slot[slot]]

    @property
    def spare(self) -> Valkey:
        """The node that has no slots."""
        return self.nodes[_SPARE]

    def begin_move(self, slot: int, *, to_spare: bool = False) -> None:
        """Let a slot be on its way to the next node."""
        self._target[slot] = _SPARE if to_spare else (self._of_slot[slot] + 1) % _NODES
        source, target = self.node_of(slot), self.nodes[self._target[slot]]
        ids = [node.client.execute_command("CLUSTER", "MYID").decode() for node in (source, target)]
        target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])

    def carry(self, slot: int, keys_max: int) -> int:
        """Move some keys of a slot that is on its way; how many were moved."""
        source, target = self.node_of(slot), self.nodes[self._target[slot]]
        keys = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, keys_max)
        if keys:
            source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int) -> int:
        """All of the slot is at its new node, and the nodes know it; how many keys were moved now."""
        carried = 0
        while some := self.carry(slot, 100):
            carried += some
        source, target = self.node_of(slot), self.nodes[self._target[slot]]
        owner = target.client.execute_command("CLUSTER", "MYID").decode()
        for node in (target, source):
            node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", owner)
        self._of_slot[slot] = self._target.pop(slot)
        return carried

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()


def _raw(node: Valkey, *words: str) -> bytes:
    """A reply as it comes: redis-py makes a table of this one, and which table depends on its version."""
    with socket.create_connection(("127.0.0.1", node.port), timeout=5.0) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        return connection.recv(65_536)
