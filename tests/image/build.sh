#!/usr/bin/env bash
# Build the image as deploy/Dockerfile says, then try it: `make image-test`, or `make image-test MODEL=./my-checkpoint`.
#
#   tests/image/build.sh            the base image if it is missing, the image, the trial
#   tests/image/build.sh again      only the trial, on what was built last: two minutes on a quiet machine
#   tests/image/build.sh load       what was built last, within 4 GiB and 2 processors, with a model of base shape;
#                                   `SHAPE=small tests/image/build.sh load` takes another
#   tests/image/build.sh clean      takes build/image away, which `rm` alone cannot while parts of it are mounted
#
# Settings of the service are passed on: `TICKERTAPE_RAY=false tests/image/build.sh again`.
# Needs root on Debian and the package indexes, but neither Docker nor a registry: the base image is made by debootstrap
# and given the name that the Dockerfile asks for. Certificates and pip's settings of this machine (/etc/pip.conf) go into
# that base. The base and the steps that are finished are kept below build/image, 4 GB; a second run takes them from there.
set -euo pipefail
cd "$(dirname "$0")/../.."

model=${MODEL-openai/whisper-base}
work=${IMAGE_TEST_FOLDER:-$PWD/build/image}
shape=${SHAPE-base}
base=$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)
image=localhost/tickertape-test
driver=vfs  # copies the whole root for each step, but works everywhere
! grep -qw overlay /proc/filesystems || driver=${IMAGE_TEST_DRIVER:-overlay}
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver")
export BUILDAH_ISOLATION=chroot

have_tools() {
    local missing=() package
    for package in buildah debootstrap; do command -v $package >/dev/null || missing+=("$package"); done
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
}

make_base() {
    local container
    echo "making the base image"
    if [ ! -e "$work/base.done" ]; then  # one that was interrupted is made anew
        rm -rf "$work/base"
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/base.log"
        touch "$work/base.done"
    fi
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/base/etc/pip.conf"
    [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$work/base/etc/pip.conf"
    rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/* "$work"/base/usr/share/{doc,man,locale}
    container=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$container" "$work/base" / >/dev/null
    "${buildah[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    "${buildah[@]}" commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$work/base" "$work/base.done"
}

build() {
    local before
    before=$("${buildah[@]}" images --quiet --no-trunc "$image" 2>/dev/null || true)
    echo "building the image; what the steps print is in $work/build.log"
    "${buildah[@]}" bud --layers --pull-never --format docker --file deploy/Dockerfile --tag "$image" \
        --build-arg MODEL="$model" --build-arg REVISION="$(git rev-parse HEAD)" . >"$work/build.log" 2>&1 \
        || { tail -n 30 "$work/build.log" >&2; exit 1; }
    "${buildah[@]}" inspect --type image "$image" >"$work/image.json"
    "${buildah[@]}" rm --all >/dev/null
    "${buildah[@]}" from --pull-never --name tickertape-trial "$image" >/dev/null
    if [ -n "$before" ] && [ "$before" != "$("${buildah[@]}" images --quiet --no-trunc "$image")" ]; then
        "${buildah[@]}" rmi "$before" >/dev/null || true  # a gigabyte that nobody asks for any more
    fi
}

# A prepared checkpoint of a shape with random weights, made once; the folder's name is in $made.
make_model() {
    local model=$work/model-$shape
    made=$model.done
    [ ! -e "$made" ] || return 0
    make --silent .venv/.core
    rm -rf "$model"
    .venv/bin/python -c "from pathlib import Path; from tests.checkpoint_factory import make_checkpoint
make_checkpoint(Path('$model'), '$shape')"
    XDG_CACHE_HOME=$work/prepared .venv/bin/tickertape prepare "$model" --compute-type int8 --quiet >"$made.part"
    mv "$made.part" "$made"
}

# A program of ours on the root of what was built, in namespaces of its own, which take all that runs in them with them.
apart() {
    local program=$1 result=$2 root
    shift 2
    trap '"${buildah[@]}" umount tickertape-trial >/dev/null' EXIT
    root=$("${buildah[@]}" mount tickertape-trial)
    unshare --net --mount --pid --fork --kill-child --mount-proc \
        python3 -m "$program" "$root" "$work/image.json" "$work/$result" "$@"
}

clean() {
    local place
    awk -v below="$work/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts | tac | while read -r place; do
        umount "$place"
    done
    rm -rf "$work"
}

[ $# -gt 0 ] && [ "$1" = clean ] || mkdir -p "$work"
case "${1-}" in
"" | again)
    if [ "${1-}" != again ]; then
        have_tools
        "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1 || make_base
        build
    fi
    echo "trying the image"
    apart tests.image.check result.json
    ;;
load)
    make_model
    apart tests.image.load "load-$shape.json" "$(cat "$made")"
    ;;
clean)
    clean
    ;;
*)
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
