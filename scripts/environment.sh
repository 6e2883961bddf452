# shellcheck shell=bash
# The scripts beside this one source it. It makes an environment from a lock file and keeps it up to date.
# usage: use_environment LOCK [PLACE]      e.g. use_environment requirements.lock; the PLACE is .venv

use_environment() {
    local lock=$1 place=${2:-.venv} stamp wanted
    stamp=$place/installed
    wanted=$(sha256sum requirements.lock "$lock" pyproject.toml | sha256sum)
    if [ -f "$stamp" ] && grep -qF "$wanted" "$stamp"; then
        return
    fi
    if [ ! -x "$place/bin/python" ]; then
        python3 -m venv "$place"
    fi
    echo "installing $lock into $place"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
    "$place/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    echo "$wanted" >>"$stamp"
}
