#!/bin/sh
# Build the image without a Docker engine and without a registry of images: buildah on a base that debootstrap makes
# of Debian's packages. Needs root, and: apt-get install buildah debootstrap
#
#   deploy/build-without-docker.sh TAG [OPTION OF buildah build]…
#   deploy/build-without-docker.sh cutout:cpu --build-arg LOCK=cpu --build-arg DEVICE=cpu
#
# PYTHON_VERSION  3.13 (default) or 3.11: those of Debian 13 and 12, the only ones for which there is a base
# DEBIAN_MIRROR   where debootstrap finds packages
# STORAGE         the folder of images and layers (default: /var/lib/containers/storage). A base that is there is reused.
# RUNROOT         the folder of buildah's state
set -eu

if [ $# -lt 1 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
tag=$1
shift
version=${PYTHON_VERSION:-3.13}
case $version in
    3.11) suite=bookworm ;;
    3.13) suite=trixie ;;
    *)
        echo "No Debian has Python $version; set PYTHON_VERSION to 3.11 or 3.13." >&2
        exit 2
        ;;
esac
for command in buildah debootstrap; do
    command -v "$command" >/dev/null || {
        echo "$command is missing; run: apt-get install buildah debootstrap" >&2
        exit 2
    }
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
storage=${STORAGE:-/var/lib/containers/storage}
runroot=${RUNROOT:-/run/containers/storage}
base=docker.io/library/python:$version-slim

# vfs copies each layer, but needs no overlay file system, which containers often cannot mount.
run_buildah() {
    buildah --root "$storage" --runroot "$runroot" --storage-driver "${STORAGE_DRIVER:-vfs}" "$@"
}

if ! run_buildah inspect --type image "$base" >/dev/null 2>&1; then
    system=$(mktemp -d)
    trap 'rm -rf "$system"' EXIT
    # python-is-python3: the image of Python calls it python, Debian python3.
    debootstrap --variant=minbase \
        --include=ca-certificates,python3,python3-pip,python3-venv,python-is-python3 \
        "$suite" "$system" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    rm -rf "$system"/var/cache/apt/archives/*.deb "$system"/var/lib/apt/lists/*
    container=$(run_buildah from scratch)
    run_buildah add --quiet "$container" "$system" /
    run_buildah config --cmd python3 "$container"
    run_buildah commit --quiet --rm "$container" "$base"
    rm -rf "$system"
fi

# chroot: without namespaces of its own, so that it also works inside a container. docker: the format has health checks.
run_buildah build --isolation chroot --format docker --pull=never \
    --build-arg "PYTHON_VERSION=$version" --file "$here/Dockerfile.gpu" --tag "$tag" "$@" "$here"
