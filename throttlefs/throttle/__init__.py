"""The limiter: holds the reads and writes of images to limits, exactly and fairly.

It knows neither FUSE nor files: an image is any key, a request a direction and a size.
"""

from .alarm import Alarm, TimerfdAlarm
from .dispatcher import Dispatcher
from .errors import (
    GroupCycleError,
    GroupExistsError,
    GroupInUseError,
    ThrottleError,
    UnknownGroupError,
)
from .group import Group
from .image import Image
from .image_policy import NO_GROUP, NO_OVERRIDE, ImagePolicy, Override
from .meter import READ, WRITE
from .station import ON_THE_WAY_NS, Model, Ticket
from .throttle import Throttle

__all__ = [
    "NO_GROUP",
    "NO_OVERRIDE",
    "ON_THE_WAY_NS",
    "READ",
    "WRITE",
    "Alarm",
    "Dispatcher",
    "Group",
    "GroupCycleError",
    "GroupExistsError",
    "GroupInUseError",
    "Image",
    "ImagePolicy",
    "Model",
    "Override",
    "Throttle",
    "ThrottleError",
    "Ticket",
    "TimerfdAlarm",
    "UnknownGroupError",
]
