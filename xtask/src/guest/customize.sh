#!/bin/sh
# Run by mmdebstrap with the root file system's directory; the agent's files lie beside this script.
set -eu
root=$1
own=$(dirname "$0")
echo guest >"$root/etc/hostname"
echo "127.0.0.1 localhost guest" >"$root/etc/hosts"
echo "/dev/vda / ext4 rw,noatime 0 1" >"$root/etc/fstab"
install -m 755 "$own/agent.sh" "$root/usr/local/sbin/guest-agent"
install -m 644 "$own/agent.service" "$root/etc/systemd/system/guest-agent.service"
ln -sf ../guest-agent.service "$root/etc/systemd/system/multi-user.target.wants/guest-agent.service"

# What tests start by themselves, and what only takes time.
for unit in nginx apache2 apache-htcacheclean docker-registry getty@tty1 serial-getty@ttyS0 systemd-timesyncd \
	systemd-networkd-wait-online e2scrub_reap systemd-pstore; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
done
for timer in apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim logrotate man-db systemd-tmpfiles-clean; do
	ln -sf /dev/null "$root/etc/systemd/system/$timer.timer"
done
