#!/bin/bash
# test_train_cli.sh BUILD - ehr-train from the outside: ranks, accumulation, kill and resume, signals, a full disk, bad
# usage.
. "$(dirname "$0")/shell.sh"
local_ranks
train=$build/ehr-train
"$build/tests/test_train" --make-dataset "$work/data" 80 || { not_ok "make a dataset"; exit 1; }
cd "$work" || exit 1

# A model small enough for a step in a few milliseconds.
small="--data data --layers 2 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 64 --batch 12 --seed 7"
have_mpi=1
mpirun -np 2 "$train" --data data --dry-run --batch 12 --seq-len 64 > mpi.log 2>&1 || have_mpi=0
grep -q 'no MPI' mpi.log && have_mpi=0

run() { # run RANKS OUT FLAGS...: waits; its output in OUT.log
    local ranks=$1 out=$2
    shift 2
    if [ "$ranks" = 1 ]; then "$train" $small --out "$out" "$@" > "$out.log" 2>&1
    else timeout 120 mpirun -np "$ranks" "$train" $small --out "$out" "$@" > "$out.log" 2>&1; fi
}
field() { sed -n "s/^{\"step\":\\([0-9]*\\),.*\"$2\":\\([-0-9.e]*\\)[,}].*/\\1 \\2/p" "$1/log.jsonl"; } # field RUN NAME: "step value" lines
# Same steps, and values that differ by less than LIMIT(step) = FIRST * 3^(step-1), capped at 0.02: rounding differs
# between numbers of ranks, and training amplifies it.
close_to() { # close_to RUN RUN NAME FIRST
    paste <(field "$1" "$3") <(field "$2" "$3") | awk -v first="$4" '
        { n++; limit = first * 3 ^ ($1 - 1); if (limit > 0.02) limit = 0.02; d = $2 - $4; if (d < 0) d = -d
          if ($1 != $3 || d > limit) { print "step " $1 ": " $2 " and " $4; bad = 1 } }
        END { exit bad || n == 0 }'
}
same_field() { [ -n "$(field "$1" "$3")" ] && [ "$(field "$1" "$3")" = "$(field "$2" "$3")" ]; }
wait_for() { # wait_for PATH PID: until it exists or the process ends
    while [ ! -e "$1" ] && kill -0 "$2" 2> /dev/null; do sleep 0.01; done
    [ -e "$1" ]
}
ranks_of() { cat /proc/"$1"/task/*/children 2> /dev/null; } # process ids of the ranks under an mpirun

# ---- usage -----------------------------------------------------------------------------------------------------------
while IFS='|' read -r name code words flags; do
    "$train" $flags > usage.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -e "$words" usage.log
    verdict $? "usage: $name" usage.log
done << 'EOF'
help|0|usage: |--help
no data|2|--data is missing|--out r
unknown flag|2|did you mean --seq-len|--data data --out r --seqlen 4
trailing junk|2|--seq-len takes|--data data --out r --seq-len 12x
a size that overflows|2|too large|--data data --out r --seq-len 99999999999999999999
rows that do not split|2|--batch 8 or --batch 12|--data data --out r --batch 10 --micro-batch 4
no such dataset|1|nowhere|--data nowhere --out r
dataset as output|2|a dataset|--data data --out data --steps 1
no GPU|1|--device cuda|--data data --out r --device cuda
head size|2|head_dim|--data data --out r --head-dim 48 --steps 1
EOF
"$train" --data data --dry-run --world 4 --batch 8 --seq-len 64 > dry.log 2>&1 && grep -q 'moments' dry.log && grep -q 'tokens/s' dry.log
verdict $? "dry run prints memory and speed" dry.log
"$train" --data data --dry-run --batch 8 --micro-batch 8 --seq-len 64 > dry.log 2>&1 && grep -q '; [0-9.]* more in memory of gradients)' dry.log &&
    awk '/^  activations /{own = $2; lent = $7} /^  all /{all = $2 * 1.048576} END {exit !(lent > 1 && (own + lent - all) ^ 2 < 0.04)}' dry.log &&
    "$train" --data data --dry-run --batch 8 --micro-batch 4 --seq-len 64 > dry.log 2>&1 && ! grep -q 'memory of gradients' dry.log
verdict $? "dry run: with one pass a step gradients lend their memory, with more they do not" dry.log

# ---- one process -----------------------------------------------------------------------------------------------------
short="--data data --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 1024 --batch 1 --eval-tokens 1024"
epoch_after() { sed -n 's/^ *"epoch": \([0-9]*\),$/\1/p' "$1/latest/trainer.json"; }
"$train" $short --epochs 1 --out epoch > epoch.log 2>&1 && [ "$(epoch_after epoch)" = 0 ] &&
    "$train" $short --steps $(($(sed -n 's/^done at step \([0-9]*\) .*/\1/p' epoch.log) + 1)) --out epoch --resume auto > epoch.log 2>&1 &&
    [ "$(epoch_after epoch)" = 1 ]
verdict $? "one epoch ends with its last row: the next step is of the second" epoch.log
"$train" $short --steps 2 --checkpoint-every 1 --out links > links.log 2>&1 && [ "$(readlink links/best)" = step-2 ] && ln -sfn step-1 links/best &&
    "$train" $short --steps 3 --checkpoint-every 1 --learning-rate 10 --out links --resume auto >> links.log 2>&1 &&
    grep -q '"best_step": 2,' links/step-3/trainer.json && [ "$(readlink links/best)" = step-2 ]
verdict $? "killed between a checkpoint and the link to it: the next save sets the link" links.log
run 1 a --steps 8 --micro-batch 12 && run 1 b --steps 8 --micro-batch 12
verdict $? "train" a.log
[ -L a/latest ] && [ -L a/best ] && [ -e a/step-8/trainer.json ] && [ -e a/summary.json ] && diff -r a/step-8 b/step-8 > diff.log 2>&1
verdict $? "the same run twice gives the same bytes" diff.log
run 1 c --steps 8 --micro-batch 3 && close_to a c loss 1e-5 > diff.log
verdict $? "accumulation gives the same losses" diff.log
run 1 a --steps 8
[ $? = 2 ] && grep -q 'already holds a run, up to step 8' a.log
verdict $? "a run is not overwritten" a.log
run 1 a --steps 8 --micro-batch 12 --resume auto && grep -q 'nothing left to do' a.log
verdict $? "a finished run has nothing left to do" a.log
"$train" ${small/--seed 7/--seed 8} --out a --steps 9 --resume auto > a.log 2>&1
[ $? = 2 ] && grep -q 'trained with --seed 7, this command says 8' a.log
verdict $? "another seed cannot continue a run" a.log
run 1 s --steps 12 --micro-batch 12 --resume a/step-8 && grep -q '"parent": "a/step-8"' s/step-12/trainer.json
verdict $? "another run's checkpoint can be continued and is named as parent" s.log
given="--data data --batch 12 --seed 7" # what --init leaves to say
"$train" $given --init a --out i --steps 3 --learning-rate 1e-12 --weight-decay 0 --eval-tokens 0 > i.log 2>&1 &&
    "$build/ehr-infer" score i/latest --data data --split tuning > i.score 2>> i.log && "$build/ehr-infer" score a/latest --data data --split tuning > a.score 2>> i.log &&
    cmp i.score a.score && grep -q '"parent": "step-8 sha256:' i/step-3/trainer.json && grep -q '"parent_provenance"' i/step-3/trainer.json
verdict $? "--init starts from another model's weights and names it" i.log
"$train" $given --init a --out i --steps 4 --resume auto > i.log 2>&1 && grep -q '"parent": "step-8 sha256:' i/step-4/trainer.json &&
    grep -q '"parent_provenance"' i/step-4/trainer.json
verdict $? "a run that was begun so goes on, and still names its parent" i.log
"$build/ehr-infer" export a --max-file 100K --out half > half.log 2>&1 && ls half/model-00002-of-* > ls.log 2>&1 &&
    "$train" $given --init half --out h --steps 1 > h.log 2>&1
verdict $? "--init takes an export in bfloat16, in several files" h.log
"$train" $given --init a --out x --steps 1 --layers 3 > x.log 2>&1
[ $? = 2 ] && grep -q -e '--layers 3: --init .* has 2' x.log
verdict $? "--init refuses flags of another shape" x.log
cp -r half other && sed -i 's/"VISIT/"VISITE/' other/vocabulary.json && rm other/SHA256SUMS
grep -q VISITE other/vocabulary.json || sed -i '0,/"code": *"LAB/s//"code": "BAL/' other/vocabulary.json
"$train" $given --init other --out x --steps 1 > x.log 2>&1
[ $? = 2 ] && grep -q 'is .* in --init .* but .* in --data data' x.log && [ ! -e x ]
verdict $? "--init refuses a vocabulary that means something else" x.log
rm other/vocabulary.json && "$train" $given --init other --out y --steps 1 > y.log 2>&1 && grep -q 'whether they mean the same is not known' y.log
verdict $? "--init without a vocabulary says so" y.log
"$train" $given --init nowhere --out x --steps 1 > x.log 2>&1
[ $? = 1 ] && grep -q -e '--init nowhere is no model' x.log
verdict $? "--init without a model says so" x.log
run 1 n --steps 50 --learning-rate 1e6 --clip 0 --max-skipped 3
[ $? = 1 ] && grep -q '3 steps in a row.*epoch.*block.*row' n.log
verdict $? "non-finite steps are skipped, then the batch is named" n.log

# ---- disk full -------------------------------------------------------------------------------------------------------
run 1 full --steps 4
(ulimit -f 200; run 1 full --steps 8 --checkpoint-every 2 --resume auto)
rc=$?
[ $rc = 1 ] && grep -q 'warning: step 6 was not saved' full.log && [ "$(readlink full/latest)" = step-4 ] &&
    [ -e full/step-4/model.safetensors ] && [ -z "$(ls -d full/*.tmp full/step-8 2> /dev/null)" ]
verdict $? "disk full: a warning, the last good checkpoint stays, the end fails" full.log
run 1 full --steps 8 --resume auto && [ "$(readlink full/latest)" = step-8 ]
verdict $? "goes on once there is room" full.log

# ---- a flipped bit ----------------------------------------------------------------------------------------------------
cp -r a bent && byte=$(od -An -tu1 -j 100000 -N 1 bent/step-8/optimizer-00001-of-00001.safetensors) &&
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of=bent/step-8/optimizer-00001-of-00001.safetensors bs=1 seek=100000 conv=notrunc status=none
run 1 bent --steps 9 --resume auto
[ $? = 1 ] && grep -q 'bent/step-8/optimizer-00001-of-00001.safetensors is damaged' bent.log && (cd a/step-8 && sha256sum --quiet -c SHA256SUMS) > diff.log 2>&1
verdict $? "a checkpoint with a flipped bit is not resumed; sha256sum -c agrees with the list" bent.log
rm -rf bent && cp -r a bent && rm bent/step-8/SHA256SUMS && run 1 bent --steps 9 --resume auto && grep -q 'could not be checked' bent.log
verdict $? "a checkpoint without checksums is resumed, and that is said" bent.log

# ---- kill and resume, one process --------------------------------------------------------------------------------------
# So many steps that the kill comes before the last, even where this shell has to wait for its turn.
long="--steps 80 --checkpoint-every 20 --keep 4"
kill_and_resume() { # kill_and_resume RANKS OUT: killed after step 20 is saved; sets victim, the process
    local ranks=$1 out=$2 pid rc
    if [ "$ranks" = 1 ]; then "$train" $small --out "$out" $long > "$out.log" 2>&1 &
    else mpirun -np "$ranks" "$train" $small --out "$out" $long > "$out.log" 2>&1 & fi
    pid=$!
    wait_for "$out/step-20" $pid || { wait $pid; return 1; }
    victim=$pid
    [ "$ranks" = 1 ] || victim=$(ranks_of $pid | awk '{ print $NF }')
    kill -9 $victim
    wait $pid
    rc=$?
    cp "$out.log" "$out-killed.log"
    [ $rc != 0 ] && [ ! -e "$out/step-80" ] || return 1
    run "$ranks" "$out" $long --resume auto
}
run 1 whole1 $long && kill_and_resume 1 killed1 2> /dev/null && diff -r whole1/step-80 killed1/step-80 > diff.log 2>&1
verdict $? "80 steps = 20 + kill -9 + resume, bit for bit" killed1.log
[ "$(field whole1 loss)" = "$(field killed1 loss)" ] && same_field whole1 killed1 learning_rate
verdict $? "the resumed log reads like the uninterrupted one"

"$train" $small --out usr1 --steps 4000 --eval-every 4000 --checkpoint-every 4000 > usr1.log 2>&1 &
pid=$!
wait_for usr1/log.jsonl $pid && sleep 0.3 && kill -USR1 $pid
wait $pid
rc=$?
step=$(readlink usr1/latest)
[ $rc = 0 ] && [ -e "usr1/$step/trainer.json" ] && grep -q '"stopped_by": "SIGUSR1"' usr1/summary.json
verdict $? "SIGUSR1: a checkpoint at once, exit 0" usr1.log

if [ $have_mpi = 0 ]; then
    echo "skip - ranks: $(grep -q 'no MPI' mpi.log && echo 'built without MPI' || echo 'mpirun does not work here')"
    exit $failed
fi

# ---- ranks -----------------------------------------------------------------------------------------------------------
for n in 2 4; do # two passes a step, and one, where gradients lend their memory
    run $n "ranks$n" --steps 8 --micro-batch 3 && close_to a "ranks$n" loss 1e-5 > diff.log && same_field a "ranks$n" targets
    verdict $? "$n ranks give the losses of one" diff.log
done
run 2 again --steps 8 --micro-batch 3 && diff -r ranks2/step-8 again/step-8 > diff.log 2>&1
verdict $? "the same run on 2 ranks twice gives the same bytes" diff.log
run 2 whole2 $long && kill_and_resume 2 killed2 2> /dev/null && diff -r whole2/step-80 killed2/step-80 > diff.log 2>&1
verdict $? "2 ranks: 80 steps = 20 + kill -9 of one + resume, bit for bit" killed2.log
grep -q "rank 0 on [^,]*, step [2-8][0-9]: .*rank 1 (process $victim on [^)]*) has died" killed2-killed.log
verdict $? "2 ranks: the survivor names the dead rank" killed2-killed.log
for n in 1 3; do
    rm -rf "on$n" && mkdir "on$n" && cp -r whole2/step-20 whole2/log.jsonl "on$n" && run $n "on$n" $long --resume auto &&
        same_field whole2 "on$n" targets && same_field whole2 "on$n" tokens && same_field whole2 "on$n" epoch
    verdict $? "2 ranks, resumed on $n: the same data in the same order" "on$n.log"
done

# ---- signals to ranks ------------------------------------------------------------------------------------------------
stop_ranks() { # stop_ranks OUT SIGNAL WHOM(mpirun|rank)
    local pid rc target
    mpirun -np 2 "$train" $small --out "$1" --steps 4000 --eval-every 4000 --checkpoint-every 4000 > "$1.log" 2>&1 &
    pid=$!
    wait_for "$1/log.jsonl" $pid && sleep 0.3
    target=$pid
    [ "$3" = rank ] && target=$(ranks_of $pid | awk '{ print $NF }')
    kill "-$2" $target
    wait $pid
    rc=$?
    [ $rc = 0 ] && [ -e "$1/latest/trainer.json" ] && grep -q '"stopped_by": "' "$1/summary.json" && [ -z "$(ls -d "$1"/*.tmp 2> /dev/null)" ]
}
stop_ranks stop1 USR1 mpirun
verdict $? "SIGUSR1 to mpirun: all ranks save the same step, exit 0" stop1.log
stop_ranks stop2 TERM rank
verdict $? "SIGTERM to one rank: all ranks save the same step, exit 0" stop2.log
step=$(readlink stop2/latest)
run 2 stop2 --steps $((${step#step-} + 2)) --resume auto
verdict $? "and the run goes on from there" stop2.log
mpirun -np 2 "$train" --data nowhere --out r > both.log 2>&1
[ $? = 1 ] && [ "$(grep -c '^ehr-train: ' both.log)" = 1 ]
verdict $? "2 ranks: one failure is told once" both.log
exit $failed
