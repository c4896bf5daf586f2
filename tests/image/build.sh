#!/usr/bin/env bash
# Build the image as deploy/Dockerfile says, then try it: `make image-test`, or `make image-test MODEL=./my-checkpoint`.
#
# Needs root on Debian and the package indexes, but neither Docker nor a registry: the base image is made by debootstrap
# and given the name that the Dockerfile asks for. Certificates and pip's settings of this machine go into that base.
set -euo pipefail
cd "$(dirname "$0")/../.."

model=${MODEL-checkpoint}
work=${IMAGE_TEST_FOLDER:-$PWD/build/image}
base=$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)
image=localhost/tickertape-test
buildah=(buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs)
export BUILDAH_ISOLATION=chroot

missing=()
for package in buildah debootstrap; do command -v $package >/dev/null || missing+=("$package"); done
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
mkdir -p "$work"

if ! "${buildah[@]}" inspect --type image "$base" >/dev/null 2>&1; then
    echo "making the base image"
    if [ ! -e "$work/base.done" ]; then  # one that was interrupted is made anew
        rm -rf "$work/base"
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" >"$work/base.log"
        touch "$work/base.done"
    fi
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$work/base/etc/pip.conf"
    rm -rf "$work"/base/var/cache/apt/* "$work"/base/var/lib/apt/lists/* "$work"/base/usr/share/{doc,man,locale}
    container=$("${buildah[@]}" from scratch)
    "${buildah[@]}" add --quiet "$container" "$work/base" / >/dev/null
    "${buildah[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    "${buildah[@]}" commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf "$work/base" "$work/base.done"
fi

echo "building the image"
"${buildah[@]}" bud --quiet --pull-never --format docker --file deploy/Dockerfile --tag "$image" \
    --build-arg MODEL="$model" --build-arg REVISION="$(git rev-parse HEAD)" . >/dev/null
"${buildah[@]}" inspect --type image "$image" >"$work/image.json"
container=$("${buildah[@]}" from --pull-never "$image")
trap '"${buildah[@]}" rm "$container" >/dev/null' EXIT
root=$("${buildah[@]}" mount "$container")

echo "trying the image"
unshare --net --mount --pid --fork --kill-child --mount-proc \
    python3 tests/image/check.py "$root" "$work/image.json" "$work/result.json"
