#!/bin/bash
# test_cuda_cli.sh BUILD - ehr-train and ehr-infer over emulated CUDA (BUILD/emulator/), from the outside: runs, resumes, two
# ranks on one GPU, futures, risks, diagnoses and explanations on the GPU, and what is said when there is no GPU, an old one, or
# too little memory.
# On a machine with a GPU, tests/gpu/run.sh gives the real programs: EHR_PROGRAMS=DIR.
. "$(dirname "$0")/shell.sh"
local_ranks
programs=${EHR_PROGRAMS:-$build/emulator}
train=$programs/ehr-train infer=$programs/ehr-infer data=$build/ehr-data
emulated=1
[ -n "$EHR_PROGRAMS" ] && emulated=0
if [ ! -x "$train" ]; then
    skip_all "the CUDA backend from the outside" "no $train (no CUDA headers here)"
fi
cd "$work" || exit 1

field() { sed -n "s/^{\"step\":\\([0-9]*\\),.*\"$2\":\\([-0-9.e]*\\)[,}].*/\\1 \\2/p" "$1/log.jsonl"; } # field RUN NAME: "step value" lines
close_to() { # close_to RUN RUN NAME FIRST LATER: the first step's values differ by less than FIRST, the others by less than LATER
    paste <(field "$1" "$3") <(field "$2" "$3") | awk -v first="$4" -v later="$5" '
        { n++; limit = $1 == 1 ? first : later; d = $2 - $4; if (d < 0) d = -d
          if ($1 != $3 || d > limit) { print "step " $1 ": " $2 " and " $4; bad = 1 } }
        END { exit bad || n == 0 }'
}
same_field() { [ -n "$(field "$1" "$3")" ] && [ "$(field "$1" "$3")" = "$(field "$2" "$3")" ]; }
column() { awk -F, -v name="$2" '/^#/ { next } !at { for (i = 1; i <= NF; i++) if ($i == name) at = i; next } { print $at }' "$1"; }

# ---- data: timelines with known risks; a model small enough for an emulated step -------------------------------------------
{
    "$data" synth --patients 60 --risk-samples 4 --out events &&
        "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out data &&
        "$data" label events/events.h5 --data data --outcome visit_30d=VISIT//OUT --horizon 30d --index last-year
} > made.log 2>&1 || { not_ok "make a dataset" made.log; exit 1; }
small="--data data --layers 1 --d-model 64 --heads 1 --kv-heads 1 --head-dim 64 --d-ff 64 --seq-len 64 --seed 7
       --eval-tokens 256 --batch 4"
run() { # run OUT FLAGS...: on the GPU; its output in OUT.log
    local out=$1
    shift
    "$train" $small --device cuda --out "$out" "$@" > "$out.log" 2>&1
}

# ---- what is said --------------------------------------------------------------------------------------------------------
if [ $emulated = 1 ]; then
    while IFS='|' read -r name emulate code words flags; do
        rm -rf bad
        EHR_EMULATE=$emulate "$train" $small --out bad --steps 1 $flags > said.log 2>&1
        rc=$?
        [ $rc = "$code" ] && grep -q -e "$words" said.log && [ "$(grep -c '^ehr-train: ' said.log)" -le 1 ]
        verdict $? "$name: exit $code" said.log
    done << 'ROWS'
no driver|driver=none|1|no NVIDIA driver.*--device cpu|--device cuda
a driver too old|driver=old|1|update the driver|--device cuda
a GPU too old|cc=75|1|compute capability 7.5, expected 8.0|--device cuda
no GPU, automatic|driver=none|0|computes in F32|--device auto
a GPU too old, automatic|cc=75|0|note: no GPU is used: .*compute capability 7.5|--device auto
too little memory for anything|memory=200K|1|no --micro-batch fits|--device cuda
products by a library that is not there|driver=ok|1|--matmul cublas|--device cuda --matmul cublas
bfloat16 without a GPU|driver=none|2|--dtype bf16: CPU|--dtype bf16
ROWS
    rm -rf bad
    EHR_EMULATE=memory=200K "$train" $small --device cuda --out bad --steps 1 --micro-batch 4 > said.log 2>&1
    kib=$(sed -n 's/.*a rank needs \([0-9.]*\) MiB.*/\1/p' said.log | awk '{ print int(0.95 * 1024 * $1) }')
    EHR_EMULATE=memory=${kib}K "$train" $small --device cuda --out bad --steps 1 --micro-batch 4 > said.log 2>&1
    fits=$(sed -n 's/.*what would fit: --micro-batch \([0-9]*\) .*/\1/p' said.log)
    [ -n "$fits" ] && EHR_EMULATE=memory=${kib}K "$train" $small --device cuda --out fits --steps 1 --micro-batch "$fits" > fits.log 2>&1
    verdict $? "too little memory for the batch: what is said to fit does" said.log
    EHR_EMULATE=driver=none "$infer" score nowhere --data data --device cuda > said.log 2>&1
    [ $? = 1 ] && grep -q 'nowhere' said.log
    verdict $? "ehr-infer: the first thing wrong is told" said.log
