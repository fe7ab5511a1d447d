"""The commands and events for groups that share their limits with other hosts.

``x-throttlefs-query-cluster``
    The hosts that share the limits of ``group-name``, what each holds, and when it last called.
"""

from __future__ import annotations

from collections.abc import Mapping

from throttlefs.cluster.client import StoreError
from throttlefs.cluster.member import Cluster, ShareStatus
from throttlefs.settings.limits import RATES
from throttlefs.settings.units import quoted
from throttlefs.throttle import Rates, Throttle

from .arguments import Parameter
from .commands import Arguments, CommandTable
from .protocol import QmpError


class SharingCommands:
    """What there is to ask about the shares of a mount's groups."""

    def __init__(self, throttle: Throttle, cluster: Cluster) -> None:
        self._throttle = throttle
        self._cluster = cluster

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        table.add(
            "x-throttlefs-query-cluster",
            self._query_cluster,
            {"group-name": Parameter("string")},
        )

    def shares(self) -> dict[str, dict[str, object]]:
        """What each shared group holds, by name."""
        return {
            name: share_json(status, self._throttle.lease_clock())
            for name, status in self._cluster.statuses().items()
        }

    async def _query_cluster(self, arguments: Arguments) -> object:
        shares = self.shares()
        name = arguments.get("group-name")
        if name is not None and name not in shares:
            raise QmpError(f"no group {quoted(name)} shares its limits with other hosts")
        found = []
        for group, share in shares.items():
            if name is not None and group != name:
                continue
            try:
                overview = await self._cluster.overview(group)
            except StoreError as exc:
                found.append({**share, "error": str(exc), "hosts": []})
                continue
            limits = overview.limits
            hosts = [
                {
                    "id": host.id,
                    "name": host.name,
                    "seconds-ago": host.age_us / 1e6,
                    "weight": host.weight,
                    "on-lost": host.on_lost,
                    "fallback": host.fallback,
                    "held": rates_json(host.held),
                }
                for host in overview.hosts
            ]
            known = {} if limits is None else limits.as_dict()
            found.append({**share, "limits": known, "version": overview.version, "hosts": hosts})
        return found


def share_json(status: ShareStatus, now: int) -> dict[str, object]:
    """*status* for the clients of the control socket; *now* is ns of the lease clock."""
    standing = status.standing
    return {
        "group": status.group,
        "store": status.store.address.place,
        "key": status.store.address.key,
        "on-lost": status.store.on_lost.value,
        "state": standing.state.value,
        "state-seconds": max(0, now - standing.since) / 1e9,
        "held": rates_json(standing.using),
        "fallback": standing.fallback,
        "version": standing.version,
        "host-count": standing.hosts,
        "active-count": standing.active,
        "answered-seconds-ago": None if standing.heard is None else (now - standing.heard) / 1e9,
        "recovering": standing.recovering_until > now,
        "error": status.trouble,
    }


def rates_json(rates: Rates) -> Mapping[str, float]:
    """The rates that are not 0, by name."""
    return {name: rate for name, rate in zip(RATES, rates, strict=True) if rate}
