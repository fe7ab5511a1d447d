# shellcheck shell=bash
# Copying the sources, for builds and for other roots.

# copy_sources FROM TO: the files of a checkout that git does not ignore, the changed and the new
# ones too. An unpacked source distribution has no git: then all but what tests and builds leave.
copy_sources() {
    local from=$1 to=$2
    mkdir -p -- "$to"
    if [[ -e $from/.git ]] && type -P git >/dev/null; then
        git -c safe.directory="$from" -C "$from" ls-files -z \
            --cached --others --exclude-standard --deduplicate |
            tar -C "$from" --null --files-from=- --ignore-failed-read --create 2>/dev/null
    else
        tar -C "$from" --create --anchored --no-wildcards-match-slash \
            --exclude=./.git --exclude=./.venv --exclude=./build --exclude=./dist \
            --exclude=./.hypothesis --exclude='./.*_cache' --exclude='./*.egg-info' \
            --no-anchored --exclude=__pycache__ .
    fi | tar -C "$to" --no-same-owner --extract
}
