"""Makes the members of a cluster that a mount's policy asks for."""

from __future__ import annotations

from collections.abc import Mapping

from throttlefs.cluster.client import StoreError, check_library
from throttlefs.cluster.member import Cluster, Member
from throttlefs.errors import ThrottlefsError
from throttlefs.policy.loading import read_password
from throttlefs.settings.shared import SharedStore
from throttlefs.settings.units import quoted
from throttlefs.throttle import SharedGroup, Throttle


def make_cluster(throttle: Throttle, stores: Mapping[str, SharedStore]) -> Cluster:
    """The members for the groups in *stores*, which *throttle* has.

    Raises `ThrottlefsError` if a store can never be used: its address, its password or the server
    is wrong, or the client library is not installed.
    """
    members = []
    for name, store in stores.items():
        group = throttle.group(name)
        assert isinstance(group, SharedGroup)
        file = store.password_file
        try:
            check_library()
            password = None if file is None else read_password(file)
            member = Member(throttle, group, store, password)
            member.check()
        except StoreError as exc:
            raise ThrottlefsError(f"group {quoted(name)}: {exc}") from None
        members.append(member)
    return Cluster(members)
