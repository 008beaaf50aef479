#!/bin/bash
# test_nccl.sh BUILD - ehr-train over NCCL, every rank with an emulated GPU of its own and the stand-in libnccl.so.2
# (BUILD/emulator/): the losses of one rank and of MPI, killed ranks, failed links, no library.
. "$(dirname "$0")/shell.sh"
local_ranks
train=$build/emulator/ehr-train
if [ ! -x "$train" ]; then
    skip_all "training over NCCL" "no $train (no CUDA headers here)"
fi
cd "$work" || exit 1
"$build/tests/test_train" --make-dataset data 40 || { not_ok "make a dataset"; exit 1; }
export EHR_EMULATE=devices=4 LD_LIBRARY_PATH=$build/emulator:$LD_LIBRARY_PATH

# In float, so that ranks differ by the order of sums only.
small="--data data --device cuda --dtype f32 --layers 1 --d-model 64 --heads 1 --kv-heads 1 --head-dim 64 --d-ff 64 --seq-len 32
       --batch 4 --micro-batch 1 --eval-tokens 64 --eval-every 1000 --seed 7"
run() { # run RANKS OUT FLAGS...: its output in OUT.log
    local ranks=$1 out=$2
    shift 2
    timeout 200 mpirun -np "$ranks" "$train" $small --out "$out" "$@" > "$out.log" 2>&1 < /dev/null
}
field() { sed -n "s/^{\"step\":\\([0-9]*\\),.*\"$2\":\\([-0-9.e]*\\)[,}].*/\\1 \\2/p" "$1/log.jsonl"; } # field RUN NAME: "step value" lines
close_to() { # close_to RUN RUN NAME LIMIT
    paste <(field "$1" "$3") <(field "$2" "$3") | awk -v limit="$4" '
        { n++; d = $2 - $4; if (d < 0) d = -d; if ($1 != $3 || d > limit) { print "step " $1 ": " $2 " and " $4; bad = 1 } }
        END { exit bad || n == 0 }'
}

if ! mpirun -np 2 "$train" $small --dry-run > mpi.log 2>&1; then
    skip_all "training over NCCL" "$(grep -q 'no MPI' mpi.log && echo 'built without MPI' || echo 'mpirun does not work here')"
fi

# ---- the same losses -------------------------------------------------------------------------------------------------------
run 1 one --steps 4
verdict $? "one rank" one.log
for ranks in 2 4; do
    run $ranks nccl$ranks --steps 4 --transport nccl && grep -q 'transport nccl' nccl$ranks.log &&
        close_to one nccl$ranks loss 2e-4 > diff.log && close_to one nccl$ranks grad_norm 2e-3 >> diff.log
    verdict $? "$ranks ranks over NCCL give the losses of one" nccl$ranks.log
done
run 2 mpi --steps 4 --transport mpi && close_to mpi nccl2 loss 2e-4 > diff.log
verdict $? "2 ranks over NCCL give the losses of MPI" mpi.log
run 2 again --steps 4 && grep -q 'transport nccl' again.log && cmp nccl2/step-4/model.safetensors again/step-4/model.safetensors
verdict $? "NCCL is taken by itself, and a second run gives the same bytes" again.log
run 1 alone --steps 4 --transport nccl && grep -q 'transport nccl' alone.log && cmp one/step-4/model.safetensors alone/step-4/model.safetensors
verdict $? "one rank over NCCL gives the bytes of no transport" alone.log
run 4 shared --steps 1 --transport auto && EHR_EMULATE=devices=2 run 4 mixed --steps 1 &&
    grep -q 'transport nccl' shared.log && grep -q 'transport mpi' mixed.log && close_to shared mixed loss 2e-4
verdict $? "4 ranks: NCCL with 4 GPUs, MPI with 2" mixed.log

# ---- failures --------------------------------------------------------------------------------------------------------------
start=$SECONDS
mpirun -np 4 "$train" $small --out dead --steps 100000 --transport nccl --timeout 20 > dead.log 2>&1 &
pid=$!
while [ "$(field dead loss 2> /dev/null | wc -l)" -lt 3 ] && kill -0 $pid 2> /dev/null; do sleep 0.1; done
victim=$(cat /proc/$pid/task/*/children | awk '{ print $2 }')
[ -n "$victim" ] && kill -9 "$victim"
wait $pid
[ $? != 0 ] && grep -qE "rank [0-3] on .*, step [0-9]+: rank [0-3] \(process $victim on" dead.log && [ $((SECONDS - start)) -lt 60 ]
verdict $? "kill -9 of a rank ends the others, who name it" dead.log
while IFS='|' read -r name fault words; do
    EHR_NCCL_FAULT=$fault run 2 bad --steps 50 --transport nccl --timeout 3
    rc=$?
    [ $rc != 0 ] && [ $rc != 124 ] && grep -qE "rank [01] on .*, step [0-9]+: $words" bad.log
    verdict $? "$name" bad.log
    rm -rf bad
done << 'ROWS'
a link that fails in the middle|rank=1,at=9,kind=error|NCCL, .*remote process exited or there was a network error
a rank that stops answering|rank=1,at=9,kind=stop|NCCL has not finished for 3 s: no answer for 3 s from rank 1 \(process
a collective that never ends|rank=0,at=5,kind=hang|NCCL has not finished collective .* although all ranks answer
ROWS
if ldconfig -p 2> /dev/null | grep -q 'libnccl.so.2 '; then echo "skip - no library: there is a real libnccl.so.2 here"; else
    LD_LIBRARY_PATH='' run 2 bad --steps 1 --transport nccl
    [ $? = 2 ] && [ "$(grep -c '^ehr-train: ' bad.log)" = 1 ] && grep -q 'libnccl.so.2: cannot open.*LD_LIBRARY_PATH.*--transport mpi' bad.log
    verdict $? "no library: one line, exit 2" bad.log
    LD_LIBRARY_PATH='' run 2 none --steps 1 && grep -q 'note: ranks exchange through host memory: .*libnccl.so.2' none.log
    verdict $? "no library, automatic: MPI, and why" none.log
fi
exit $failed
