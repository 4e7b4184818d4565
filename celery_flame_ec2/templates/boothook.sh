#!/bin/sh
# First thing cloud-init runs, at every boot. Static: no value of any user is in here. Arms what powers this machine
# off when nothing else works, before anything else. What it would print is lost (cloud-init captures it), so what it
# has to say goes through a unit.
umask 022
run=/run/flame
units=/run/systemd/system
mkdir -p "$run" "$units/poweroff.target.d"
chmod 0700 "$run"

# Says why and, in every case, leads to power-off. Quoted here-documents: the shell expands nothing in them.
cat >"$run/report" <<'REPORT'
# As root, with the release's env: nothing of that may say which programs run here, or with which libraries.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset LD_LIBRARY_PATH LD_PRELOAD
run=/run/flame
last_line() { # of what the release printed
    journalctl --sync
    journalctl --quiet --no-pager --output cat --lines 1 "_SYSTEMD_INVOCATION_ID=$INVOCATION_ID" | tr -d '\000-\037\177'
}
failed() { # the first cause is the cause; what follows from it is not said
    mkdir "$run/said" 2>/dev/null || return 0
    step=$(cat "$run/step" 2>/dev/null)
    cause=$(cat "$run/cause" 2>/dev/null)
    printf 'flame: boot failed: %s: %s\n' "${step:-boothook}" "${cause:-$1}"
}
case $1 in
bootstrap)
    [ "$SERVICE_RESULT" = success ] && exit
    [ -e "$run/step" ] || needs="; $(python3 -V 2>&1), and it needs 3.9 or newer"
    failed "the bootstrap ended ($EXIT_CODE $EXIT_STATUS)$needs"
    ;;
release)
    case $SERVICE_RESULT in watchdog | timeout) EXIT_CODE="$SERVICE_RESULT, $EXIT_CODE" ;; esac
    if [ -e "$run-release/hello" ]; then
        printf 'flame: ended (%s %s)\n' "$EXIT_CODE" "$EXIT_STATUS"
    else
        failed "the start command ended ($EXIT_CODE $EXIT_STATUS): $(last_line 2>/dev/null)"
    fi
    # The unit's SuccessAction and FailureAction would do; two ways off are better than one.
    systemctl --no-block poweroff
    ;;
# Of a program that never says hello: its start is enough, and it may end well all the same, or at max_lifetime.
begun) systemctl --no-block stop flame-hello.timer ;;
over) case $SERVICE_RESULT in success | timeout) touch "$run-release/hello" ;; esac ;;
lifetime) echo 'flame: ended (older than max_lifetime)' ;;
*) failed "$1" ;;
esac
REPORT

unit() { cat >"$units/$1"; }

power_off() { # the unit's name; why, as the report is told; what else its [Unit] says
    unit "flame-$1.service" <<UNIT
[Unit]
DefaultDependencies=no
SuccessAction=poweroff
FailureAction=poweroff
$3
[Service]
Type=oneshot
ExecStart=/bin/sh $run/report "$2"
TimeoutStartSec=10
StandardOutput=journal+console
SyslogIdentifier=flame
UNIT
}
power_off off 'the boothook refused'
power_off lifetime lifetime
power_off deadman 'no hello from the worker within boot_timeout' \
    'ConditionPathExists=!/run/flame-release/hello'
# Waits until cloud-init is over, well or badly: by then the bootstrap has begun, or it never will.
power_off unstarted 'cloud-init is over and the bootstrap has not begun' \
    'After=cloud-init.service cloud-init-network.service cloud-final.service flame-bootstrap.service
ConditionPathExists=!/run/flame/step'

# Until the bootstrap has started timers with the times of this runner. They trigger the services above.
unit flame-deadman.timer <<'UNIT'
[Unit]
DefaultDependencies=no
[Timer]
OnActiveSec=90
AccuracySec=1
UNIT

bootstrap() { # the unit's name; what the bootstrap is told; what else its [Unit] says
    unit "flame-$1.service" <<UNIT
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
FailureAction=poweroff
$3
[Service]
Type=oneshot
ExecStart=/usr/bin/env python3 -I -S $run/bootstrap.py $2
ExecStopPost=/bin/sh $run/report bootstrap
TimeoutStartSec=infinity
Nice=-10
TimeoutStopSec=5
StandardOutput=journal+console
SyslogIdentifier=flame
UNIT
}
bootstrap bootstrap
# The rest of it, where a launch template's user data has to prepare the host first.
bootstrap prepared prepared After=cloud-final.service

# A service that does not stop must not keep the machine on. The bootstrap allows the release its shutdown_timeout.
unit poweroff.target.d/flame.conf <<'UNIT'
[Unit]
JobTimeoutSec=90
JobTimeoutAction=poweroff-force
UNIT

systemctl daemon-reload
systemctl --no-block start flame-deadman.timer flame-unstarted.service

# A kernel that panics would stop, and be billed. One that reboots ends here below.
panic=/proc/sys/kernel/panic
[ "$(cat $panic)" != 0 ] || echo 10 >$panic

refuse() {
    echo "$1" >"$run/cause"
    systemctl --no-block start flame-off.service
    exit 1
}
# A reboot ends the instance: what it ran was handed back to the queue, and nobody waits for it.
booted=/var/lib/cloud/instance/flame-booted
[ ! -e "$booted" ] || refuse 'this instance was booted before, and a runner runs once'
mkdir -p "$booted"
command -v python3 >/dev/null || refuse 'the image has no python3'

# The interpreter that the first line of the next part names. Without it, nothing of that part ever runs.
cat >"$run/install" <<'INSTALL'
cp "$1" /run/flame/bootstrap.py && exec systemctl --no-block start flame-bootstrap.service
INSTALL
