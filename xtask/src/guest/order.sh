# Runs an order inside, as if in the workspace on the host: its sources and tests lie at the same path.
export PATH=/carried/bin:/carried/peers:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LANG=C.UTF-8
# Translated code is some ten times slower.
export CORACLE_PATIENCE=6
. /carried/environment

mkdir -p "$WORKSPACE" /var/workspace/upper /var/workspace/work
mount -t overlay overlay -o lowerdir=/carried/workspace,upperdir=/var/workspace/upper,workdir=/var/workspace/work "$WORKSPACE"
cd "$WORKSPACE" || exit

# critest loads its AppArmor profiles through sudo, which this machine of root's has no other use for.
printf '#!/bin/sh\nexec "$@"\n' >/usr/local/sbin/sudo
chmod 755 /usr/local/sbin/sudo

e2e() { xtask e2e "$@"; }
critest() { xtask critest "$@"; }
bench() { xtask bench "$@"; }

. /carried/order
