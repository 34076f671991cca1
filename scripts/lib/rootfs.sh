# Debian root filesystems for the demonstration and the tests. Sourced after cache.sh.
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
