#!/bin/sh
# Starts jobs on a node so that they outlive whoever started them, and says how they are. Called by absolute path:
#
#   supervisor.sh start DIRECTORY [JOB]   start DIRECTORY/run.sh unless it was started; prints "pid ticks boot host".
#                                     With a JOB of Slurm: only where this connection was not adopted by another one
#                                     (exit code 75), with which it would be killed
#   supervisor.sh begin DIRECTORY     what `start` calls in a session of its own: become DIRECTORY/run.sh
#   supervisor.sh status              reads directories from standard input; prints "state<TAB>directory" for each:
#                                     alive, gone, rebooted (the node has another boot id than at the start), elsewhere
#                                     (started on a host of another name), or absent
#   supervisor.sh cancel DIRECTORY KEY   end the job and everything that descends from it
#
# A process is named by pid, start time (clock ticks since boot) and boot id: a pid alone may by now be somebody else's.
set -u
read -r boot </proc/sys/kernel/random/boot_id
host=$(uname -n)

ticks() {  # start time of a process; nothing when it is gone or a zombie (which keeps its start time)
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    [ "$1" != Z ] && [ "$1" != X ] && printf '%s' "${20}"
}

alive() {  # pid ticks
    [ "$(ticks "$1")" = "$2" ]
}

adopted_by() {  # the job of Slurm whose processes this one belongs to; nothing where there is none
    sed -n 's|.*/job_\([0-9]*\)\(/.*\)\{0,1\}$|\1|p' /proc/self/cgroup | head -n 1
}

start() {
    job=$(adopted_by)
    if [ -n "${2:-}" ] && [ -n "$job" ] && [ "$job" != "$2" ]; then
        printf 'this connection was adopted by job %s, not by %s\n' "$job" "$2" >&2
        exit 75
    fi
    exec 9>"$1/supervisor.lock" || exit 1
    flock 9 || exit 1
    if [ ! -s "$1/process" ]; then
        setsid /bin/sh "$0" begin "$1" </dev/null >>"$1/log" 2>&1 &
        exec 9>&-  # the new process holds the lock until it is on record, also when this one is killed meanwhile
        exec 9>"$1/supervisor.lock" || exit 1
        flock 9 || exit 1
    fi
    cat "$1/process"
}

begin() {
    printf '%s %s %s %s\n' "$$" "$(ticks "$$")" "$boot" "$host" >"$1/process.part" &&
        [ -s "$1/process.part" ] && mv "$1/process.part" "$1/process" || exit 1
    exec /bin/sh "$1/run.sh" 9>&-
}

state() {
    read -r pid began booted on 2>/dev/null <"$1/process" || { printf absent; return; }
    if [ "$on" != "$host" ]; then printf elsewhere
    elif [ "$booted" != "$boot" ]; then printf rebooted
    elif alive "$pid" "$began"; then printf alive
    else printf gone
    fi
}

descendants() {  # of a job, by a variable in their environment: also those that lead a session of their own
    grep -lzsxF "TRACEBED_JOB=$1" /proc/[0-9]*/environ | cut -d/ -f3
}

cancel() {
    [ -d "$1" ] || { printf 'there is no %s on %s\n' "$1" "$host" >&2; return 1; }
    exec 9>"$1/supervisor.lock" || exit 1
    flock 9 || exit 1  # a start that is under way has ended
    read -r pid began booted on 2>/dev/null <"$1/process" || return 0
    [ "$on" = "$host" ] || { printf 'it was started on %s, and this is %s\n' "$on" "$host" >&2; return 1; }
    [ "$booted" = "$boot" ] || return 0
    alive "$pid" "$began" && kill -TERM -- "-$pid" 2>/dev/null
    left=$(descendants "$2")
    [ -n "$left" ] && kill -TERM $left 2>/dev/null
    tries=0
    while [ "$tries" -lt 75 ]; do
        left=$(descendants "$2")
        [ -z "$left" ] && return 0
        [ "$tries" -ge 25 ] && kill -KILL $left 2>/dev/null
        tries=$((tries + 1))
        sleep 0.2
    done
    printf 'still there: %s\n' "$left" >&2
    return 1
}

case $1 in
start) start "$2" "${3:-}" ;;
begin) begin "$2" ;;
status) while IFS= read -r directory; do printf '%s\t%s\n' "$(state "$directory")" "$directory"; done ;;
cancel) cancel "$2" "$3" ;;
*) printf 'supervisor.sh: unknown verb %s\n' "$1" >&2; exit 2 ;;
esac
