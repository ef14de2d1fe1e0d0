#!/bin/bash
# The guest's agent: says "ready", then waits for one order (the machine's state is kept at this very
# place, and each run begins here), runs it, and ends its output with the order's token and exit status.
exec 3<>/dev/virtio-ports/ctl 4<>/dev/virtio-ports/out
systemctl is-system-running --wait >/dev/null
sync
echo ready >&3
read -r now token <&3

# Time stood still since the state was kept, and the disk that is carried in is another one.
date -s "@$now" >/dev/null
blockdev --flushbufs /dev/vdb
mkdir -p /carried
if mount -o ro /dev/vdb /carried; then
	cat /carried/seed >/dev/urandom
	bash /carried/order.sh </dev/null >&4 2>&1 3>&- 4>&-
else
	echo "cannot mount what is carried in" >&4
	false
fi
echo "$token $?" >&4
sleep infinity
