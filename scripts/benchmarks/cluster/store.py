"""The server through which daemons share a limit, as the benchmarks start, stop and ask it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.errors import BenchmarkError
from benchmarks.processes import cpu_seconds, wait_until

PROGRAMS = ("valkey-server", "redis-server")


def program() -> str:
    """Return the server's program. Raises BenchmarkError if there is none."""
    for name in PROGRAMS:
        if shutil.which(name):
            return name
    raise BenchmarkError(
        "neither valkey-server nor redis-server is installed: apt-get install redis-server"
    )


def versions() -> dict[str, str]:
    """Return the server's name and version. Raises BenchmarkError if there is none."""
    name = program()
    said = subprocess.run([name, "--version"], check=False, capture_output=True, text=True).stdout
    found = [word[2:] for word in said.split() if word.startswith("v=")]
    return {"store": f"{name} {found[0] if found else '(of unknown version)'}"}


def free_port() -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Store:
    """A server that keeps nothing on disk, on a Unix socket and perhaps a port."""

    def __init__(self, bench: Bench, directory: Path, port: int = 0, *options: str) -> None:
        self.socket = directory / "store.sock"
        self.port = port
        self._bench = bench
        self._log = directory / "store.log"
        self._command = [
            *(program(), "--port", str(port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket), "--dir", str(directory)),
            *("--save", "", "--appendonly", "no", *options),
        ]
        self.start()

    def start(self) -> None:
        """Start it, empty. Raises BenchmarkError if it does not answer."""
        self.socket.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._child = self._bench.processes.start(self._command, log)
        if not wait_until(self._answers, 15):
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise BenchmarkError(
                f"{self._command[0]} does not start: {said[-1] if said else 'no word'}"
            )

    def _answers(self) -> bool:
        import valkey

        try:
            with self.client() as client:
                return bool(client.ping())
        except (valkey.ConnectionError, valkey.BusyLoadingError):
            return False

    def client(self) -> Any:
        """Return a client of the library valkey."""
        import valkey

        return valkey.Valkey(unix_socket_path=str(self.socket), decode_responses=True)

    def url(self, key: str = "tenant") -> str:
        """Return the address under which a group shares its limits here."""
        return f"unix://{self.socket}?db=0&key={key}"

    def calls(self) -> tuple[int, float]:
        """Return how often the script ran so far, and how long that took in all (us)."""
        with self.client() as client:
            stats = client.info("commandstats").get("cmdstat_evalsha", {})
        return int(stats.get("calls", 0)), float(stats.get("usec", 0))

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server took so far."""
        return cpu_seconds(self._child.pid)

    def wipe(self) -> None:
        """Let it forget all."""
        with self.client() as client:
            client.flushall()

    def freeze(self) -> None:
        """Stop its process: it takes connections and answers nothing."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let its process go on."""
        self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once; what it knew is gone."""
        self._bench.processes.end(self._child, 5, signal.SIGKILL)

    def stop(self) -> None:
        """End it, whatever its state."""
        if self._child.poll() is None:
            self.thaw()
            self.kill()


@contextmanager
def store(bench: Bench, port: int = 0, *options: str) -> Iterator[Store]:
    """Run a server for the length of the block."""
    # Not in the scratch directory: the path of a Unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="throttlefs-store-") as directory:
        server = Store(bench, Path(directory), port, *options)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def sentinel(bench: Bench, master: Store, name: str = "main") -> Iterator[str]:
    """Run a Sentinel that watches a server; give the address of the key ``tenant`` through it."""
    directory = bench.scratch.root / "sentinel"
    directory.mkdir(exist_ok=True)
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {name} 127.0.0.1 {master.port} 1\n"
        f"sentinel down-after-milliseconds {name} 500\n"
        f"sentinel failover-timeout {name} 2000\n"
    )
    with (directory / "log").open("wb") as log:
        child = bench.processes.start([program(), config, "--sentinel"], log)
    try:
        yield f"valkey+sentinel://127.0.0.1:{port}/{name}/0/tenant"
    finally:
        bench.processes.end(child, 1)
