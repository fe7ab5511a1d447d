"""What the clients of a tree of limits should get: max-min fairness by progressive filling.

Bertsekas and Gallager, "Data Networks", 6.5.2, carried over to a tree: everybody's rate grows
together, by weight among the members of each group, until a limit is reached; whoever is held
to that limit stops there, the others go on. Nothing here knows of buckets, clocks or queues.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.unit.throttle.simulator import KIB, MIB, READ, Client, Simulator
from throttlefs.settings.limits import NO_LIMITS, Limits
from throttlefs.throttle.group import Group

_STEPS = 10_000


@dataclass(eq=False)
class Spec:
    """A node: a group of *members*, or an image with one client, asking for *sizes* in turn."""

    limits: Limits = NO_LIMITS
    weight: int = 100
    members: list[Spec] = field(default_factory=list)
    direction: int = READ
    sizes: tuple[int, ...] = ()
    depth: int = 8
    parent: Spec | None = None

    def __post_init__(self) -> None:
        for member in self.members:
            member.parent = self

    def path(self) -> list[Spec]:
        nodes = [self]
        while (parent := nodes[-1].parent) is not None:
            nodes.append(parent)
        return nodes

    def images(self) -> list[Spec]:
        if not self.members:
            return [self]
        return [image for member in self.members for image in member.images()]

    def rates(self, direction: int, totals_only: bool = False) -> dict[str, int]:
        names = ["bps", "iops"]
        if not totals_only:
            names += ["bps_rd", "iops_rd"] if direction == READ else ["bps_wr", "iops_wr"]
        return {name: rate for name in names if (rate := getattr(self.limits, name))}


Limit = tuple[Spec, str]
"""One limit of a tree: whose it is and its name."""


def held_to(image: Spec) -> dict[Limit, int]:
    """The limits that hold *image*, with their rates."""
    return {
        (node, name): rate
        for node in image.path()
        for name, rate in node.rates(image.direction).items()
    }


def usage(tree: Spec, got: dict[Spec, float]) -> dict[Limit, float]:
    """How far each limit of *tree* is used, 1 being all of it, at these rates (bytes/s)."""
    used: dict[Limit, float] = {}
    for image, rate in got.items():
        for limit, most in held_to(image).items():
            share = rate * _mean_units(limit[1], image.sizes) / _mean(image.sizes) / most
            used[limit] = used.get(limit, 0.0) + share
    return used


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)


def _mean_units(name: str, sizes: tuple[int, ...]) -> float:
    return _mean(_units(name, size) for size in sizes)


def _units(name: str, nbytes: int) -> int:
    return nbytes if name.startswith("bps") else 1


def _time_taken(node: Spec, direction: int, nbytes: int) -> float:
    """Seconds of the scarcest limit of *node* and above it; of the totals, if there are any."""
    for totals_only in (True, False):
        times = [
            _units(name, nbytes) / rate
            for above in node.path()
            for name, rate in above.rates(direction, totals_only).items()
        ]
        if times:
            return max(times)
    return 0.0


class _Filling:
    def __init__(self, root: Spec) -> None:
        self.root = root
        self.images = root.images()
        self.used: dict[Limit, float] = {}
        self.rate = dict.fromkeys(self.images, 0.0)
        self.level: dict[Spec, float] = {}
        self.growing: dict[Spec, int] = {}
        for image in self.images:
            for node in image.path():
                self.level[node] = 0.0
                self.growing[node] = self.growing.get(node, 0) + 1

    def run(self) -> dict[Spec, float]:
        while self.growing[self.root]:
            image = self.root
            while image.members:
                growing = (member for member in image.members if self.growing[member])
                image = min(growing, key=self.level.__getitem__)
            self.grow(image)
        return self.rate

    def grow(self, image: Spec) -> None:
        limits = held_to(image)
        units = {limit: _mean_units(limit[1], image.sizes) for limit in limits}
        requests = min(rate / units[limit] for limit, rate in limits.items()) / _STEPS
        self.rate[image] += requests * _mean(image.sizes)
        for node in image.path():
            if node.parent is not None:
                above = node.parent
                taken = _mean(_time_taken(above, image.direction, size) for size in image.sizes)
                self.level[node] += requests * taken * 100 / node.weight
        for limit in limits:
            self.used[limit] = self.used.get(limit, 0.0) + units[limit] * requests
        full = {limit for limit, rate in limits.items() if self.used[limit] >= rate * (1 - 1e-9)}
        if full:
            for other in self.images:
                if self.growing[other] and not full.isdisjoint(held_to(other)):
                    for node in other.path():
                        self.growing[node] -= 1


def fair_rates(root: Spec) -> dict[Spec, float]:
    """The rate (bytes a second) of each image of the tree; the root must limit everything."""
    return _Filling(root).run()


def measured_rates(root: Spec, warm_up: float, seconds: float) -> dict[Spec, float]:
    """What the limiter gives the images of the tree, in bytes a second."""
    simulator = Simulator()
    clients = dict(_build(simulator, root, None, random.Random(1)))
    simulator.run(warm_up)
    before = {spec: client.nbytes for spec, client in clients.items()}
    simulator.run(seconds)
    return {spec: (client.nbytes - before[spec]) / seconds for spec, client in clients.items()}


def _build(
    simulator: Simulator, spec: Spec, parent: Group | None, rng: random.Random
) -> Iterator[tuple[Spec, Client]]:
    if spec.members:
        group = simulator.group(spec.limits, parent, spec.weight)
        for member in spec.members:
            yield from _build(simulator, member, group, rng)
    else:
        leaf = simulator.leaf(spec.limits, parent, spec.weight)
        sizes = shuffled(spec.sizes, rng.getrandbits(32))
        yield spec, simulator.client(leaf, spec.direction, sizes, spec.depth)


def shuffled(sizes: tuple[int, ...], seed: int) -> Iterator[int]:
    """Any of *sizes*, for ever."""
    rng = random.Random(seed)
    while True:
        yield rng.choice(sizes)


def random_tree(rng: random.Random, *, directions: bool, request_limits: bool) -> Spec:
    """A tenant of up to three levels with limits at any node and clients of all kinds."""
    kinds = (4, 16, 64, 128, 256, 1024)

    def limits(scale: float, likely: float) -> Limits:
        if rng.random() >= likely:
            return NO_LIMITS
        bps = int(scale * rng.uniform(0.2, 1) * MIB)
        fields = {"bps": bps}
        if request_limits and rng.random() < 0.3:
            fields["iops"] = bps // (rng.choice((8, 32, 64, 128)) * KIB)
        if directions and rng.random() < 0.4:
            fields[rng.choice(("bps_rd", "bps_wr"))] = int(bps * rng.uniform(0.3, 0.9))
        return Limits(**fields)

    def weight() -> int:
        return rng.choice((50, 100, 200, 400)) if rng.random() < 0.3 else 100

    def image(scale: float) -> Spec:
        sizes = rng.sample(kinds, 1 if rng.random() < 0.7 else 2)
        return Spec(
            limits(scale, 0.35),
            weight(),
            direction=rng.randrange(2),
            sizes=tuple(size * KIB for size in sizes),
            depth=rng.choice((2, 4, 8, 16, 32)),
        )

    def group(scale: float, levels: int) -> Spec:
        members = [
            image(scale) if levels == 0 or rng.random() < 0.5 else group(scale * 0.7, levels - 1)
            for _ in range(rng.randint(2, 4))
        ]
        return Spec(limits(scale, 0.6), weight(), members)

    root = group(60, 2)
    root.limits = limits(60, 1)
    return root
