from .errors import ThrottlefsError as ThrottlefsError
from .errors import UsageError as UsageError
from .testing.async_disk import AsyncDisk as AsyncDisk
from .testing.disk import Disk as Disk
from .testing.fault import AsyncFault as AsyncFault
from .testing.fault import Fault as Fault
from .testing.fault import FaultCounts as FaultCounts
from .testing.figures import Change as Change
from .testing.figures import ImageStats as ImageStats
from .testing.figures import LostFile as LostFile
from .testing.figures import PowerCut as PowerCut
from .testing.figures import Quantiles as Quantiles
from .testing.figures import RequestStats as RequestStats
from .testing.mounting import Mounting as Mounting
from .testing.mounting import mounted as mounted

__version__: str
FUSE_SUBTYPE: str
FILESYSTEM_TYPE: str
