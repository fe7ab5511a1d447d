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
from .shared_group import NO_DEMAND, Demand, Flow, SharedGroup
from .shared_meter import NOTHING, Rates
from .station import ON_THE_WAY_NS, Model, Ticket
from .throttle import Throttle

__all__ = [
    "NOTHING",
    "NO_DEMAND",
    "NO_GROUP",
    "NO_OVERRIDE",
    "ON_THE_WAY_NS",
    "READ",
    "WRITE",
    "Alarm",
    "Demand",
    "Dispatcher",
    "Flow",
    "Group",
    "GroupCycleError",
    "GroupExistsError",
    "GroupInUseError",
    "Image",
    "ImagePolicy",
    "Model",
    "Override",
    "Rates",
    "SharedGroup",
    "Throttle",
    "ThrottleError",
    "Ticket",
    "TimerfdAlarm",
    "UnknownGroupError",
]
