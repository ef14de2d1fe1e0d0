#!/bin/bash
# The service's life under systemd, with pods that count; needs a machine that may be spoilt.
# Arguments: package of before, package of now, an OCI layout with busybox named "busybox:1", number of pods.
# `make service` builds these and calls it in the guest.
set -euo pipefail
before=$1 now=$2 layout=$3 pods=${4:-20}
unit=/etc/systemd/system/coracle.service.d
say() { echo "== $(cut -d' ' -f1 /proc/uptime) s: $*"; }
fail() { echo "FAILED: $*"; systemctl status coracle --no-pager | tail -30; journalctl -u coracle -n 30 --no-pager; exit 1; }
until_true() { local what=$1; shift; for _ in $(seq 120); do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 1; done; fail "waited in vain for $what"; }
named() { grep -lsx "$1" /proc/[0-9]*/comm | wc -l; }
main_pid() { systemctl show coracle -p MainPID --value; }
counters() { for p in /proc/[0-9]*; do if { tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null | grep -q '^/bin/sh -c i=0'; then echo "${p#/proc/} $(cut -d' ' -f22 "$p/stat")"; fi; done | sort; }
same() { counters >/tmp/now; cmp -s /tmp/then /tmp/now || { diff /tmp/then /tmp/now || true; fail "$1: not the same processes"; }; say "$1: $(wc -l </tmp/now) containers run on, the same processes"; }
answers() { coracle pods; }
answering() { until_true "the daemon to answer" answers; }

say "install the package of before"
dpkg -i "$before"
answering
coracle import "$layout"
for n in $(seq "$pods"); do
    coracle run --detach --name "count-$n" busybox:1 -- /bin/sh -c 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.2; done' >/dev/null
done
counters >/tmp/then
test "$(wc -l </tmp/then)" = "$pods" || fail "$(wc -l </tmp/then) counters of $pods"
say "$pods pods count; keepers $(named coracle-keeper), shims $(named coracle-shim)"

say "upgrade"
old=$(sha256sum </usr/bin/coracle)
dpkg -i "$now"
answering
test "$(systemctl show coracle -p Type --value) $(systemctl is-active coracle)" = "notify active" || fail "not up"
systemctl show coracle -p StatusText
same upgrade
coracle run --detach --name new-one busybox:1 -- /bin/sh -c 'sleep 100000' >/dev/null
say "keepers $(named coracle-keeper), shims $(named coracle-shim)"
# Two commits may make the same program, when only texts lie between them.
test "$old" = "$(sha256sum </usr/bin/coracle)" || test "$(named coracle-keeper)" = 2 || fail "one keeper a program"
coracle exec count-1 -- /bin/echo "exec in an old pod works"
stat -c '%A %U:%G %n' /run/coracle /run/coracle/coracle.sock

say "security"
systemd-analyze security coracle --no-pager | tail -1
systemctl reload coracle && say "reload is answered"

say "watchdog"
mkdir -p $unit
printf '[Service]\nWatchdogSec=5s\nTimeoutAbortSec=3s\n' >$unit/quick.conf
systemctl daemon-reload && systemctl restart coracle
answering
sleep 12
hung=$(main_pid)
test "$(systemctl show coracle -p NRestarts --value)" = 0 || fail "a daemon that answers was ended"
kill -STOP "$hung"
bitten() { local pid; pid=$(main_pid); test "$pid" != 0 && test "$pid" != "$hung"; }
until_true "the watchdog to bite" bitten
answering
journalctl -u coracle --no-pager | grep -i watchdog | tail -1
same "watchdog"
rm $unit/quick.conf

say "remove and install again"
dpkg -r coracle
test ! -e /usr/bin/coracle || fail "the program is still there"
same remove
dpkg -i "$now"
answering
same "installed again"

say "downgrade"
dpkg -i "$before"
answering
same downgrade
coracle exec count-2 -- /bin/echo "exec after the downgrade works"
dpkg -i "$now"
answering
same "upgrade again"

say "logs"
for n in $(seq "$pods"); do
    coracle logs "count-$n" | awk -v n="$n" '$0 != "line " (NR-1) { print "count-" n ": " $0 " at " NR-1; bad=1; exit } END { if (bad || NR < 20) exit 1 }' || fail "a line of count-$n is lost"
done
say "no line of $pods logs is lost; count-1 has $(coracle logs count-1 | wc -l)"

say "purge while pods run"
dpkg -P coracle 2>&1 | tail -3
test -d /var/lib/coracle || fail "the state of running pods was removed"
same purge

say "install, end the pods, purge"
dpkg -i "$now"
answering
coracle pods --all -o name | xargs -r coracle rm >/dev/null
dpkg -P coracle
left() { ls -d /var/lib/coracle /run/coracle /run/coracle-instances /etc/coracle 2>/dev/null; ip -o link show coracle0 2>/dev/null; nft list tables | grep coracle; ls /run/netns 2>/dev/null; find /sys/fs/cgroup -path '*coracle*' -type d; grep -lsxE 'coracle.*' /proc/[0-9]*/comm; true; }
clean() { test -z "$(left)"; }
until_true "a purge to leave nothing, but there is: $(left | tr '\n' ' ')" clean
say "PASSED"
