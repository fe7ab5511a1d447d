import pytest

from throttlefs.settings.option_values import OptionError
from throttlefs.settings.qmp_address import parse_qmp_address


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("unix:/tmp/x.sock", "/tmp/x.sock"),
        ("unix:x.sock,server=on,wait=off", "x.sock"),
        ("unix:x.sock,server,nowait", "x.sock"),
        ("unix:x.sock,", "x.sock"),
        ("unix:a,,b=c.sock,server=on", "a,b=c.sock"),
        ("unix:a,,,server", "a,"),
        ("unix:unix:x", "unix:x"),
    ],
)
def test_addresses(text, path):
    assert parse_qmp_address(text) == path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "''"),
        ("x.sock", "'x.sock' is not unix:PATH"),
        ("tcp:localhost:4444,server=on,wait=off", "is not unix:PATH"),
        ("unix:,server=on", "has no path"),
        ("unix:x,server=off", "'server=off' cannot be: a mount only listens"),
        ("unix:x,wait", "'wait' cannot be"),
        ("unix:a,b.sock", "'b.sock' is unknown"),
    ],
)
def test_what_is_no_address(text, named):
    with pytest.raises(OptionError, match=r"^--qmp: ") as caught:
        parse_qmp_address(text)
    assert named in str(caught.value)
    assert str(caught.value).isprintable()
