#!/usr/bin/env bash
# The inner half of test-in-root, the first process of namespaces of its own:
#
#     other_root.sh CHECKOUT DIR SUITE USER WHAT [ARGUMENTS OF scripts/test or scripts/bench]
#
# WHAT is checks, bench or packages. In DIR: SUITE.base is what debootstrap made, SUITE the root in
# use (SUITE.built for packages), SUITE.packages their cache.
set -euo pipefail

checkout=$1 dir=$2 suite=$3 user=$4 what=$5
shift 5
base=$dir/$suite.base root=$dir/$suite packages=$dir/$suite.packages
[[ $what != packages ]] || root=$dir/$suite.built
home=/root
[[ $user == root ]] || home=/home/$user
place=$home/throttlefs # where a new user's clone lies

say() { printf 'throttlefs: %s\n' "$*" >&2; }

# shellcheck source=sources.sh
source "$checkout/scripts/lib/sources.sh"

main() {
    mkdir -p -- "$packages"
    [[ -e $base ]] || bootstrap
    # The README's commands find nothing installed; what is tried again finds it all. An ordinary
    # user may install nothing, so that root has to come first.
    if [[ $user != root ]]; then
        [[ -e $root ]] || { say "run this without --user first" && exit 1; }
        chroot "$root" useradd --create-home --shell /bin/bash "$user" 2>/dev/null || true
    elif ! { (($#)) && [[ -e $root ]]; }; then
        renew_root
    fi
    copy_checkout
    carry_over_network
    mount_system
    enter_root "$@"
}

bootstrap() {
    local mirror
    mirror=$(debian_mirror)
    say "making a Debian $suite in $base (some minutes)"
    rm -rf --one-file-system -- "$base.new"
    mkdir -- "$base.new"
    if ! debootstrap --variant=minbase --cache-dir="$packages" "$suite" "$base.new" \
        ${mirror:+"$mirror"} &>"$dir/debootstrap.log"; then
        tail -n 20 "$dir/debootstrap.log" >&2
        say "debootstrap failed; all that it said is in $dir/debootstrap.log"
        exit 1
    fi
    mv -- "$base.new" "$base"
}

# Where this machine's own Debian packages come from; nothing: debootstrap's default.
# shellcheck disable=SC2016 # apt-get expands it
debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' \
        2>/dev/null | head -n 1
}

renew_root() {
    say "a fresh root in $root"
    rm -rf --one-file-system -- "$root" "$root.new"
    cp -a --reflink=auto -- "$base" "$root.new"
    mv -- "$root.new" "$root"
}

copy_checkout() {
    local kept
    mkdir -p -- "$root$place"
    # The environment of the last run stays, as it does when a clone is updated.
    for kept in "$root$place"/* "$root$place"/.[!.]*; do
        [[ $kept == */.venv || $kept == *.egg-info ]] || rm -rf --one-file-system -- "$kept"
    done
    copy_sources "$checkout" "$root$place"
    [[ $user == root ]] || chroot "$root" chown -R "$user:" "$place"
}

# Who may reach the package servers from here, may from there: resolver, proxies, certificates.
carry_over_network() {
    local python option value
    cp -L -- /etc/resolv.conf "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$(uname -n)" >"$root/etc/hosts"
    apt-config dump | grep -E '^Acquire::(https?|ftp|Check-[^:]*|Retries)\b' \
        >"$root/etc/apt/apt.conf.d/90host" || true
    printf '[global]\n' >"$root/etc/pip.conf"
    for python in "$checkout/.venv/bin/python" python3; do
        "$python" -m pip --version &>/dev/null && break
    done
    # Of the settings, those of the way to the server. Local lists of packages stay behind.
    "$python" -m pip config list 2>/dev/null |
        sed -nE "s/^(global|install|:env:)\.(index-url|extra-index-url|proxy|cert|trusted-host|default-timeout|timeout)='(.*)'\$/\2 \3/p" |
        while read -r option value; do
            case $option:$value in
                *-url:file:* | *-url:/*) continue ;;
                cert:*)
                    install -D -m 644 -- "$value" "$root/etc/ssl/host.pem"
                    value=/etc/ssl/host.pem ;;
            esac
            printf '%s = %s\n' "${option/#default-timeout/timeout}" "$value"
        done | sort -u >>"$root/etc/pip.conf"
}

# What systemd mounts on a Debian with its defaults; /tmp is in memory from Debian 13 on.
mount_system() {
    mount --bind -- "$root" "$root"
    mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
    mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
    mount -t fusectl -o nosuid,nodev,noexec fusectl "$root/sys/fs/fuse/connections" || true
    mount -t devtmpfs -o nosuid devtmpfs "$root/dev"
    # What udev does; the kernel's own mode is 0600, and all devtmpfs are one.
    rm -f -- "$root/.fuse"
    mknod -m 666 "$root/.fuse" c 10 229
    [[ -c $root/dev/fuse ]] || mknod -m 666 "$root/dev/fuse" c 10 229
    mount --bind -- "$root/.fuse" "$root/dev/fuse"
    mkdir -p -- "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o nosuid,noexec,newinstance,mode=620,ptmxmode=666,gid=5 devpts "$root/dev/pts"
    mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs "$root/dev/shm"
    mount -t tmpfs -o nosuid,nodev,mode=755,size=20% tmpfs "$root/run"
    mkdir -m 1777 -- "$root/run/lock"
    mount -t tmpfs -o nosuid,nodev,mode=1777,size=50%,nr_inodes=1m tmpfs "$root/tmp"
    mount --bind -- "$packages" "$root/var/cache/apt/archives"
}

enter_root() {
    local name environment=(HOME="$home" USER="$user" LOGNAME="$user" SHELL=/bin/bash LANG=C.UTF-8
        PATH=/usr/local/bin:/usr/bin:/bin TERM="${TERM:-dumb}")
    [[ $user != root ]] ||
        environment+=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [[ -z ${!name-} ]] || environment+=("$name=${!name}")
    done
    cd -- "$root"
    # The old root lies on the new one's "." until it is detached: pivot_root(8).
    pivot_root . .
    umount -l .
    cd /
    cd "$place"
    # exec, so that the first process here is one of this root's programs.
    # shellcheck disable=SC2016 # expanded in there
    exec setpriv --reuid="$user" --regid="$user" --init-groups \
        env -i "${environment[@]}" /bin/bash -euc '
        if [[ $0 == packages ]]; then
            exec ./scripts/packages/try
        elif [[ $0 == bench ]]; then
            exec ./scripts/bench "$@"
        fi
        if (($#)); then
            ./scripts/test "$@"
            exit
        fi
        mkdir -p images mnt
        ./scripts/throttlefs mount images/ mnt/ -o bps=1M
        ./scripts/throttlefs umount mnt/
        ./scripts/test' "$what" "$@"
}

main "$@"
