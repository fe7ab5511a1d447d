"""Hosts that share one limit on a virtual clock, and how to look at what they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.unit.cluster.simulator import SECOND, Client, SimHost, World
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import OnLost

TENANT = Limits(bps=500_000_000)
WARM = 3.0
"""Seconds after which a new key has got over its beginning."""

SETTLED = 8.0
"""Seconds after which all know their part for times without the store."""


def world_of(
    hosts: int, limits: Limits = TENANT, on_lost: OnLost = OnLost.SHARE, warm: float = WARM
) -> World:
    world = World(limits)
    for _ in range(hosts):
        world.host(on_lost)
    world.run(warm)
    return world


def until(
    world: World, condition: Callable[[], bool], step: float = 0.001, most: float = 5.0
) -> float:
    """Run until *condition*; how long (s) that took."""
    began = world.now
    while not condition():
        world.run(step)
        assert world.now - began < most * SECOND, "waited in vain"
    return (world.now - began) / SECOND


def by_client(world: World, clients: Iterable[Client], seconds: float) -> list[float]:
    """MB/s of each client."""
    rates = world.rates(seconds)
    return [rates.get(client, 0) / 1e6 for client in clients]


def holds(host: SimHost) -> float:
    """MB/s that *host* may use now."""
    return host.in_force()[0] / 1e6
