# shellcheck shell=bash
# The scripts beside this one source it. It makes .venv from a lock file and keeps it up to date.
# usage: use_environment LOCK      e.g. use_environment requirements.lock

use_environment() {
    local lock=$1 stamp wanted
    stamp=.venv/installed
    wanted=$(sha256sum requirements.lock "$lock" pyproject.toml | sha256sum)
    if [ -f "$stamp" ] && grep -qF "$wanted" "$stamp"; then
        return
    fi
    if [ ! -x .venv/bin/python ]; then
        python3 -m venv .venv
    fi
    echo "installing $lock into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$wanted" >>"$stamp"
}
