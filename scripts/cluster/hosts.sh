#!/bin/bash
# hosts.sh HOSTS PROGRAM ARGUMENT... - one run on several machines without a scheduler, over ssh:
#
#     scripts/cluster/hosts.sh hosts.txt build/ehr-train --data DATASET --model large --out RUN --resume auto
#
# HOSTS has a line "NAME slots=GPUS" for every machine.  A rank is started for every slot and takes the GPU of its local
# number.  The program, DATASET and RUN lie under the same path on all machines, and ssh gets from this one to the others
# without a question.  kill -USR1 of this script's process saves at the same step everywhere and ends.
#
#   EHR_NETWORK   the network between the machines, as 10.1.0.0/16 or as the name of the interface; needed where they
#                 have several and not all lead to each other
#   EHR_RSH       instead of ssh: a command that is given HOST and a command line
#   EHR_PATIENCE  seconds for mpirun to end after the ranks on this machine have (60)
set -u
if [ $# -lt 2 ] || [ "$1" = --help ]; then
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"
    [ "${1:-}" = --help ] && exit 0
    exit 2
fi
hosts=$1
program=$(command -v "$2")
shift 2
fail() {
    echo "hosts.sh: $1" >&2
    exit "${2:-1}"
}
[ -r "$hosts" ] || fail "cannot read $hosts: a file with a line 'NAME slots=GPUS' for every machine" 2
[ -n "$program" ] || fail "there is no such program here; it must lie under the same path on all machines" 2
program=$(realpath "$program")
rsh=${EHR_RSH:-ssh -o BatchMode=yes}

ranks=0
while read -r name slots rest || [ -n "$name" ]; do # the last line may have no end
    case $name in '' | '#'*) continue ;; esac
    [[ $slots =~ ^slots=([1-9][0-9]*)$ ]] || fail "$hosts: '$name $slots $rest' is not 'NAME slots=GPUS'" 2
    ranks=$((ranks + BASH_REMATCH[1]))
    # One that cannot be reached, or has another program, is better found now than by a timeout.
    there=$($rsh "$name" sha256sum "$program" < /dev/null 2>&1) || fail "$name: $there"
    [ "${there%% *}" = "$(sha256sum "$program" | cut -d ' ' -f 1)" ] || fail "$name has another $program: copy this one there"
done < "$hosts"
[ $ranks -gt 0 ] || fail "$hosts names no machine" 2

# Threads that spin would take the cores of the ranks beside them.  What mpirun does not hand on by itself:
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}
pass=()
for name in LD_LIBRARY_PATH OMP_NUM_THREADS GOMP_SPINCOUNT CUDA_VISIBLE_DEVICES $(compgen -e NCCL_) $(compgen -e EHR_); do
    [ -n "${!name+set}" ] && pass+=(-x "$name")
done
net=()
[ -n "${EHR_NETWORK:-}" ] && net=(--mca btl_tcp_if_include "$EHR_NETWORK" --mca oob_tcp_if_include "$EHR_NETWORK")
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-30}
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mpirun --hostfile "$hosts" -np $ranks --bind-to none --mca plm_rsh_agent "$rsh" "${net[@]}" "${pass[@]}" "$program" "$@" &
launcher=$!
trap 'kill -USR1 $launcher' USR1
trap 'kill -TERM $launcher' TERM INT

ranks_here() { # whether mpirun has a rank on this machine
    local p
    for p in $(cat /proc/$launcher/task/*/children 2> /dev/null); do
        [ "$(cat "/proc/$p/comm" 2> /dev/null)" = "$(basename "$program" | cut -c 1-15)" ] && return 0
    done
    return 1
}
# When the way to a machine is gone, its ranks' peers end by themselves (--timeout), but mpirun would wait for that machine
# for as long as TCP does, a quarter of an hour.
seen=0 gone=0 ended=0
while kill -0 $launcher 2> /dev/null; do
    if ranks_here; then seen=1 gone=0; else gone=$((gone + seen)); fi
    if [ $gone -gt ${EHR_PATIENCE:-60} ]; then
        echo "hosts.sh: the ranks on this machine have ended, but mpirun hears nothing from another machine: ended it as well" >&2
        kill -9 $launcher
        ended=1
        break
    fi
    sleep 1 &
    wait $!
done
wait $launcher 2> /dev/null
rc=$?
[ $ended = 1 ] && exit 1
exit $rc
