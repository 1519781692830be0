"""Faust's agent, but that it forgets what it has stopped.

Faust starts an actor for each partition that a worker is given, and stops it when the partition leaves. Its supervisor
and its tree of services keep the stopped one all the same, and with it the last batch: some megabytes a rebalance, for
as long as the process lives.
"""

from __future__ import annotations

import gc
from typing import Any

import faust
from faust.types import TP
from faust.types.agents import ActorT


class Agent(faust.Agent):
    """One actor a partition, and none of partitions that have left."""

    async def on_isolated_partitions_revoked(self, revoked: set[TP]) -> None:
        stopped = [self._actor_by_partition[place] for place in revoked if place in self._actor_by_partition]
        await super().on_isolated_partitions_revoked(revoked)
        while stopped:
            self._forget(stopped.pop())
        # Each holds itself in circles, and the worker's collector looks for those once in very many batches.
        gc.collect()

    def _forget(self, actor: ActorT[Any]) -> None:
        self.supervisor.discard(actor)
        for service in (actor, actor.stream):
            self.beacon.discard(service.beacon)
