"""Our routing inside Ray Serve. Ray imports this by its name, wherever something calls a replica."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from chatglm.serve.routing import Router

PATH = f"{__name__}.PrefixRouter"


class PrefixRouter(RequestRouter):
    """Asks the replicas in the order of `Router`; a request's blocks are in its first argument."""

    def initialize_state(self, **settings: Any) -> None:
        """Called once by Ray, with what the deployment gives."""
        self.policy, self.load = Router(**settings), Counter[str]()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The candidates, one in each rank."""
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        load = {name: self.load[name] for name in named}
        return [[named[name]] for name in self.policy.ranked(_blocks(pending_request), load)]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """Remember where it went."""
        self.load[replica_id.unique_id] += 1
        self.policy.note(_blocks(pending_request), replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It has ended, in whatever way."""
        self.load[replica_id.unique_id] -= 1

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called when replicas have come or gone."""
        super().update_replicas(replicas)
        there = {replica.replica_id.unique_id for replica in replicas}
        self.policy.keep_only(there)
        for gone in set(self.load) - there:
            del self.load[gone]


def _blocks(pending_request: PendingRequest | None) -> tuple[int, ...]:
    asked = pending_request.args[0] if pending_request is not None and pending_request.args else None
    return getattr(asked, "blocks", ())
