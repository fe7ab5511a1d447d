"""Finds for every node of a tree which device its requests go through, and where they wait for it.

The nearest device counts: an image's own, or that of the innermost group around it that has one.
While all places of a group's device are taken, nothing in the group is due, which is one look at
the *gate* of the group. Only if some member has a device of its own, which must not be held up,
the gates are those of the other leaves.
"""

from __future__ import annotations

from .group import Group
from .leaf import Leaf
from .node import Node
from .station import Station


def refresh_gates(node: Node) -> list[Node]:
    """Find the devices and gates of all nodes in the tree that *node* is in.

    Returns the nodes whose gate has changed: what waits in them may be due.
    """
    changed: list[Node] = []
    _refresh(node.find_path()[-1], None, False, changed)
    return changed


def join_gates(leaf: Leaf) -> None:
    """Find the device and gate of a *leaf* without a device of its own that has just moved."""
    group = leaf.parent
    if group is None:
        _set(leaf, None, gated=False)
    else:
        _set(leaf, group.station, gated=group.gates_leaves)


def _refresh(node: Node, station: Station | None, gates_leaves: bool, changed: list[Node]) -> None:
    own = node.device
    gated = gates_leaves and isinstance(node, Leaf)
    if own is not None:
        station = own
        gates_leaves = isinstance(node, Group) and any(map(_has_device, node.members))
        gated = not gates_leaves
    if _set(node, station, gated):
        changed.append(node)
    if isinstance(node, Group):
        node.gates_leaves = gates_leaves
        for member in node.members:
            _refresh(member, station, gates_leaves, changed)


def _has_device(node: Node) -> bool:
    if node.device is not None:
        return True
    return isinstance(node, Group) and any(map(_has_device, node.members))


def _set(node: Node, station: Station | None, gated: bool) -> bool:
    """Whether the node has another gate now."""
    before, gate = node.gate, station if gated else None
    node.station = station
    if before is gate:
        return False
    node.gate = gate
    if before is not None:
        before.gated.discard(node)
    if gate is not None:
        gate.gated.add(node)
    return True


def refresh_paths(node: Node) -> None:
    """Bring `Leaf.path` up to date in all of *node*, which has moved."""
    if isinstance(node, Leaf):
        node.path = node.find_path()
    elif isinstance(node, Group):
        for member in node.members:
            refresh_paths(member)
