"""What the disk behind pretends to be: how long it takes for each request, and how it fails.

The latencies are a model without a clock. It stands behind the limiter and before the backing, and
knows neither; they meet in the handlers of reads and writes. Faults are pure but for what waits.
"""

from .disk import Disk, Spot
from .writes import Writes

__all__ = ["Disk", "Spot", "Writes"]
