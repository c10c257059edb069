#!/bin/sh
# Puts the release of this image on the node that the container runs on, and stays: a DaemonSet's container that ends is started again.
# It needs the node's process namespace and its rights. /config/barewired.toml is the nodes' configuration.
set -eu
folder=/run/barewire-release
node=/proc/1/root$folder
mkdir -p "$node"
cp /release/barewire /release/barewired /release/barewire-cni /release/barewire-ebpf.o "$node"
cp /config/barewired.toml "$node/node.toml"
# All of the node's namespaces: its files, its service manager, its network.
nsenter --target 1 --mount --uts --ipc --net --pid --root --wd -- \
    "$folder/barewire" install --from "$folder" --config "$folder/node.toml" --other-lists "${OTHER_LISTS:-refuse}"
rm -r "$node"
exec sleep infinity
