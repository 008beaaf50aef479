#!/bin/bash
# test_cluster.sh BUILD - scripts/cluster/: ranks on two hosts that are network namespaces of this machine, with a rank's
# host name and address of its own and nothing but TCP between them; and the Slurm script with stand-ins for srun and
# scontrol.
. "$(dirname "$0")/shell.sh"
train=$build/ehr-train
export OMP_NUM_THREADS=1
# Not scripts/env.sh: that is for one machine.  What a test adds: more ranks than cores, and little patience.
unset OMPI_MCA_btl
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_odls_base_sigkill_timeout=1
a=ehr-a-$$ b=ehr-b-$$
cleanup() {
    for space in $a $b; do
        # shellcheck disable=SC2046
        kill -9 $(ip netns pids $space 2> /dev/null) 2> /dev/null
        ip netns del $space 2> /dev/null
    done
    rm -rf "$work"
}
trap cleanup EXIT
"$build/tests/test_train" --make-dataset "$work/data" 80 || { not_ok "make a dataset"; exit 1; }
cd "$work" || exit 1
small="--data $work/data --layers 2 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 64 --batch 12 --seed 7"
if ! mpirun -np 2 "$train" $small --dry-run > mpi.log 2>&1; then
    skip_all "clusters" "$(grep -q 'no MPI' mpi.log && echo 'built without MPI' || echo 'mpirun does not work here')"
fi

# ---- Slurm, with stand-ins ---------------------------------------------------------------------------------------------------
mkdir bin
cat > bin/srun << 'END'
#!/bin/bash
shift # --mpi=pmix
exec mpirun -np 2 --bind-to none "$@"
END
cat > bin/scontrol << 'END'
#!/bin/bash
echo "$*" >> scontrol.log
END
chmod +x bin/*
batch="env PATH=$work/bin:$PATH SLURM_JOB_ID=4711 SLURM_SUBMIT_DIR=$work EHR_TRAIN=$train bash $root/scripts/cluster/slurm.sbatch"
steps_of() { grep -c '"loss"' "$1/log.jsonl" 2> /dev/null; }
until_step() { # until_step RUN STEPS PID
    while [ "$(steps_of "$1")" -lt "$2" ] 2> /dev/null && kill -0 "$3" 2> /dev/null; do sleep 0.05; done
}
$batch $small --out first --steps 4000 --eval-every 100000 > slurm.log 2>&1 &
pid=$!
while [ ! -e first/log.jsonl ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
until_step first 5 $pid
kill -USR1 $pid
wait $pid
[ $? = 0 ] && [ "$(cat scontrol.log)" = 'requeue 4711' ] && grep -q '"stopped_by": "SIGUSR1"' first/summary.json && [ -e first/latest/trainer.json ]
verdict $? "Slurm: SIGUSR1 before the end of the time: saved, exit 0, queued again" slurm.log
step=$(sed -n 's/^ *"step": *\([0-9]*\).*/\1/p' first/summary.json)
rm -f scontrol.log
$batch $small --out second --steps 8 --checkpoint-every 4 > second.log 2>&1 && [ ! -e scontrol.log ] && [ -e second/step-8/trainer.json ]
verdict $? "Slurm: a run that is done is not queued again" second.log
$batch $small --out first --steps 4000 --dry-run > dry.log 2>&1 && $batch $small --out none --steps 8 --dry-run >> dry.log 2>&1 && [ ! -e scontrol.log ]
verdict $? "Slurm: a dry run is not queued again, whatever stopped the run before it" dry.log
rm -rf second/step-8 && $batch $small --out second --steps 8 --checkpoint-every 4 > third.log 2>&1 && grep -q 'resume .*step-4' third.log
verdict $? "Slurm: a job that starts again goes on from the newest checkpoint" third.log
$batch $small --steps 8 > said.log 2>&1
[ $? = 2 ] && grep -q -e '--out RUN is missing' said.log
verdict $? "Slurm: no --out: exit 2" said.log
$batch $small --out bad --steps 8 --learning-rate x > said.log 2>&1
[ $? = 2 ] && [ ! -e scontrol.log ]
verdict $? "Slurm: a run that fails is not queued again" said.log

# ---- two hosts ---------------------------------------------------------------------------------------------------------------
if ! { ip netns add $a && ip netns add $b && ip -n $a link add to-b type veth peer name to-a netns $b &&
    ip -n $a addr add 10.77.0.1/24 dev to-b && ip -n $b addr add 10.77.0.2/24 dev to-a &&
    ip -n $a link set lo up && ip -n $b link set lo up && ip -n $a link set to-b up && ip -n $b link set to-a up &&
    ip netns exec $a unshare --uts true; } > net.log 2>&1; then
    echo "skip - two hosts: network namespaces cannot be made here ($(tail -n 1 net.log))"
    exit $failed
