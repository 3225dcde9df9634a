#!/bin/busybox sh
# Process 1 of the kernel matrix's virtual machines.
#
# It runs the agent once per case given on the kernel's command line (spandrel.cases=syscall,auto), with
# a Python web server and one curl as the traced programs, and writes what happened to the second serial
# port, one fact a line. It must never judge: the host knows what each kernel owes. Its last line is
# `verdict finished`; whatever keeps it from getting there is a failure because that line is missing.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
stty -F /dev/ttyS1 raw
exec 3>/dev/ttyS1
ifconfig lo 127.0.0.1 up
sysctl -q -w net.core.bpf_jit_kallsyms=1

say() { echo "$*" >&3; }
# Each jitted kernel program has a symbol of its own.
programs() { grep -c '\[bpf\]' /proc/kallsyms; }
# wait_for SECONDS COMMAND...: until the command succeeds.
wait_for() {
    left=$(($1 * 10)); shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}
# Port 8000 in state LISTEN; asked of the kernel, since a connection would be traffic.
listening() { grep -q ' 0100007F:1F40 00000000:0000 0A ' /proc/net/tcp; }
ready() { grep -q '^ready' /agent.log || ended; }
# Ended but not waited for yet, it is a zombie, which a signal still reaches.
ended() { ! grep -q '^State:[[:space:]]*[^Z]' /proc/$agent/status 2>/dev/null; }
complete() { [ "$(grep -o '"spanId"' /out.jsonl 2>/dev/null | wc -l)" -ge 2 ]; }

say "kernel $(uname -r)"
for backend in $(sed -n 's/.*spandrel\.cases=\([^ ]*\).*/\1/p' /proc/cmdline | tr , ' '); do
    say "case $backend"
    say "programs-before $(programs)"
    rm -f /out.jsonl
    : > /agent.log
    spandrel --backend "$backend" --export file:/out.jsonl 2>/agent.log &
    agent=$!
    wait_for 120 ready
    if grep -q '^ready' /agent.log; then
        say "programs-during $(programs)"
        cd /srv
        python3 -m http.server --bind 127.0.0.1 8000 >/server.log 2>&1 &
        server=$!
        cd /
        wait_for 30 listening
        say "answer $(curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:8000/hello 2>&1)"
        # Two are right; the second that follows is there for a third, wrong one to show itself.
        wait_for 15 complete
        sleep 1
        kill -TERM $agent
        wait_for 20 ended || say "hangs after SIGTERM"
    fi
    kill -KILL $agent 2>/dev/null
    wait $agent
    say "status $?"
    [ -n "$server" ] && kill $server && wait $server
    server=
    sed 's/^/log /' /agent.log >&3
    [ -f /out.jsonl ] && sed 's/^/traces /' /out.jsonl >&3
    # Programs are freed after a grace period.
    sleep 1
    say "programs-after $(programs)"
done
say "verdict finished"
# `panic=-1` and `-no-reboot`: if this fails, the end of process 1 ends the machine all the same.
poweroff -f
