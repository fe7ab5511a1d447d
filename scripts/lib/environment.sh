# shellcheck shell=bash
# What every script here needs before it can start: sourced, it offers ensure_environment.
# Callers resolve their own path first, so that a symlink to a script works:
#
#     script=$(readlink -f -- "${BASH_SOURCE[0]}")
#     source "${script%/*}/lib/environment.sh"
#     ensure_environment runtime
#     exec "$venv/bin/throttlefs" "$@"

checkout=${BASH_SOURCE[0]%/scripts/lib/*}
venv=$checkout/.venv

say() { printf 'throttlefs: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

# ensure_environment EXTRA [COMMAND:PACKAGE...]
#
# Returns once $venv holds throttlefs with the dependencies of EXTRA ("runtime", or one or more
# of pyproject.toml's extras: "test", "bench", "test,bench"), and every COMMAND is on the PATH
# (PACKAGE is the Debian package that brings it). Installs what is missing; where it may not or
# cannot, it says what to do and exits with status 1.
#
# This is every start's path: it stays free of Python and of all forks but one.
ensure_environment() {
    local extra=$1
    shift
    set -- fusermount3:fuse3 "$@"
    if ! { [[ -c /dev/fuse ]] && commands_are_there "$@" && venv_is_ready "$extra"; }; then
        # shellcheck source=install.sh
        source "$checkout/scripts/lib/install.sh"
        install_environment "$extra" "$@"
    fi
}

commands_are_there() {
    local tool
    for tool; do
        type -P "${tool%%:*}" >/dev/null || return
    done
}

# A stamp is written when everything is installed. It holds what the installation depends on:
# the interpreter (a distribution upgrade replaces it), the checksums and paths of the lists of
# dependencies (an update changes them, a moved checkout breaks the paths in the venv), and the
# libfuse3 that pyfuse3 was built with (an upgrade may bring one of another name).
checksums() { sha256sum -- "$checkout/pyproject.toml" "$checkout/scripts/constraints.txt"; }

venv_is_ready() {
    local stamp=$venv/.installed-$1 lines
    [[ -r $stamp && -x $venv/bin/throttlefs ]] || return
    mapfile -t lines <"$stamp"
    [[ $venv/bin/python -ef ${lines[0]-} && -e ${lines[3]-} ]] &&
        [[ $(checksums) == "${lines[1]-}"$'\n'"${lines[2]-}" ]]
}
