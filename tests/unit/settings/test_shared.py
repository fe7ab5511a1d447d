"""Addresses of stores, in -o and in the configuration file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.config import ConfigError, parse_config
from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import parse_options
from throttlefs.settings.shared import (
    OnLost,
    SharedError,
    SharedStore,
    StoreAddress,
    parse_store_address,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("valkey://store/0/tenant-a", StoreAddress((("store", 6379),), "tenant-a")),
        ("valkey://store/0/50%2525%23", StoreAddress((("store", 6379),), "50%25#")),
        ("redis://store:7000/3/a/b", StoreAddress((("store", 7000),), "a/b", 3)),
        (
            "valkeys://me@[::1]/0/k?ca=/etc/ca.pem",
            StoreAddress((("::1", 6379),), "k", tls=True, user="me", ca_file="/etc/ca.pem"),
        ),
        (
            "valkey+sentinel://one,two:26380/main/1/k",
            StoreAddress((("one", 26379), ("two", 26380)), "k", 1, service="main"),
        ),
        ("unix:///run/v.sock?db=2&key=k", StoreAddress((), "k", 2, path="/run/v.sock")),
        ("unix://u%20v@/run/v.sock?key=k", StoreAddress((), "k", user="u v", path="/run/v.sock")),
    ],
)
def test_an_address(text, address):
    assert parse_store_address(text) == address
    assert parse_store_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("store", "is not the address of a store, e.g. valkey://"),
        ("http://store/0/k", "is not the address of a store, e.g. valkey://"),
        ("valkey://store", "has no key"),
        ("valkey://store/0", "has no key"),
        ("valkey://store/tenant-a/x", "is not the number of a database"),
        ("valkey://store/0/", "cannot be a key"),
        ("valkey://store/0/a%20b", "cannot be a key"),
        ("valkey:///0/k", "is not HOST or HOST:PORT"),
        ("valkey://store:0/0/k", "is not HOST or HOST:PORT"),
        ("valkey://one,two/0/k", "only Sentinels may be several"),
        ("valkey+sentinel://one/0/k", "write valkey+sentinel://HOST,HOST/SERVICE/DB/KEY"),
        ("unix://?key=k", "write unix:///PATH?db=0&key=KEY"),
        ("unix:///run/v.sock", "write unix:///PATH?db=0&key=KEY"),
        ("unix:///run/v.sock?key=k&ca=/x", "is not a part of an address"),
        ("valkey://store/0/k?password=x", "is not a part of an address"),
        ("valkey://store/0/k?tls", "is not a part of an address"),
        ("valkey://store/0/tenant#1", "has a '#': write %23"),
        ("valkeys://store/0/k?ca=", "is not an absolute path"),
        ("valkeys://store/0/k?ca=ca.pem", "is not an absolute path"),
    ],
)
def test_a_wrong_address(text, says):
    with pytest.raises(SharedError) as caught:
        parse_store_address(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["valkey", "http", "unix"])
def test_a_password_in_the_address_is_refused_and_not_repeated(scheme):
    with pytest.raises(SharedError) as caught:
        parse_store_address(f"{scheme}://me:SECRET@store/0/k")
    assert "password_file" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@given(st.text(max_size=60))
def test_no_text_is_an_accident(text):
    for candidate in (text, f"valkey://{text}", f"unix://{text}", f"valkey://h/0/{text}"):
        message, address = "", None
        try:
            address = parse_store_address(candidate)
        except SharedError as error:
            message = str(error)
        assert message.isprintable()
        assert address is None or parse_store_address(str(address)) == address


# -o.


def test_options():
    options = parse_options(
        ["group=g,bps=1M,shared=valkey://store/0/k,password_file=/p,on_lost=closed"]
    )
    store = SharedStore(parse_store_address("valkey://store/0/k"), "/p", OnLost.CLOSED)
    assert options.shared_store == store
    assert parse_options([str(options)]) == options
    assert parse_options(["group=g"]).shared_store is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shared=valkey://store/0/k", "shared needs group: add e.g. group=db"),
        ("group=g,on_lost=open", "on_lost needs shared: add e.g. shared=valkey://"),
        ("group=g,password_file=/p", "password_file needs shared"),
        ("group=g,shared=store", "shared: 'store' is not the address of a store"),
        ("group=g,shared=valkey://s/0/k,on_lost=never", "none of share, keep, closed, open"),
    ],
)
def test_wrong_options(text, says):
    with pytest.raises(OptionError) as caught:
        parse_options([text])
    assert says in str(caught.value)


# The configuration file.


def test_a_group_in_the_file():
    config = parse_config(
        '[group.t]\nbps = "1M"\nshared = "valkey://store/0/k"\n'
        'password_file = "/p"\non_lost = "keep"\n',
        "f",
    )
    store = SharedStore(parse_store_address("valkey://store/0/k"), "/p", OnLost.KEEP)
    assert config.groups["t"].shared == store


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('shared = "store"', "f: [group.t]: shared: 'store' is not the address of a store"),
        ("shared = 5", "is not text"),
        ('on_lost = "keep"', "on_lost: is for a group with shared"),
        ('shared = "valkey://s/0/k"\non_lost = "no"', "none of share, keep, closed, open"),
        ('shared = "valkey://s/0/k"\npassword_file = "p"', "is not an absolute path"),
        ('sahred = "valkey://s/0/k"', "did you mean 'shared'?"),
    ],
)
def test_a_wrong_group_in_the_file(lines, says):
    with pytest.raises(ConfigError) as caught:
        parse_config(f"[group.t]\n{lines}\n", "f")
    assert says in str(caught.value)
