# shellcheck shell=bash
# Installing Debian packages unattended.

readonly lock_patience=600 # seconds to wait for another apt-get, such as unattended-upgrades

may_install_packages() { type -P apt-get >/dev/null && find_root_command; }

# Whether commands can be run as root without asking anyone.
find_root_command() { ((EUID == 0)) || sudo -n true &>/dev/null; }

as_root() {
    local sudo=()
    ((EUID == 0)) || sudo=(sudo -n)
    PATH=$PATH:/usr/sbin:/sbin "${sudo[@]}" "$@"
}

install_packages() {
    local output attempt retries
    say "installing Debian packages: $*"
    for attempt in 1 2; do
        # Old lists name versions that the mirrors have dropped. A mirror that fails is no
        # reason to stop: the packages may come from another, or be in the cache. But then try
        # each of them once, for without a network there may be a hundred to fail.
        retries=3
        refresh_package_lists || retries=0
        run_apt install -o Acquire::Retries="$retries" --no-install-recommends "$@" && return
        case $output in
            *'dpkg --configure -a'*) run as_root env DEBIAN_FRONTEND=noninteractive \
                dpkg --force-confold --configure -a || true ;;
            *'Unable to locate package'* | *'have enough free space'* | *'No space left'*) break ;;
        esac
        ((attempt == 2)) || sleep 3
    done
    fail "could not install the Debian packages $*"
}

refresh_package_lists() {
    local deadline=$((SECONDS + lock_patience))
    # Error-Mode=any: by default lists that could not be fetched are only warned about.
    # The retries come after 1, 2 and 4 seconds.
    until run_apt update -o Acquire::Retries=3 -o APT::Update::Error-Mode=any; do
        # The lists' lock is the one that apt-get does not wait for by itself.
        [[ $output == *'Could not get lock'* ]] || return
        ((SECONDS < deadline)) || return
        sleep 1
    done
}

run_apt() {
    run as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get --yes \
        -o DPkg::Lock::Timeout="$lock_patience" \
        -o DPkg::Options::=--force-confdef -o DPkg::Options::=--force-confold "$@"
}