fi
"$train" $small --device cuda --dry-run --world 4 > dry.log 2>&1 && grep -q 'master .*over 4 ranks' dry.log &&
    grep -q 'weights .*BF16' dry.log && grep -q 'scratch' dry.log
verdict $? "dry run: the float master, weights in bfloat16, scratch" dry.log

# ---- one GPU -------------------------------------------------------------------------------------------------------------
steps="--steps 6 --checkpoint-every 3 --eval-every 3"
run a $steps --micro-batch 2 && grep -q 'computes in BF16' a.log
verdict $? "train" a.log
run b $steps --micro-batch 2 --graphs=no && diff -r a/step-6 b/step-6 > diff.log 2>&1
verdict $? "operation by operation gives the bytes of recorded passes" diff.log
mkdir c && cp -r a/step-3 a/log.jsonl c && run c $steps --micro-batch 2 --resume auto && diff -r a/step-6 c/step-6 > diff.log 2>&1
verdict $? "6 steps = 3 + resume, bit for bit" c.log
run d $steps --micro-batch 2 --recompute block && diff -r a/step-6 d/step-6 > diff.log 2>&1
verdict $? "rebuilding activations changes no bit" diff.log
run e $steps --micro-batch 4 && close_to a e loss 1e-9 0.01 > diff.log && same_field a e targets
verdict $? "fewer, larger passes give the same losses" diff.log
"$train" $small --device cpu --out f $steps --micro-batch 2 > f.log 2>&1 && close_to a f loss 0.01 0.03 > diff.log && same_field a f targets
verdict $? "bfloat16 gives the CPU's losses to its precision" diff.log
run g $steps --micro-batch 2 --dtype f32 && close_to g f loss 1e-5 1e-3 > diff.log
verdict $? "float on the GPU gives the CPU's losses to rounding" diff.log
"$train" $small --device cpu --out h --steps 8 --resume a/step-6 > h.log 2>&1 && [ -e h/step-8/model.safetensors ]
verdict $? "what a GPU saved goes on on a CPU" h.log

# ---- as on compute capability 9.0 ------------------------------------------------------------------------------------------
# Products by wgmma, attention and pages of attention_sm90.cu: other sums than those of sm_80, and so other roundings.
if [ $emulated = 1 ]; then
    hopper() { EHR_EMULATE=cc=90 "$@"; }
    hopper run h90 $steps --micro-batch 2 && grep -q 'sm_90' h90.log && close_to a h90 loss 1e-3 1e-3 > diff.log && same_field a h90 targets &&
        [ "$(field a loss)" != "$(field h90 loss)" ]
    verdict $? "as on 9.0: the losses of 8.0 to bfloat16's precision, by other kernels" diff.log
    mkdir o90 && cp -r h90/step-3 h90/log.jsonl o90 &&
        hopper run o90 $steps --micro-batch 2 --graphs=no --recompute block --resume auto && diff -r h90/step-6 o90/step-6 > diff.log 2>&1
    verdict $? "as on 9.0: recorded or not, kept or rebuilt, resumed or not, the same bytes" o90.log
fi

# ---- two ranks on one GPU --------------------------------------------------------------------------------------------------
if mpirun -np 2 "$train" $small --device cuda --dry-run > mpi.log 2>&1; then
    timeout 120 mpirun -np 2 "$train" $small --device cuda --out two $steps --micro-batch 2 > two.log 2>&1 &&
        grep -q 'note: 2 ranks share a GPU' two.log && close_to a two loss 1e-9 0.01 > diff.log && same_field a two targets
    verdict $? "2 ranks on one GPU give the losses of one" two.log
    mkdir two3 && cp -r two/step-3 two/log.jsonl two3 &&
        timeout 120 mpirun -np 2 "$train" $small --device cuda --out two3 $steps --micro-batch 2 --resume auto > two3.log 2>&1 &&
        diff -r two/step-6 two3/step-6 > diff.log 2>&1
    verdict $? "2 ranks on one GPU: resumed bit for bit" two3.log
    if [ $emulated = 1 ]; then
        mpirun -np 2 "$train" $small --device cuda --out bad --steps 1 --transport nccl > said.log 2>&1
        [ $? = 2 ] && grep -q -e '--transport nccl takes .*a GPU for every rank' said.log
        verdict $? "NCCL with more ranks than GPUs: exit 2" said.log
        EHR_EMULATE=devices=2 timeout 120 mpirun -np 2 "$train" $small --device cuda --out far --steps 1 --transport mpi > far.log 2>&1 &&
            ! grep -q 'share a GPU' far.log
        verdict $? "2 ranks take 2 GPUs when there are so many" far.log
    fi
