"""Our routing inside Ray Serve. Ray imports this by its name, wherever something calls a replica."""

from __future__ import annotations

import asyncio
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
        self._place: dict[str, str] = {}  # id of a request -> the replica it is at, or is about to be sent to

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The candidates, one in each rank."""
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        if pending_request is None or not named:
            return [[replica] for replica in candidate_replicas]
        home = getattr(_asked(pending_request), "home", None)
        if home in named:
            return [[named[home]]]
        request_id = pending_request.metadata.internal_request_id
        self._forget(request_id)
        ranked = self.policy.ranked(_blocks(pending_request), {name: self.load[name] for name in named})
        # Counted from now on: many are chosen for before the first of them has been sent.
        self._put(request_id, ranked[0])
        pending_request.future.add_done_callback(lambda chosen: self._forget_cancelled(request_id, chosen))
        return [[named[name]] for name in ranked]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """It was sent, to whichever of the candidates had room."""
        self._put(pending_request.metadata.internal_request_id, replica_id.unique_id)
        self.policy.note(_blocks(pending_request), replica_id.unique_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """It has ended, in whatever way."""
        self._forget(internal_request_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Called when replicas have come or gone."""
        super().update_replicas(replicas)
        self.policy.keep_only({replica.replica_id.unique_id for replica in replicas})

    def _put(self, request_id: str, replica: str) -> None:
        self._forget(request_id)
        self._place[request_id] = replica
        self.load[replica] += 1

    def _forget(self, request_id: str) -> None:
        replica = self._place.pop(request_id, None)
        if replica is not None:
            self.load[replica] -= 1
            if not self.load[replica]:
                del self.load[replica]

    def _forget_cancelled(self, request_id: str, chosen: asyncio.Future[Any]) -> None:
        if chosen.cancelled():
            self._forget(request_id)


def _blocks(pending_request: PendingRequest) -> tuple[int, ...]:
    return getattr(_asked(pending_request), "blocks", ())


def _asked(pending_request: PendingRequest) -> Any:
    return pending_request.args[0] if pending_request.args else None
