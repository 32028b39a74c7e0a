#!/bin/sh
# One launch of a job on a node: takes the fence, runs the workload, leaves its exit code behind.
#
# run.sh calls it with the command as arguments and these variables:
#   TRACEBED_SUBMISSION_DIR, TRACEBED_SUBMISSION (its number), TRACEBED_FENCE (file), TRACEBED_ROOT (code)
#   TRACEBED_LIMIT_S, TRACEBED_WARN_S (a time limit that no scheduler enforces, and how long before it to warn; or empty)
# Every launch writes in a folder of its own, launches/<name>/: a stale copy can never overwrite what a newer one wrote.
# Which launch counts is said by the fence. Output goes to the log, which whoever starts this has opened.
# Exit codes of its own: 96 the exit file could not be written, 97 no place to work in, 98 fenced out.
set -u
job=$TRACEBED_SUBMISSION_DIR
name=$(date +%s)-$(uname -n)-$$
launch=$job/launches/$name
held="$TRACEBED_SUBMISSION $name"

say() { printf 'tracebed: %s\n' "$*"; }

if [ -e "$job/cancelled" ]; then
    say "the end of this submission was asked for before it began; this copy does nothing"
    exit 98
fi
exec 9>"$TRACEBED_FENCE.lock" && flock 9 || { say "cannot lock $TRACEBED_FENCE.lock"; exit 97; }
newest=$(cat "$TRACEBED_FENCE" 2>/dev/null) || newest=
if [ "${newest%% *}" != "" ] && [ "${newest%% *}" -gt "$TRACEBED_SUBMISSION" ]; then
    say "submission $TRACEBED_SUBMISSION was replaced by ${newest%% *}; this copy does nothing"
    exit 98
fi
if [ "$(cat "$job/launches/${newest#* }/exit" 2>/dev/null)" = 0 ]; then
    say "this submission has succeeded before; this copy does nothing"
    exit 98
fi
mkdir -p "$launch/artifacts" || { say "cannot write to $launch"; exit 97; }
printf '%s\n' "$held" >"$TRACEBED_FENCE.$name" && mv -f "$TRACEBED_FENCE.$name" "$TRACEBED_FENCE" ||
    { say "cannot write $TRACEBED_FENCE"; exit 97; }
exec 9>&-

set -a
. "$job/environment"
set +a
export TRACEBED_LAUNCH="$launch" TRACEBED_FENCE TRACEBED_FENCE_HELD="$held" TRACEBED_SUBMISSION_DIR

{
    printf 'host=%s\nnode=%s\nstarted_at=%s\n' "$(uname -n)" "${SLURMD_NODENAME:-${TRACEBED_NODE:-$(uname -n)}}" "$(date +%s)"
    printf 'boot=%s\nscheduler_job=%s\n' "$(cat /proc/sys/kernel/random/boot_id)" "${SLURM_JOB_ID:-}"
    printf 'gpus=%s\n' "${CUDA_VISIBLE_DEVICES:-}"
} >"$launch/started.part" && mv -f "$launch/started.part" "$launch/started" || { say "cannot write to $launch"; exit 97; }

out_of_memory_kills() {  # of this cgroup, version 2 or 1; 0 where the kernel does not count them
    cut -d: -f2,3 /proc/self/cgroup | while IFS=: read -r kind path; do
        case ",$kind," in
        ,,) cat "/sys/fs/cgroup$path/memory.events" 2>/dev/null ;;
        *,memory,*) cat "/sys/fs/cgroup/memory$path/memory.oom_control" 2>/dev/null ;;
        esac
    done | sed -n 's/^oom_kill \([0-9]*\)$/\1/p' | sort -n | tail -n 1
}

started_here() {  # every process that descends from the workload, also one with a session of its own
    grep -lzsxF "TRACEBED_LAUNCH=$launch" /proc/[0-9]*/environ | cut -d/ -f3
}

stop() {  # whoever ends the job asks the workload first
    [ -n "${workload:-}" ] && kill -TERM "$workload" 2>/dev/null
}
warn() {  # the time limit is near: the workload may save
    : >"$launch/warned"
    say "the time limit is near: the workload is asked to save and end"
    stop
}
trap stop TERM INT
trap warn USR1

cd "$TRACEBED_ROOT" || { printf 'the code is not at %s on %s' "$TRACEBED_ROOT" "$(uname -n)" >"$launch/error"; exit 97; }
kills_before=$(out_of_memory_kills)
"$@" &
workload=$!

me=$$
(   # heartbeat, and the time limit where no scheduler has one
    beats=0
    begun=$(date +%s)
    while kill -0 "$me" 2>/dev/null; do
        beats=$((beats + 1))
        printf '%s\n' "$beats" >"$launch/heartbeat"
        # Waiting for a GPU does not count; under a scheduler its own clock runs from the start.
        [ -e "$launch/working" ] || [ -n "${SLURM_JOB_ID:-}" ] || begun=$(date +%s)
        if [ -n "${TRACEBED_LIMIT_S:-}" ]; then
            ran=$(($(date +%s) - begun))
            if [ "$ran" -ge "$TRACEBED_LIMIT_S" ]; then
                : >"$launch/warned"
                kill -KILL $(started_here)
            elif [ "$ran" -ge $((TRACEBED_LIMIT_S - TRACEBED_WARN_S)) ] && [ ! -e "$launch/warned" ]; then
                kill -USR1 "$me"
            fi
            sleep 1
        else
            sleep 5
        fi
    done
) >/dev/null 2>&1 </dev/null &
beater=$!

code=129
while :; do  # a signal ends wait early: go on until the workload is gone
    wait "$workload"
    code=$?
    kill -0 "$workload" 2>/dev/null || break
done
kill "$beater" 2>/dev/null
left=$(started_here)
[ -n "$left" ] && kill -KILL $left 2>/dev/null

kills=$(out_of_memory_kills)
[ "${kills:-0}" -gt "${kills_before:-0}" ] && : >"$launch/out_of_memory"
printf '%s\n' "$code" >"$launch/exit.part" && [ -s "$launch/exit.part" ] && mv -f "$launch/exit.part" "$launch/exit" ||
    { say "cannot write the exit code $code to $launch"; exit 96; }
exit "$code"
