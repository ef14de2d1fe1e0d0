#!/bin/sh
# Installs the packages that are marked "linker" in packages.txt: without a linker there is no xtask
# that could install the others.
set -eu
packages=$(awk '$2 == "linker" { print $1 }' "$(dirname "$0")/packages.txt")
echo "No linker here: installing $(echo $packages) by apt-get."
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
