import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.errors import ThrottlefsError
from throttlefs.policy.loading import MAX_CONFIG_SIZE, load_config, read_policy
from throttlefs.settings.config import Config, Defaults
from throttlefs.settings.config_table import ConfigError
from throttlefs.settings.limits import Limits
from throttlefs.settings.options import parse_options


@contextlib.contextmanager
def not_root():
    """Root may read everything: be nobody for a moment."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_an_unreadable_file(tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text("")
    file.chmod(0)
    with not_root(), pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load_config(file)


def load_refusal(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_loading(tmp_path):
    file = tmp_path / "limits.toml"
    file.write_bytes(b'\xef\xbb\xbf[defaults]\r\nbps = "1M"\r\n')
    assert load_config(file) == load_config(str(file)) == Config(Defaults(Limits(bps=1 << 20)))


def test_a_change_that_can_be_nowhere_is_named_with_its_file(tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text("[[change]]\nbsp = 1\n")
    with pytest.raises(ThrottlefsError) as caught:
        read_policy(parse_options([f"config={file}"]))
    assert str(caught.value).startswith(f"{file}: [[change]] number 1: unknown limit 'bsp'; did")


def test_files_that_cannot_be_loaded(tmp_path):
    missing = tmp_path / "missing.toml"
    assert load_refusal(missing) == f"{missing}: cannot be read: No such file or directory"
    assert load_refusal(tmp_path) == f"{tmp_path}: cannot be read: not a regular file"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "not a regular file" in load_refusal(fifo)
    assert "not a regular file" in load_refusal("/dev/zero")
    assert "Not a directory" in load_refusal("/dev/null/limits.toml")
    assert "cannot be the name of a file" in load_refusal("a\0b")
    assert load_refusal(tmp_path / "a\nb").startswith("'")

    large = tmp_path / "large.toml"
    with large.open("wb") as file:
        file.truncate(MAX_CONFIG_SIZE + 1)
    assert "larger than 16 MiB" in load_refusal(large)

    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"# fine\n# fine\n# \xff\n")
    assert load_refusal(binary) == f"{binary}: line 3 is not UTF-8"

    broken = tmp_path / "broken.toml"
    broken.write_text("\n[defaults\n")
    assert load_refusal(broken).startswith(f"{broken}: is not valid TOML: ")
    assert "line 2" in load_refusal(broken)


def test_no_descriptor_stays_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    load_refusal(tmp_path)
    load_refusal("/dev/zero")
    assert os.listdir("/proc/self/fd") == before


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_any_file_is_a_config_or_a_config_error(tmp_path_factory, content, path):
    file = tmp_path_factory.mktemp("any") / "limits.toml"
    file.write_bytes(content)
    try:
        config = load_config(file)
    except ConfigError as error:
        assert str(error).isprintable()  # noqa: PT017
    else:
        assert config.rule_for(path) in (None, *config.images)
