# shellcheck shell=bash
# The slow path of ensure_environment: sourced only when something is missing.
# shellcheck disable=SC2154 # environment.sh sets checkout and venv

# shellcheck source=debian.sh
source "$checkout/scripts/lib/debian.sh"

readonly oldest_fuse=3.2 # what pyfuse3 builds against

install_environment() {
    local extra=$1
    shift
    # pip and apt-get turn an interrupt into an ordinary failure; this does not.
    trap 'exit 130' INT
    venv_is_ready "$extra" || check_may_write_venv
    provide_packages "$extra" "$@"
    venv_is_ready "$extra" || install_venv "$extra"
    [[ -c /dev/fuse ]] || provide_fuse_device
    trap - INT
}

# --- Debian packages -------------------------------------------------------------------------

provide_packages() {
    local python missing
    find_missing "$@"
    ((${#missing[@]})) || return 0
    if ! may_install_packages; then
        type -P apt-get >/dev/null ||
            die "install what Debian calls ${missing[*]}, then start this again"
        die "Debian packages are missing; as root, run:" \
            "apt-get update && apt-get install --no-install-recommends ${missing[*]}"
    fi
    install_packages "${missing[@]}"
    find_missing "$@"
    ((${#missing[@]} == 0)) || die "still missing after installing packages: ${missing[*]}"
}

# Sets `missing` to the packages that bring what is not there. What counts is whether a thing
# works, not where it came from: a pyenv Python with its headers needs no python3-dev.
find_missing() {
    local extra=$1 tool
    shift
    missing=()
    for tool; do
        commands_are_there "$tool" || missing+=("${tool##*:}")
    done
    # With a venv complete no compiler is needed.
    venv_is_ready "$extra" && return
    find_python
    # pyfuse3 comes as source.
    if ! "${CC:-gcc}" -E -x c - <<<'#include <stdio.h>' &>/dev/null; then
        missing+=(gcc libc6-dev)
    fi
    if ! type -P pkg-config >/dev/null; then
        missing+=(pkg-config libfuse3-dev)
    elif ! pkg-config --atleast-version="$oldest_fuse" fuse3; then
        missing+=(libfuse3-dev)
    fi
}

# Sets `python` to an interpreter that is new enough and complete, or adds to `missing` what
# would complete one. Only the distribution's own can be completed with packages.
find_python() {
    local candidate answer lines lacks too_old='' completable=()
    python=''
    for candidate in python3 python3.{11..19} /usr/bin/python3; do
        type -P "$candidate" >/dev/null || continue
        if ! answer=$("$candidate" -I "$checkout/scripts/lib/probe_python.py" 2>/dev/null); then
            too_old=${too_old:-$answer}
            continue
        fi
        mapfile -t lines <<<"$answer"
        if ((${#lines[@]} == 1)); then
            python=${lines[0]}
            return
        fi
        if [[ ${lines[0]} == /usr/bin/python3.* && ${#completable[@]} == 0 ]]; then
            for lacks in "${lines[@]:1}"; do
                completable+=("${lines[0]##*/}-$lacks")
            done
        fi
    done
    if ((${#completable[@]})); then
        missing+=("${completable[@]}")
    elif [[ -n $too_old ]]; then
        die "Python 3.11 or newer is needed, and python3 is $too_old here:" \
            "install a newer one (as python3.11, python3.12, ...; with its headers and venv)"
    else
        missing+=(python3 python3-venv python3-dev)
    fi
}

# --- The virtual environment -----------------------------------------------------------------

# Ends with what to do for who cannot bring the virtual environment up to date.
check_may_write_venv() {
    local owner python
    [[ ! -w $checkout || (-e $venv && ! -w $venv) ]] || return 0
    [[ $EUID != 0 && ! -O $checkout ]] ||
        die "$venv is missing or out of date and cannot be written: a read-only file system?"
    owner=$(stat -c %U -- "$checkout")
    [[ ! -e $venv || (-r $venv && -x $venv) ]] ||
        die "$venv is not yours to read: use a clone of your own, or as $owner open it with:" \
            "chmod -R go+rX $venv"
    # Such as one below /root: then nothing helps that is installed into the environment.
    if [[ -e $venv/.installed-runtime && ! -x $venv/bin/python ]] &&
        IFS= read -r python <"$venv/.installed-runtime"; then
        die "$venv was made with a Python that you may not run, $python: use a clone of your own," \
            "or as $owner make it anew with the system's:" \
            "rm -r $venv && PATH=/usr/bin:/bin $0 --version"
    fi
    die "$venv is missing or out of date and you may not write it: run $0 once as $owner," \
        "or use a clone of your own"
}

install_venv() {
    local extra=$1 lock
    mkdir -p -- "$venv" || die "cannot create $venv"
    # The lock file stays where it is when the rest is cleared: who waits for it must find the
    # same file. pip inherits it, so it is held even when this script alone is killed.
    { exec {lock}>>"$venv/.lock"; } 2>/dev/null || die "cannot write $venv/.lock"
    if ! flock --nonblock "$lock"; then
        say "another start is installing; waiting for it"
        flock "$lock"
    fi
    venv_is_ready "$extra" || fill_venv "$extra"
    exec {lock}>&-
}

fill_venv() {
    local extra=$1 python='' missing=() project=. effort='' output library
    [[ $extra == runtime ]] || project=.[$extra]
    rm -f -- "$venv/.installed-$extra"

    # .unfinished tells the next start that this one was cut short and can't be built upon.
    if [[ -e $venv/.unfinished ]] || ! venv_is_usable; then
        find_python
        [[ -n $python ]] || die "no usable Python: ${missing[*]} missing"
        say "creating a virtual environment in $venv"
        effort=' (about a minute)'
        find "$venv/" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf -- {} +
        : >"$venv/.unfinished"
        # ensurepip by hand: venv would run it, too, but swallow the reason of a failure.
        if ! { run "$python" -I -m venv --without-pip -- "$venv" &&
            run "$venv/bin/python" -I -m ensurepip --default-pip; }; then
            fail "could not create the virtual environment"
        fi
        printf '%s\n' "$checkout" >"$venv/.location"
    fi
    : >"$venv/.unfinished"

    say "installing Python packages into $venv$effort"
    if ! run_pip install --constraint scripts/constraints.txt --editable "$project"; then
        # pip changes nothing before it has everything.
        [[ $(reason) != *network* ]] || rm -f -- "$venv/.unfinished"
        fail "could not install the Python packages"
    fi
    find_library
    give_to_owner
    # The stamp must not reach the disk before what it vouches for.
    sync -f -- "$venv"
    { readlink -f -- "$venv/bin/python" && checksums && printf '%s\n' "$library"; } >"$venv/.new"
    mv -f -- "$venv/.new" "$venv/.installed-$extra"
    rm -f -- "$venv/.unfinished"
}

# Sets `library` to the libfuse3 that pyfuse3 needs. An upgrade of the distribution may have taken
# away the one that pyfuse3 was built with, and pip may have such a build in its cache.
find_library() {
    local probe=("$venv/bin/python" -I "$checkout/scripts/lib/probe_fuse.py")
    if ! run "${probe[@]}"; then
        say 'building pyfuse3 anew for the libfuse3 of this system'
        run_pip install --constraint scripts/constraints.txt --no-cache-dir --no-binary pyfuse3 \
            --force-reinstall --no-deps pyfuse3 || fail "could not build pyfuse3 anew"
        run "${probe[@]}" || die "could not load ${output##*$'\n'}"
    fi
    library=$output
}

# A venv can be built upon if its Python still runs, has pip, and it was made for this place.
venv_is_usable() {
    local location=$checkout
    [[ ! -e $venv/.location ]] || IFS= read -r location <"$venv/.location"
    [[ $location == "$checkout" ]] &&
        "$venv/bin/python" -I "$checkout/scripts/lib/probe_python.py" &>/dev/null &&
        "$venv/bin/python" -I -m pip --version &>/dev/null
}

run_pip() {
    # Both variables, as old and new versions of pip read one each, make pip build with the
    # versions pinned, too. They are lists separated by spaces: hence a relative path.
    cd -- "$checkout" || return
    local status=0
    run env PIP_USER=0 PIP_CONSTRAINT=scripts/constraints.txt \
        PIP_BUILD_CONSTRAINT=scripts/constraints.txt \
        "$venv/bin/python" -I -m pip --no-input --disable-pip-version-check "$@" || status=$?
    cd -- "$OLDPWD" || return
    return "$status"
}

# What root installed in somebody's checkout is that person's, or they could not update it.
give_to_owner() {
    ((EUID == 0)) && [[ ! -O $checkout ]] || return 0
    # -h: the links in bin/ lead to the system's Python.
    chown -hR --reference="$checkout" -- "$venv" "$checkout"/*.egg-info
}

# --- /dev/fuse -------------------------------------------------------------------------------

# Missing where the module is not loaded, or in a container. Who may not make it, or cannot,
# hears of it from throttlefs itself.
provide_fuse_device() {
    find_root_command || return 0
    as_root modprobe fuse || true
    [[ -c /dev/fuse ]] || { as_root mknod -m 666 /dev/fuse c 10 229 || true; }
} &>/dev/null

# --- Running what may fail -------------------------------------------------------------------

# Keeps a command's output for the case that it fails; in memory, for the disk may be full.
run() { output=$("$@" </dev/null 2>&1); }

# Ends with one line that gives the reason, or with the output's end if the reason is not known.
fail() {
    local why
    why=$(reason)
    if [[ -z $why ]]; then
        printf '%s\n' "$output" | tail -n 20 >&2
        die "$1; its last lines are above"
    fi
    die "$1: $why"
}

reason() {
    local end
    # Only the end: pip also reports what it then mended by trying again. (A pipe, for a long
    # here-string would need a temporary file.)
    end=$(printf '%s\n' "$output" | tail -n 30)
    case $end in
        *'No space left on device'* | *'have enough free space'* | *'Disk quota exceeded'*)
            echo 'the disk is full' ;;
        *CERTIFICATE_VERIFY_FAILED* | *'certificate verification failed'*)
            echo 'the TLS certificate of the package server is not trusted here' ;;
        *'emporary failure '* | *'Name or service not known'* | *'Could not resolve'* | \
            *'Network is unreachable'* | *'No route to host'* | *'Connection refused'* | \
            *'NewConnectionError'* | *'Could not connect'* | *'timed out'* | *'Connection failed'*)
            echo 'no network (the package server cannot be reached)' ;;
        *'Read-only file system'* | *'ermission denied'* | *'Operation not permitted'*)
            grep -m 1 -e 'Read-only file' -e 'ermission denied' -e 'not permitted' <<<"$end" ;;
    esac
}
