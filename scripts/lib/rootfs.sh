# Debian root filesystems and sources for the demonstration and the tests. Sourced after cache.sh.
# shellcheck shell=bash disable=SC2154 # names set by whoever sources this

# debian_rootfs NAME PACKAGE...: sets `entry` to a cached minimal Debian with these packages, in its directory `rootfs`.
debian_rootfs() {
    local name=$1
    shift
    debian_packages=$(IFS=,; echo "$*")
    begin "Debian root filesystem ($name)"
    cached "rootfs-$name" "$(hash_of "$debian_packages" "$(. /etc/os-release && echo "$VERSION_ID")")" 60 build_debian_rootfs
}

build_debian_rootfs() {
    local suite
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mmdebstrap --variant=minbase ${debian_packages:+"--include=$debian_packages"} "$suite" "$1/rootfs"
}

# debian_source PACKAGE: sets `entry` to a cached directory that holds the package's source, unpacked, in `PACKAGE`.
debian_source() {
    source_package=$1
    begin "Debian source ($source_package)"
    cached "source-$source_package" "$(hash_of "$(. /etc/os-release && echo "$VERSION_ID")")" 10 build_debian_source
}

# From the mirror that this machine has its packages from; with lists of its own, so that what apt-get knows here stays.
build_debian_source() {
    local state=$1/apt apt
    mkdir -p "$state/lists/partial"
    apt-get --quiet update
    # shellcheck disable=SC2016 # the format is apt-get's
    apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) $(COMPONENT)' \
        'Created-By: Packages' 'Component: main' 'Origin: Debian' "Codename: $(. /etc/os-release && echo "$VERSION_CODENAME")" |
        sort -u >"$state/debian.list"
    apt=(apt-get --quiet -o "Dir::Etc::SourceList=$state/debian.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$state/lists" -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$1" && "${apt[@]}" source "$source_package")
    mv "$1/$source_package"-*/ "$1/$source_package"
    rm -r "$state"
}
