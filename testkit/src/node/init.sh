# The first process of a node's PID namespace: makes the node's own view of the machine, says
# "ready PID" (its pid as the host sees it), then reaps orphans until its owner is gone.
#
# Called as: bash init.sh INSTANCE DIRECTORY PIDS, where PIDS is `own` or `host`: whose PID namespace it has
set -eu
instance=$1
directory=$2
pids=$3
step=start
trap 'echo "failed: $step"' ERR

# The old /proc still tells the host's pid.
read -r host_pid _ </proc/self/stat

# The guard's, to tell whose process is whose.
readlink /proc/self/ns/mnt >"$directory/mounts"

step="make the mounts private"
mount --make-rprivate /
step="mount /proc"
mount -t proc proc /proc
step="mount /sys of the node's own network namespace, keeping the cgroup hierarchies"
mkdir -p "$directory/cgroup"
mount --rbind /sys/fs/cgroup "$directory/cgroup"
# Where profiles of AppArmor are loaded, on a machine that has it.
security=
if mountpoint -q /sys/kernel/security; then security=yes; fi
mount -t sysfs sysfs /sys
mount --rbind "$directory/cgroup" /sys/fs/cgroup
umount -l "$directory/cgroup"
if [ "$security" ]; then mount -t securityfs securityfs /sys/kernel/security; fi

step="mount /run"
if [ "$pids" = host ]; then
	for name in systemd dbus; do
		mkdir -p "$directory/$name"
		mount --rbind "/run/$name" "$directory/$name"
	done
fi
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
if [ "$pids" = host ]; then
	step="keep the way to systemd"
	for name in systemd dbus; do
		mkdir -p "/run/$name"
		mount --rbind "$directory/$name" "/run/$name"
		umount -l "$directory/$name"
	done
	# What a node logs is not the machine's.
	mount -t tmpfs tmpfs /run/systemd/journal
fi

# What the node writes below /etc and /var/lib stays in the node and goes with it.
step="mount the node's layer over /etc and /var/lib"
mkdir -p "$directory/upper"
mount -t tmpfs -o mode=755 tmpfs "$directory/upper"
mkdir -p /var/lib
for name in etc var/lib; do
	mkdir -p "$directory/upper/$name/upper" "$directory/upper/$name/work"
	mount -t overlay overlay "/$name" \
		-o "lowerdir=/$name,upperdir=$directory/upper/$name/upper,workdir=$directory/upper/$name/work"
done
step="empty the node's configuration directories"
rm -rf /etc/cni /etc/coracle /etc/containerd /etc/crictl.yaml /var/lib/cni
mkdir -p /etc/cni/net.d /etc/containerd/certs.d

# Like systemd does on a real host: mount propagation has its say inside, and nothing gets out.
step="make the mounts shared within the node"
mount --make-rshared /

step="name the host and raise lo"
echo "$instance" >/proc/sys/kernel/hostname
ip link set lo up

trap - ERR
set +e
echo "ready $host_pid"
exec >/dev/null
# End of file means that the owner is gone, however it went; with this process goes all of the node.
while read -r _; do :; done
exit 0
