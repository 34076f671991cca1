# Shared by the scripts of this directory: where things are, and how to speak.
# Sourced, after `set -euo pipefail`.
# shellcheck shell=bash disable=SC2034 # each script uses some of the names

repository=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
readonly repository
readonly cache=${VRUNTIME_CACHE:-/var/cache/vruntime}
# Where set-up installs, as the code expects it.
readonly library=/usr/local/lib/vruntime
readonly launcher=/usr/local/bin/vruntime
# A virtual environment is made of the distribution's Python: the first python3
# of PATH may be a slow wrapper.
readonly python=/usr/bin/python3
# Links to the newest cached entries: the tools for building and testing, and
# the Python sources together with their generated modules.
readonly development_venv=$cache/venv-dev
readonly python_source=$cache/python-source

# fail MESSAGE...: one line on stderr, and the end.
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

say() {
    printf '%s\n' "$*"
}
