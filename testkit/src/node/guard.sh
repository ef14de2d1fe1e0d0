# Stands outside a node and takes away what the node leaves, however its owner ended: it reads a pipe
# that only the owner holds open, so a kill -9 or a Ctrl-C of the owner is seen as end of file.
#
# Called as: bash guard.sh INSTANCE DIRECTORY (which holds init.sh), in a process group of its own,
# so that a terminal's Ctrl-C passes it by.
set -u
trap '' INT HUP TERM QUIT
instance=$1
directory=$2

# Without the redirection a shell gives a background command /dev/null to read.
unshare --mount --net --pid --ipc --uts --fork --kill-child=KILL --propagation private -- \
	bash "$directory/init.sh" "$instance" "$directory" <&0 &
holder=$!
exec >/dev/null

while read -r _; do :; done

# The shell would tell that the holder was killed.
exec 3>&2 2>/dev/null
kill -KILL "$holder"
wait "$holder"

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
