# Steps that say how long they take, and the build cache: one directory for each
# artefact and hash of its inputs. Sourced after common.sh, with `steps` set to
# the number of steps.
# shellcheck shell=bash disable=SC2154 # names set by whoever sources this

readonly kept_entries=3
step=0
title=
builder=

begin() {
    step=$((step + 1))
    title=$1
}

# hash_of ARGUMENT...: a prefix of the SHA-256 of the arguments: of a file its
# content and mode, of a directory those of all files below it, else the string.
hash_of() {
    local argument
    for argument; do
        if [[ -e $argument ]]; then
            (
                cd "${argument%/*}"
                find "${argument##*/}" -name target -prune -o -name '__pycache__' -prune -o \
                    -type f -printf '%m %p\0' | LC_ALL=C sort -z | tr '\0' '\n'
                find "${argument##*/}" -name target -prune -o -name '__pycache__' -prune -o \
                    -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
            )
        else
            printf '%s\n' "$argument"
        fi
    done | sha256sum | head -c 16
}

# cached ARTEFACT HASH SECONDS BUILDER: sets `entry` to the directory that holds
# the artefact. On a miss BUILDER fills a temporary directory ($1), which is then
# renamed to the entry's path ($2): an entry exists whole or not at all. SECONDS
# says how long that takes, for whoever waits.
cached() {
    local artefact=$1 hash=$2 estimate=$3 build=$4 temporary
    entry=$cache/$artefact-$hash
    if [[ ! -d $entry ]]; then
        temporary=$(mktemp -d "$cache/.building-$artefact.XXXXXX")
        chmod 755 "$temporary"
        run_step "building, about $estimate s" "$artefact" "$build" "$temporary" "$entry"
        mv -T "$temporary" "$entry"
    fi
    touch "$entry"
    prune "$artefact"
}

# prune ARTEFACT: forget all but the entries used last.
prune() {
    find "$cache" -maxdepth 1 -regextype posix-extended -regex ".*/$1-[0-9a-f]{16}" \
        -printf '%T@ %p\n' | sort -rn | tail -n "+$((kept_entries + 1))" | cut -d ' ' -f 2- |
        xargs -r rm -rf
}

# run_step WHAT NAME COMMAND...: runs a long command with its output in a log,
# and a line that tells how long it has been at it; shows the log's tail on
# failure.
run_step() {
    local line="[$step/$steps] $title: $1" log=$cache/log/$2.log status=0 start=$SECONDS
    shift 2
    [[ -t 1 ]] || say "$line"
    # Job control gives the builder a process group of its own, so that an
    # interrupted set-up takes all of it along.
    set -m
    (
        set -euo pipefail
        "$@"
    ) >"$log" 2>&1 </dev/null &
    builder=$!
    set +m
    while kill -0 "$builder" 2>/dev/null; do
        [[ -t 1 ]] && printf '\r%s (%d s) ' "$line" $((SECONDS - start))
        sleep 0.2
    done
    wait "$builder" || status=$?
    builder=
    [[ -t 1 ]] && printf '\r\033[K'
    if ((status)); then
        tail -n 20 "$log" >&2
        fail "$title failed after $((SECONDS - start)) s (whole log: $log)$(explain "$log")"
    fi
    say "[$step/$steps] $title: done in $((SECONDS - start)) s"
}

# explain LOG: the likely cause of a failure, where the log betrays it.
explain() {
    if grep -qiE 'no space left on device' "$1"; then
        printf '; no space left in %s' "$cache"
    elif grep -qiE 'could not resolve|failed to (download|get|fetch)|connection (refused|timed out)|max retries exceeded|network is unreachable|temporary failure' "$1"; then
        printf '; a package registry could not be reached: look at the network and the proxy settings'
    fi
}

stop_builder() {
    [[ -z $builder ]] || kill -- "-$builder" 2>/dev/null || true
}
