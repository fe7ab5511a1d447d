"""The options of a mount that can lose power."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.settings.option_values import OptionError
from throttlefs.settings.options import MountOptions, parse_options
from throttlefs.settings.volatile import NEEDING_VOLATILE


def parse(text: str) -> MountOptions:
    return parse_options([text])


def refusal(text: str) -> tuple[str, str]:
    with pytest.raises(OptionError) as caught:
        parse(text)
    assert str(caught.value).isprintable()
    return caught.value.option, str(caught.value)


def test_what_holds_if_nothing_is_said() -> None:
    for options in (parse(""), parse("volatile")):
        assert (options.volatile_dir, options.sector, options.names) == (
            "/var/tmp",
            4096,
            "ordered",
        )
        assert (options.auto_da_alloc, options.fsync_failure) == (True, "dirty")
    assert not parse("").volatile
    assert parse("volatile").volatile
    assert str(parse("volatile")) == "volatile"


def test_everything_is_said() -> None:
    options = parse(
        "volatile,volatile_dir=/srv/a b,sector=512,names=posix,auto_da_alloc=off,"
        "fsync_failure=clean"
    )
    assert options == MountOptions(
        volatile=True,
        volatile_dir="/srv/a b",
        sector=512,
        names="posix",
        auto_da_alloc=False,
        fsync_failure="clean",
        given=frozenset(NEEDING_VOLATILE),
    )
    assert parse(str(options)) == options
    assert parse("volatile,auto_da_alloc=on").auto_da_alloc


@pytest.mark.parametrize(
    ("text", "option", "message"),
    [
        ("volatile=on", "volatile", "volatile takes no value"),
        ("volatil", "volatil", "did you mean 'volatile'?"),
        ("volatile,volatile_dir=", "volatile_dir", "volatile_dir needs a value"),
        ("volatile,sector=4K", "sector", "'4K' is none of 4096, 512"),
        ("volatile,sector=1024", "sector", "is none of 4096, 512"),
        ("volatile,names=random", "names", "is none of ordered, posix"),
        ("volatile,auto_da_alloc", "auto_da_alloc", "needs a value, e.g. auto_da_alloc=off"),
        ("volatile,auto_da_alloc=no", "auto_da_alloc", "is none of on, off"),
        ("volatile,fsync_failure=retry", "fsync_failure", "is none of dirty, clean"),
        ("volatile,ro", "volatile", "volatile with ro: nothing is written"),
        ("server=pyfuse3,volatile", "server", "server=pyfuse3 has no power cut"),
        ("volatile,cache=unsafe", "cache", "fsync does nothing there"),
    ],
)
def test_what_cannot_be_used_is_named(text: str, option: str, message: str) -> None:
    named, said = refusal(text)
    assert named == option
    assert message in said


@pytest.mark.parametrize("name", NEEDING_VOLATILE)
def test_what_means_nothing_without_volatile(name: str) -> None:
    value = {"sector": "512", "names": "posix", "auto_da_alloc": "off", "fsync_failure": "clean"}
    assert refusal(f"bps=1M,{name}={value.get(name, '/tmp')}") == (
        name,
        f"{name} needs volatile: add it to -o, or leave {name} out",
    )


def test_what_contradicts_it_may_be_taken_back() -> None:
    assert parse("ro,volatile,rw").volatile
    assert parse("cache=unsafe,volatile,cache=none").cache == "none"


@given(
    st.lists(
        st.sampled_from(
            (
                *("volatile", "sector=512", "sector=4096", "names=posix", "names=ordered"),
                *("auto_da_alloc=on", "auto_da_alloc=off", "fsync_failure=clean", "ro", "rw"),
                *("fsync_failure=dirty", "volatile_dir=/a\\,b", "cache=none", "server=own"),
            )
        ),
        max_size=8,
    )
)
def test_the_text_form_reads_back_as_the_same(items: list[str]) -> None:
    names = [item.partition("=")[0] for item in items]
    read_only = [name for name in names if name in ("ro", "rw")][-1:] == ["ro"]
    needs_volatile = not set(NEEDING_VOLATILE).isdisjoint(names)
    cannot_be = read_only if "volatile" in names else needs_volatile
    if cannot_be:
        refusal(",".join(items))
    else:
        options = parse(",".join(items))
        assert parse(str(options)) == options