else
    echo "skip - ranks on a GPU: $(grep -q 'no MPI' mpi.log && echo 'built without MPI' || echo 'mpirun does not work here')"
fi

# ---- inference -------------------------------------------------------------------------------------------------------------
"$infer" generate a --data data --device cuda --samples 3 --batch 1 --max-tokens 12 > g1.txt 2> g1.log &&
    "$infer" generate a --data data --device cuda --samples 3 --batch 3 --max-tokens 12 > g3.txt 2> g3.log && cmp g1.txt g3.txt &&
    grep -q 'simulated future 2' g1.txt && grep -q 'in BF16' g1.log
verdict $? "futures do not depend on the batch" g3.log
rows="--limit 3 --samples 4 --max-tokens 16 --labels data/labels/visit_30d.h5"
for n in 1 7 64; do "$infer" risk a --data data --device cuda $rows --batch $n --out r$n.csv > r$n.log 2>&1; done
cmp r1.csv r7.csv && cmp r1.csv r64.csv && [ "$(column r1.csv risk | wc -l)" = 3 ]
verdict $? "risks are the same bytes for batches of 1, 7 and 64" r64.log
"$infer" risk a --data data --device cuda $rows --batch 7 --graphs=no --out o7.csv > o7.log 2>&1 && cmp r7.csv o7.csv &&
    grep -q 'steps of decoding launched as a whole' r7.log && ! grep -q 'launched as a whole' o7.log
verdict $? "decoding operation by operation gives the bytes of recorded steps" o7.log
if [ $emulated = 1 ]; then
    hopper "$infer" risk a --data data --device cuda $rows --batch 1 --graphs=no --out h1.csv > h1.log 2>&1 &&
        hopper "$infer" risk a --data data --device cuda $rows --batch 7 --out h7.csv > h7.log 2>&1 &&
        cmp h1.csv h7.csv && [ "$(column h1.csv risk | wc -l)" = 3 ]
    verdict $? "as on 9.0: risks are the same bytes for batches of 1 and 7, recorded or not" h7.log
    many=${rows/--samples 4/--samples 64}
    "$infer" risk a --data data --device cuda $many --batch 4096 --out all.csv > small.log 2>&1 &&
        EHR_EMULATE=memory=4M "$infer" risk a --data data --device cuda $many --batch 4096 --out small.csv > small.log 2>&1 &&
        cmp all.csv small.csv && grep -q 'futures at a time, not --batch 4096' small.log
    verdict $? "too little memory for --batch futures: fewer at a time, and the same bytes" small.log
fi
"$infer" risk a --data data --device cuda --dtype f32 $rows --out gpu.csv > gpu.log 2>&1 &&
    "$infer" risk a --data data --device cpu $rows --out cpu.csv > cpu.log 2>&1 &&
    paste <(column gpu.csv risk) <(column cpu.csv risk) | awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 1e-4) bad = 1; n++ } END { exit bad || n != 3 }'
verdict $? "risks in float are the CPU's" gpu.log
for device in cuda cpu; do "$infer" score a --data data --device $device --limit 4 --out $device-score.csv > $device-score.log 2>&1; done
paste <(column cuda-score.csv loss_per_token) <(column cpu-score.csv loss_per_token) |
    awk '{ d = $1 - $2; if (d < 0) d = -d; if (d > 0.01) bad = 1; n++ } END { exit bad || n != 4 }'
verdict $? "losses in bfloat16 are close to the CPU's" cuda-score.log
ask="--data data --split train --limit 2 --samples 4 --max-asks 2 --max-tokens 8 --device cuda"
"$infer" diagnose a $ask --out d1.csv > d1.log 2>&1 && "$infer" diagnose a $ask --graphs=no --out d2.csv > d2.log 2>&1 &&
    "$infer" diagnose a $ask --batch 4 --out d3.csv > d3.log 2>&1 && cmp d1.csv d2.csv && cmp d1.csv d3.csv && [ "$(wc -l < d1.csv)" -gt 4 ]
verdict $? "diagnose: the same bytes recorded or not, and for another batch" d3.log
for device in cuda cpu; do
    {
        "$infer" explain a --data data --patient 2 --events 2 --samples 3 --max-tokens 12 --horizon 30d --device $device --dtype f32 &&
            "$infer" suggest a --data data --split train --patient 3 --samples 16 --max-tokens 12 --device $device --dtype f32
    } > $device-told.txt 2> told.log || break
done
paste -d '\n' cuda-told.txt cpu-told.txt | awk 'NR % 2 { n = split($0, gpu); next }
    { for (i = 1; i <= NF || i <= n; i++) { d = $i - gpu[i]; if ($i != gpu[i] && (d > 0.01 || d < -0.01 || d == 0)) bad = 1 } }
    END { exit bad || NR < 20 }'
verdict $? "explain and suggest in float tell what they tell on the CPU" told.log
exit $failed
