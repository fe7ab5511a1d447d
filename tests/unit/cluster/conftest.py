"""A store for the tests of the script and of the client."""

from collections.abc import Iterator

import pytest

from tests.store_server import StoreServer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = StoreServer(tmp_path_factory.mktemp("store"))
    yield server
    server.stop()
