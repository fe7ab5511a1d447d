"""Where metrics cannot be served."""

from __future__ import annotations

import pytest

from throttlefs.daemon.metrics_server import MetricsServer
from throttlefs.errors import ThrottlefsError


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64])
def test_a_name_that_can_be_no_host_is_refused(host: str) -> None:
    with pytest.raises(ThrottlefsError, match="there is no such host"):
        MetricsServer(f"{host}:9464")
