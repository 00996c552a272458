#!/bin/sh
# Run a command in an image of buildah as compose.yaml does: the root file system read-only, no capabilities, no new
# privileges, /models and /data of the host, and /tmp in memory. Needs root, buildah and util-linux.
#
#   deploy/run-without-docker.sh IMAGE COMMAND…
#   MODELS=/srv/models DATA=/srv/data deploy/run-without-docker.sh cutout:cpu cutout doctor
#
# MODELS, DATA     folders of the host, writable for UID 10001 (default: empty ones that are deleted afterwards)
# MOUNT            a folder of the host that is at /mnt, read-only
# ENVIRONMENT      more variables, as in "CUTOUT_AUTH=off CUTOUT_PORT=8001"
# NETWORK=none     only a loopback interface
# STORAGE, RUNROOT, STORAGE_DRIVER    as for build-without-docker.sh
set -eu

if [ $# -lt 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
image=$1
shift

run_buildah() {
    buildah --root "${STORAGE:-/var/lib/containers/storage}" --runroot "${RUNROOT:-/run/containers/storage}" \
        --storage-driver "${STORAGE_DRIVER:-vfs}" "$@"
}

scratch=$(mktemp -d)
chmod 755 "$scratch"
container=$(run_buildah from --pull=never "$image")
clean_up() {
    run_buildah rm "$container" >/dev/null
    rm -rf "$scratch"
}
trap clean_up EXIT
trap 'exit 143' INT TERM
mkdir "$scratch/models" "$scratch/data"
chown 10001:10001 "$scratch/models" "$scratch/data"

root=$(run_buildah mount "$container")
variables=$(run_buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{.}} {{end}}' "$image")
# shellcheck disable=SC2086  # a word for each variable
set -- env -i HOME=/home/cutout $variables ${ENVIRONMENT:-} "$@"
export root models="${MODELS:-$scratch/models}" data="${DATA:-$scratch/data}" mounted="${MOUNT:-}"
# A mount namespace of its own, so that nothing of this stays mounted on the host. The command is process 1 of a PID
# namespace, which ends with it.
# shellcheck disable=SC2016  # the inner shell's own variables
unshare --mount --pid --fork --kill-child ${NETWORK:+--net} sh -euc '
    ip link set lo up 2>/dev/null || true
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    mount -t tmpfs -o size=256m,mode=1777,nosuid,nodev,noexec tmpfs "$root/tmp"
    mount --bind "$models" "$root/models"
    mount --bind "$data" "$root/data"
    if [ -n "$mounted" ]; then
        mount --bind "$mounted" "$root/mnt"
        mount -o remount,bind,ro "$root/mnt"
    fi
    if [ -e "$root/etc/resolv.conf" ]; then mount --bind /etc/resolv.conf "$root/etc/resolv.conf"; fi
    mount -o remount,bind,ro "$root"
    exec chroot "$root" setpriv --reuid=10001 --regid=10001 --clear-groups --no-new-privs \
        --bounding-set=-all --inh-caps=-all "$@"
' sh "$@"