fi
# What ssh would be.
cat > rsh << END
#!/bin/bash
host=\$1
shift
case \$host in
10.77.0.1) space=$a name=host-a ;;
10.77.0.2) space=$b name=host-b ;;
*) echo "ssh: connect to host \$host: no route" >&2; exit 255 ;;
esac
cd / && exec ip netns exec \$space unshare --uts bash -c "hostname \$name; \$*"
END
chmod +x rsh
printf '# two machines\n10.77.0.1 slots=1\n10.77.0.2 slots=1\n' > hosts.txt
hosts() { # hosts HOSTS ARGUMENT...: from host a
    ip netns exec $a unshare --uts env EHR_RSH="$work/rsh" EHR_NETWORK=10.77.0.0/24 EHR_PATIENCE=3 bash -c 'hostname host-a; exec "$@"' - \
        timeout -s KILL 100 "$root/scripts/cluster/hosts.sh" "$@"
}
mpirun -np 2 --mca btl self,vader "$train" $small --out one-host --steps 6 --checkpoint-every 3 > one-host.log 2>&1 &&
    hosts hosts.txt "$train" $small --out "$work/two-hosts" --steps 6 --checkpoint-every 3 > two-hosts.log 2>&1 &&
    diff -r one-host/step-6 two-hosts/step-6 > diff.log 2>&1
verdict $? "2 ranks on two hosts give the bytes of 2 ranks on one" two-hosts.log

hosts hosts.txt "$train" $small --out "$work/stopped" --steps 4000 --eval-every 100000 > stopped.log 2>&1 &
pid=$!
while [ ! -e stopped/log.jsonl ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
until_step stopped 5 $pid
for p in $(ip netns pids $a); do [ "$(cat /proc/"$p"/comm 2> /dev/null)" = hosts.sh ] && kill -USR1 "$p"; done
wait $pid
[ $? = 0 ] && grep -q '"stopped_by"' stopped/summary.json && ! grep -q '"stopped_by": null' stopped/summary.json &&
    [ "$(readlink stopped/latest)" = "step-$(sed -n 's/^ *"step": *\([0-9]*\).*/\1/p' stopped/summary.json)" ]
verdict $? "SIGUSR1 to hosts.sh: both hosts save at the same step and end" stopped.log

lose() { # lose NAME COMMAND WORDS: two ranks train, COMMAND happens to host b
    rm -rf lost
    hosts hosts.txt "$train" $small --out "$work/lost" --steps 100000 --eval-every 1000000 --timeout 4 > lost.log 2>&1 &
    pid=$!
    while [ ! -e lost/log.jsonl ] && kill -0 $pid 2> /dev/null; do sleep 0.05; done
    until_step lost 3 $pid
    local start=$SECONDS rc
    eval "$2"
    wait $pid
    rc=$?
    [ $rc != 0 ] && [ $rc != 137 ] && [ $((SECONDS - start)) -lt 40 ] && grep -qE "$3" lost.log
    verdict $? "$1" lost.log
}
rank_b() { for p in $(ip netns pids $b); do [ "$(cat /proc/"$p"/comm 2> /dev/null)" = ehr-train ] && echo "$p"; done; }
lose "a rank on the other host that hangs is named with its host" 'kill -STOP $(rank_b)' \
    'rank 0 on host-a, step [0-9]+: no answer for 4 s from rank 1 \(process [0-9]+ on host-b\)'
lose "the network goes away: the other host is named" 'ip -n $a link set to-b down' \
    'rank 0 on host-a, step [0-9]+: no answer for 4 s from rank 1 \(process [0-9]+ on host-b\)'
ip -n $a link set to-b up

# ---- what is said -------------------------------------------------------------------------------------------------------------
while IFS='|' read -r name lines code words; do
    printf "$lines" > bad.txt
    hosts bad.txt "$train" $small --out bad --steps 1 > said.log 2>&1
    [ $? = "$code" ] && grep -q -e "$words" said.log && [ "$(wc -l < said.log)" = 1 ]
    verdict $? "hosts: $name" said.log
done << 'ROWS'
a host that cannot be reached|10.77.0.1 slots=1\n10.77.0.9 slots=1|1|10.77.0.9: ssh: connect
a line without slots|10.77.0.1\n|2|is not 'NAME slots=GPUS'
no host|# none\n|2|names no machine
ROWS
exit $failed
