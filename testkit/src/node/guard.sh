# Stands outside a node and takes away what the node leaves, however its owner ended: it reads a pipe
# that only the owner holds open, so a kill -9 or a Ctrl-C of the owner is seen as end of file.
#
# Called as: bash guard.sh INSTANCE DIRECTORY PIDS (the directory holds init.sh; PIDS is `own` or
# `host`), in a process group of its own, so that a terminal's Ctrl-C passes it by.
set -u
trap '' INT HUP TERM QUIT
instance=$1
directory=$2
pids=${3:-own}
namespace=--pid
[ "$pids" = own ] || namespace=

# Without the redirection a shell gives a background command /dev/null to read.
unshare --mount --net $namespace --ipc --uts --fork --kill-child=KILL --propagation private -- \
	bash "$directory/init.sh" "$instance" "$directory" "$pids" <&0 &
holder=$!
exec >/dev/null

# Held open while it is looked for who has these mounts: the kernel gives the number of a namespace that is gone to the
# next one, which may be another node's.
if [ "$pids" = host ]; then
	until [ -s "$directory/mounts" ] || ! kill -0 "$holder" 2>/dev/null; do sleep 0.02; done
	exec 4<"/proc/$holder/ns/mnt" || true
fi

while read -r _; do :; done

# The shell would tell that the holder was killed.
exec 3>&2 2>/dev/null
# In a PID namespace all goes with its first process. Else whoever has the node's mounts goes one by one, and what
# is in containers with their cgroups.
if [ "$pids" = host ]; then
	read -r mounts <"$directory/mounts"
	for attempt in 1 2 3; do
		for process in /proc/[0-9]*; do
			if [ -n "$mounts" ] && [ "$(readlink "$process/ns/mnt")" = "$mounts" ]; then
				kill -KILL "${process#/proc/}"
			fi
		done
	done
fi
kill -KILL "$holder"
wait "$holder"
exec 4<&-

# Field 5 of a mountinfo line is the mount point; the type follows the lone dash.
hierarchies() {
	while read -r line; do
		case ${line##* - } in
		cgroup\ * | cgroup2\ *)
			set -- $line
			echo "$5"
			;;
		esac
	done </proc/self/mountinfo
}

# Frozen processes of cgroup v1 do not die before they are thawed.
remove_cgroup() {
	find "$1" -name freezer.state -exec sh -c 'echo THAWED >"$1"' _ {} \;
	if [ -e "$1/cgroup.kill" ]; then echo 1 >"$1/cgroup.kill"; fi
	find "$1" -depth -type d -exec rmdir {} \;
	[ ! -d "$1" ]
}

if [ "$pids" = host ]; then
	[ ! -e "/sys/fs/cgroup/$instance.slice/cgroup.kill" ] || echo 1 >"/sys/fs/cgroup/$instance.slice/cgroup.kill"
	systemctl stop "$instance.slice"
fi
for attempt in $(seq 100); do
	left=0
	for hierarchy in $(hierarchies); do
		for group in "$hierarchy/$instance" "$hierarchy/$instance.slice"; do
			[ ! -d "$group" ] || remove_cgroup "$group" || left=1
		done
	done
	[ $left = 0 ] && break
	sleep 0.05
done
rm -rf --one-file-system "$directory" 2>&3
