"""Keeps the shares of a mount's groups: keepers, their stores, and the tasks that join them."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import SharedStore
from throttlefs.throttle import SharedGroup, Throttle

from .client import Listener, StoreClient, StoreError
from .keeper import CALL_NS, Keeper, Standing, State
from .messages import LOOK, AnswerError, Call, Overview, decode_answer, decode_overview, leave
from .share import GroupShare

log = logging.getLogger("throttlefs")

_LEAVE_WITHIN_S: Final = 0.5
_LOOK_WITHIN_S: Final = 3.0

Event = Callable[[str, Mapping[str, object]], None]
"""Is told the name of an event and its data."""


@dataclass(frozen=True, slots=True)
class ShareStatus:
    """A group's share of its limits, for people."""

    group: str
    store: SharedStore
    standing: Standing
    trouble: str | None
    """Why the store does not serve us, None if it does."""


class Member:
    """One shared group of this mount; ``event`` is told when its store is lost or found."""

    def __init__(
        self,
        throttle: Throttle,
        group: SharedGroup,
        store: SharedStore,
        password: str | None,
    ) -> None:
        self.group = group
        self.store = store
        self._throttle = throttle
        self.event: Event = _ignore
        self._id = secrets.token_hex(8)
        self._proposed = group.meter.limits
        self._client = StoreClient(store.address, password)
        self._lookout = StoreClient(store.address, password)  # calls that people ask for
        self._listener = Listener(store.address, password, self._heard)
        self._one_at_a_time = trio.CapacityLimiter(1)
        self._looks = trio.CapacityLimiter(1)
        self._bell = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._trouble: str | None = None
        self._told_of_limits = False
        name = f"{socket.gethostname()}:{os.getpid()}"
        self._keeper = Keeper(
            GroupShare(throttle, group),
            self._id,
            name,
            store.on_lost,
            throttle.lease_clock(),
            self._changed,
        )
        group.on_demand = self._wanted
        group.on_change = self._ring

    @property
    def status(self) -> ShareStatus:
        """How things stand."""
        return ShareStatus(self.group.name, self.store, self._keeper.standing, self._trouble)

    def check(self) -> None:
        """See whether the store can be used. Raises `StoreError` if it never will be."""
        try:
            self._client.check()
        except StoreError as exc:
            if exc.fatal:
                raise
            self._trouble = str(exc)
            log.warning("group %s: %s; %s", self.group.name, exc, self._without())

    def _without(self) -> str:
        return {
            "share": "until it is, the group has its last share, or a hundredth if it has none",
            "keep": "until it is, the group keeps the rates that it has",
            "closed": "until it is, nothing of the group goes",
            "open": "until it is, the group has all of its limits on this host alone",
        }[self.store.on_lost.value]

    # -- the life of a share ---------------------------------------------------------------

    async def run(self) -> None:
        """Keep the share until cancelled, then give it up."""
        self._token = trio.lowlevel.current_trio_token()
        self._listener.start()
        try:
            await self._keep()
        finally:
            self._listener.stop()
            with trio.CancelScope(shield=True), trio.move_on_after(_LEAVE_WITHIN_S):
                await self._leave()

    async def _keep(self) -> None:
        keeper, clock = self._keeper, self._throttle.lease_clock
        while True:
            self._bell = trio.Event()
            keeper.tick(clock())
            call = keeper.next_call(clock())
            if call is not None:
                await self._send(call)
                continue
            now = clock()
            with trio.move_on_after(max(0.0, (keeper.wake_at(now) - now) / 1e9)):
                await self._bell.wait()

    async def _send(self, call: Call) -> None:
        answer = None
        with trio.move_on_after(CALL_NS / 1e9) as scope:
            try:
                # A call that takes longer goes on in its thread, and the next one waits for it.
                reply = await trio.to_thread.run_sync(
                    self._client.call,
                    call.arguments(),
                    abandon_on_cancel=True,
                    limiter=self._one_at_a_time,
                )
                answer = decode_answer(reply)
            except (StoreError, AnswerError) as exc:
                self._trouble = str(exc)
        if scope.cancelled_caught:
            self._trouble = f"the store at {self.store.address.place} does not answer in time"
        now = self._throttle.lease_clock()
        if answer is None:
            self._keeper.failed(now)
            return
        self._keeper.answered(answer, now)
        self._trouble = None
        self._tell_of_limits()

    async def _leave(self) -> None:
        # No other call says what this daemon uses, so nothing may be in force any more.
        try:
            await trio.to_thread.run_sync(
                self._client.call,
                leave(self._id, 1 << 52),
                abandon_on_cancel=True,
                limiter=self._one_at_a_time,
            )
        except StoreError:
            pass  # the lease ends by itself

    async def overview(self) -> Overview:
        """All hosts that share the limits. Raises `StoreError`."""
        with trio.move_on_after(_LOOK_WITHIN_S):
            try:
                return decode_overview(
                    await trio.to_thread.run_sync(
                        self._lookout.call, LOOK, abandon_on_cancel=True, limiter=self._looks
                    )
                )
            except AnswerError as exc:
                raise StoreError(str(exc)) from None
        raise StoreError(f"the store at {self.store.address.place} does not answer in time")

    # -- what happens ----------------------------------------------------------------------

    def _ring(self) -> None:
        self._bell.set()

    def _wanted(self, direction: int) -> None:
        self._keeper.wanted(direction)
        self._bell.set()

    def _heard(self, message: str) -> None:
        """In the listener's thread."""
        if message == "*" or self._id in message.split():
            assert self._token is not None
            try:
                self._token.run_sync_soon(self._hinted)
            except trio.RunFinishedError:
                pass

    def _hinted(self) -> None:
        self._keeper.hinted()
        self._bell.set()

    def _changed(self, before: State, after: State) -> None:
        name = self.group.name
        data = {"group": name, "key": self.store.address.key, "on-lost": self.store.on_lost.value}
        if after is State.LOST:
            why = self._trouble or "it does not answer in time"
            log.warning("group %s: the store is lost: %s; %s", name, why, self._without())
            self.event("X_THROTTLEFS_STORE_LOST", {**data, "reason": why})
        elif before is State.LOST:
            log.info("group %s: the store is back", name)
            self.event("X_THROTTLEFS_STORE_FOUND", data)

    def _tell_of_limits(self) -> None:
        if not self._told_of_limits:
            self._told_of_limits = True
            limits = self._keeper.limits
            if limits is not None and limits != self._proposed:
                log.warning(
                    "group %s: %s hold, which another host has set; %s are not used",
                    *(self.group.name, _named(limits), _named(self._proposed)),
                )


def _ignore(event: str, data: Mapping[str, object]) -> None:
    pass


def _named(limits: Limits) -> str:
    return str(limits) or "no limits"


class Cluster:
    """All shared groups of a mount."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = {member.group.name: member for member in members}

    def tell(self, event: Event) -> None:
        """Let *event* know when a store is lost or found."""
        for member in self._members.values():
            member.event = event

    async def run(self) -> None:
        """Keep all shares until cancelled."""
        async with trio.open_nursery() as nursery:
            for member in self._members.values():
                nursery.start_soon(member.run)

    def statuses(self) -> Mapping[str, ShareStatus]:
        """How things stand, by group."""
        return {name: member.status for name, member in self._members.items()}

    async def overview(self, group: str) -> Overview:
        """All hosts that share the limits of *group*. Raises `StoreError` and KeyError."""
        return await self._members[group].overview()
