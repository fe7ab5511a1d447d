"""The limiter: holds the reads and writes of images to limits, exactly and fairly.

It knows neither FUSE nor files: an image is any key, a request a direction and a size.
"""

from .alarm import Alarm, TimerfdAlarm
from .errors import (
    GroupCycleError,
    GroupExistsError,
    GroupInUseError,
    ThrottleError,
    UnknownGroupError,
    WeightError,
)
from .group import Group
from .image import NO_GROUP, Image
from .meter import READ, WRITE
from .throttle import Throttle

__all__ = [
    "NO_GROUP",
    "READ",
    "WRITE",
    "Alarm",
    "Group",
    "GroupCycleError",
    "GroupExistsError",
    "GroupInUseError",
    "Image",
    "Throttle",
    "ThrottleError",
    "TimerfdAlarm",
    "UnknownGroupError",
    "WeightError",
]
