"""What the client says of stores that do not serve it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store_server import StoreServer, free_port
from tests.support import wait_for
from throttlefs.cluster.client import Listener, StoreClient, StoreError
from throttlefs.cluster.messages import LOOK, Call
from throttlefs.settings.limits import Limits
from throttlefs.settings.shared import parse_store_address

TENANT = Limits(bps=1000)


def trouble(url: str, password: str | None = None) -> StoreError:
    client = StoreClient(parse_store_address(url), password)
    with pytest.raises(StoreError) as caught:
        client.check()
    assert "\n" not in str(caught.value)
    assert password is None or password not in str(caught.value)
    return caught.value


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A store with a password, and a user who may not run scripts."""
    server = StoreServer(tmp_path_factory.mktemp("locked"), "--requirepass", "right")
    with server.client(password="right") as admin:
        admin.acl_setuser("poor", enabled=True, passwords=["+own"], keys="*", commands=["+info"])
    yield server
    server.stop()


def test_calls_go_through_even_if_the_server_forgets_the_script(store):
    client = StoreClient(parse_store_address(store.url("calls")), None)
    client.check()
    call = Call(id="a", sequence=1, limits=TENANT)
    assert client.call(call.arguments())[0] == "ok"
    with store.client() as admin:
        admin.script_flush()
    assert client.call(LOOK)[0] == "ok"
    client.close()
    assert client.call(LOOK)[0] == "ok"


def test_wrong_passwords(locked):
    for password in (None, "wrong"):
        error = trouble(locked.url(), password)
        assert error.fatal
        assert "refuses the password: check password_file" in str(error)
    StoreClient(parse_store_address(locked.url()), "right").check()


def test_a_user_who_may_not_run_scripts(locked):
    url = locked.url().replace("unix://", "unix://poor@")
    error = trouble(url, "own")
    assert error.fatal
    assert "docs/cluster.md lists the permissions" in str(error)
    assert "user name or password" in str(trouble(url, "other"))


def test_the_permissions_that_the_docs_list_are_enough(locked):
    docs = Path(__file__).parents[3] / "docs" / "cluster.md"
    line = next(line for line in docs.read_text().splitlines() if line.startswith("ACL SETUSER"))
    words = line.split()[2:]
    with locked.client(password="right") as admin:
        admin.execute_command("ACL", "SETUSER", *words)
    password = next(word[1:] for word in words if word.startswith(">"))
    url = locked.url("tenant-a").replace("unix://", f"unix://{words[0]}@")
    client = StoreClient(parse_store_address(url), password)
    client.check()
    call = Call(id="a", sequence=1, limits=TENANT)
    assert client.call(call.arguments())[0] == "ok"
    heard: list[str] = []
    listener = Listener(parse_store_address(url), password, heard.append)
    listener.start()
    with locked.client(password="right") as admin:
        wait_for(lambda: admin.publish("tenant-a:hint", "x") > 0)
    wait_for(lambda: bool(heard))
    listener.stop()


def test_no_such_database_and_a_key_of_another_s(store):
    error = trouble(store.url("k").replace("db=0", "db=5000"))
    assert error.fatal
    assert "has no database 5000" in str(error)
    with store.client() as admin:
        admin.set("taken", "by another")
        admin.hset("odd", mapping={"g": "x"})
    for key in ("taken", "odd"):
        error = trouble(store.url(key))
        assert error.fatal
        assert f"the key {key} at" in str(error)


def test_nobody_there(tmp_path):
    for url in (f"unix://{tmp_path}/none?key=k", f"valkey://127.0.0.1:{free_port()}/0/k"):
        error = trouble(url)
        assert not error.fatal
        assert "cannot be reached" in str(error)


def answer_with(*answers: bytes) -> int:
    """Start a server that gives each request the next answer, then says nothing; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            for answer in answers:
                connection.recv(65536)
                connection.sendall(answer)
            while connection.recv(65536):
                pass

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def test_an_old_server():
    info = b"# Server\r\nredis_version:5.0.14\r\n"
    port = answer_with(b"+OK\r\n", b"+OK\r\n", b"$%d\r\n%s\r\n" % (len(info), info))
    error = trouble(f"valkey://127.0.0.1:{port}/0/k")
    assert error.fatal
    assert "is too old: version 5.0.14, and 6.0 is the oldest that will do" in str(error)


def test_a_server_of_another_kind():
    port = answer_with(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert "at 127.0.0.1" in str(trouble(f"valkey://127.0.0.1:{port}/0/k"))


def test_a_store_that_hangs(store):
    client = StoreClient(parse_store_address(store.url("calls")), None)
    client.call(LOOK)
    store.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StoreError) as caught:
            client.call(LOOK)
        assert time.monotonic() - began < 10
        assert "does not answer in time" in str(caught.value)
        assert not caught.value.fatal
    finally:
        store.thaw()
    wait_for(lambda: client.call(LOOK)[0] == "ok")


def test_tls(tmp_path):
    """The certificate must be that of a trusted authority, for the name of the server."""
    for name, subject in (("ca", "/CN=ca"), ("other", "/CN=other")):
        make_certificate(tmp_path, name, subject)
    port = free_port()
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    server = StoreServer(
        tmp_path / "store",
        *("--tls-port", str(port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(certificate)),
    )
    try:
        for query in ("", f"?ca={tmp_path}/other.pem"):
            error = trouble(f"valkeys://localhost:{port}/0/k{query}")
            assert error.fatal
            assert "is not trusted: name its authority with ?ca=FILE" in str(error)
        url = f"valkeys://localhost:{port}/0/k?ca={certificate}"
        client = StoreClient(parse_store_address(url), None)
        client.check()
        assert client.call(LOOK)[0] == "ok"
        client.close()
    finally:
        server.stop()


def make_certificate(directory: Path, name: str, subject: str) -> None:
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", f"{directory}/{name}.key", "-out", f"{directory}/{name}.pem"),
        ],
        check=True,
        capture_output=True,
    )


def test_sentinels_say_where_the_server_is(tmp_path):
    master = StoreServer(tmp_path / "master", port=free_port())
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master.port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 1000\n"
    )
    replica = StoreServer(
        tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port), port=free_port()
    )
    program = master.process.args[0]  # type: ignore[index]
    sentinel = subprocess.Popen(
        [program, str(config), "--sentinel"], stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        url = f"valkey+sentinel://127.0.0.1:{port}/main/0/k"
        client = StoreClient(parse_store_address(url), None)

        def works() -> bool:
            try:
                call = Call(id="a", sequence=time.monotonic_ns(), limits=TENANT)
                return client.call(call.arguments())[0] == "ok"
            except StoreError:
                return False

        wait_for(works, 60)
        StoreClient(parse_store_address(url), None).check()
        with replica.client() as admin, master.client() as other:
            wait_for(lambda: admin.info("replication")["master_link_status"] == "up", 60)
            # The Sentinel must know of the replica before it can make it the master.
            wait_for(lambda: bool(other.info("replication")["connected_slaves"]), 60)
        master.stop()
        wait_for(works, 60)  # it is the replica now
        client.close()
    finally:
        sentinel.kill()
        sentinel.wait()
        replica.stop()
        if master.process.poll() is None:
            master.stop()
