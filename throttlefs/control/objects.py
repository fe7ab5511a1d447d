"""The part of QEMU's object model for limits: a group is an object of type ``throttle-group``.

It follows ``qapi/qom.json`` and ``block/throttle-groups.c`` of QEMU 7.2. Every group of the mount
is ``/objects/NAME`` (in QEMU only groups that ``object-add`` made are). Its property ``limits`` has
QEMU's names (``bps-total-max``) and whole numbers, so a fraction is rounded up. A total beside a
read or write limit, which QEMU refuses, is accepted as elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from throttlefs.policy.change import Change, TuningError
from throttlefs.policy.governor import Governor
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.limits import QEMU_LIMIT_NAMES, qemu_name
from throttlefs.throttle import Group

from .arguments import Parameter, check_arguments
from .commands import Arguments, CommandTable
from .protocol import DeviceNotFoundError, QmpError, shown

GROUP_TYPE: Final = "throttle-group"
_CONTAINER_TYPE: Final = "container"
_ROOT: Final = ""
_CONTAINER: Final = "objects"

_IDENTIFIER: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

_LIMITS: Final = {qemu_name(name): Parameter("integer") for name in QEMU_LIMIT_NAMES}
"""The members of QEMU's ``ThrottleLimits``."""

_PROPERTIES: Final = {
    "type": "string",
    **{f"x-{name}": "int" for name in _LIMITS},
    "limits": "ThrottleLimits",
}
"""The properties of a group, with their types."""


class ObjectCommands:
    """``object-add``, ``object-del``, ``qom-list``, ``qom-get`` and ``qom-set`` on groups."""

    def __init__(self, governor: Governor, tuner: Tuner) -> None:
        self._throttle = governor.throttle
        self._tuner = tuner

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        text = Parameter("string", required=True)
        table.add(
            "object-add",
            self._object_add,
            {
                "qom-type": Parameter("string", required=True, choices=(GROUP_TYPE,)),
                "id": text,
                "limits": Parameter("object"),
                **{f"x-{name}": parameter for name, parameter in _LIMITS.items()},
            },
        )
        table.add("object-del", self._object_del, {"id": text})
        table.add("qom-list", self._qom_list, {"path": text})
        table.add("qom-get", self._qom_get, {"path": text, "property": text})
        table.add(
            "qom-set",
            self._qom_set,
            {"path": text, "property": text, "value": Parameter("any", required=True)},
        )

    # -- objects ---------------------------------------------------------------------------

    async def _object_add(self, arguments: Arguments) -> object:
        name = arguments["id"]
        if not _IDENTIFIER.fullmatch(name):
            raise QmpError("Parameter 'id' expects an identifier")
        limits = _checked_limits(arguments.get("limits", {}))
        single = {
            key: value
            for key, value in arguments.items()
            if key.startswith("x-") and key.removeprefix("x-") not in limits
        }
        change = Change.parse([*single.items(), *limits.items()], of_group=True)
        if name in self._groups():
            raise QmpError(
                f"attempt to add duplicate property '{name}' to object (type '{_CONTAINER_TYPE}')"
            )
        self._tuner.change_group(name, change)
        return {}

    async def _object_del(self, arguments: Arguments) -> object:
        name = arguments["id"]
        if name not in self._groups():
            raise QmpError(f"object '{shown(name)}' not found")
        try:
            self._tuner.remove_group(name)
        except TuningError as exc:
            reason = f"object '{shown(name)}' is in use, can not be deleted"
            raise QmpError(f"{reason}: {exc}") from None
        return {}

    # -- properties ------------------------------------------------------------------------

    async def _qom_list(self, arguments: Arguments) -> object:
        if not arguments["path"]:
            raise QmpError("Path '' is ambiguous")
        found = self._resolve(arguments["path"])
        if found == _ROOT:
            types = {"type": "string", _CONTAINER: f"child<{_CONTAINER_TYPE}>"}
        elif found == _CONTAINER:
            types = {"type": "string"} | dict.fromkeys(self._groups(), f"child<{GROUP_TYPE}>")
        else:
            types = _PROPERTIES
        return [{"name": name, "type": kind} for name, kind in types.items()]

    async def _qom_get(self, arguments: Arguments) -> object:
        found, name = self._resolve(arguments["path"]), arguments["property"]
        if isinstance(found, Group):
            return _property(found, name)
        if name == "type":
            return _CONTAINER_TYPE
        if found == _ROOT and name == _CONTAINER:
            return f"/{_CONTAINER}"
        if found == _CONTAINER and name in self._groups():
            return f"/{_CONTAINER}/{name}"
        raise _no_property(_CONTAINER_TYPE, name)

    async def _qom_set(self, arguments: Arguments) -> object:
        found, name = self._resolve(arguments["path"]), arguments["property"]
        if not isinstance(found, Group):
            known = {"type", _CONTAINER} if found == _ROOT else {"type", *self._groups()}
            if name in known:
                raise _read_only(_CONTAINER_TYPE, name)
            raise _no_property(_CONTAINER_TYPE, name)
        if name not in _PROPERTIES:
            raise _no_property(GROUP_TYPE, name)
        if name == "type":
            raise _read_only(GROUP_TYPE, name)
        if name != "limits":
            raise QmpError("Property cannot be set after initialization")
        value = arguments["value"]
        check_arguments({"limits": value}, {"limits": Parameter("object")})
        change = Change.parse(_checked_limits(value).items(), of_group=True)
        self._tuner.change_group(found.name, change)
        return {}

    def _groups(self) -> dict[str, Group]:
        return {group.name: group for group in self._throttle.groups()}

    def _resolve(self, path: str) -> Group | str:
        """The object at *path*: a group, `_ROOT` or `_CONTAINER`.

        As in QEMU, a path without a slash at its beginning is the end of a path. Raises
        `DeviceNotFoundError`.
        """
        groups = self._groups()
        absolute, parts = path.startswith("/"), path.strip("/")
        if absolute and not parts:
            return _ROOT
        if parts == _CONTAINER:
            return _CONTAINER
        name = parts.removeprefix(f"{_CONTAINER}/")
        if name in groups and not (absolute and name == parts):
            return groups[name]
        raise DeviceNotFoundError(path)


def _checked_limits(limits: Mapping[str, Any]) -> Mapping[str, Any]:
    """*limits*, a ``ThrottleLimits``. Raises `QmpError` unless names and types are right."""
    check_arguments(limits, _LIMITS, within="limits.")
    return limits


def _property(group: Group, name: str) -> object:
    if name == "type":
        return GROUP_TYPE
    limits = {
        qemu_name(limit): math.ceil(getattr(group.meter.limits, limit))
        for limit in QEMU_LIMIT_NAMES
    }
    if name == "limits":
        return limits
    if name in _PROPERTIES:
        return limits[name.removeprefix("x-")]
    raise _no_property(GROUP_TYPE, name)


def _no_property(kind: str, name: str) -> QmpError:
    return QmpError(f"Property '{kind}.{shown(name)}' not found")


def _read_only(kind: str, name: str) -> QmpError:
    return QmpError(f"Property '{kind}.{shown(name)}' is not writable")
