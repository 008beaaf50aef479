#!/bin/bash
# test_lora_cli.sh BUILD - low-rank adapters from the command line: they start at the parent, resume bit for bit on any
# number of ranks, are merged by whoever loads them, and are refused on another model, of another rank, or damaged.
. "$(dirname "$0")/shell.sh"
local_ranks
train=$build/ehr-train infer=$build/ehr-infer
"$build/tests/test_train" --make-dataset "$work/data" 80 || { not_ok "make a dataset"; exit 1; }
cd "$work" || exit 1
shape="--data data --layers 2 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 64 --batch 12 --seed 7"
"$train" $shape --out base --steps 6 > base.log 2>&1 && "$train" $shape --out other --steps 2 > other.log 2>&1
verdict $? "train a parent" base.log

given="--data data --init base --batch 12 --seed 7"
lora="$given --lora-rank 4"
run() { # run OUT FLAGS...: its output in OUT.log
    local out=$1
    shift
    "$train" $lora --out "$out" "$@" > "$out.log" 2>&1
}
field() { sed -n "s/^{\"step\":\\([0-9]*\\),.*\"$2\":\\([-0-9.e]*\\)[,}].*/\\1 \\2/p" "$1/log.jsonl"; } # field RUN NAME
scores() { "$infer" score "$@" --data data --split tuning --threads 1 2> score.log | grep '^loss'; }

# ---- training ----------------------------------------------------------------------------------------------------------
"$train" $given --out full --steps 1 > full.log 2>&1 && run a --steps 8 --checkpoint-every 4 &&
    [ -n "$(field full loss)" ] && [ "$(field full loss | head -n 1)" = "$(field a loss | head -n 1)" ]
verdict $? "the first loss is the parent's" a.log
[ "$(field a loss | sed -n 2p)" != "$(field a loss | head -n 1)" ] && grep -q 'lora .*rank 4, alpha 8, on q,k,v,o,gate,up,down' a.log
verdict $? "the banner names the adapters" a.log
rate() { sed -n 's/.*"learning-rate": \([-+.e0-9]*\),*$/\1/p' "$1/latest/trainer.json"; }
run told --steps 1 --learning-rate 0.002
awk -v a="$(rate a)" -v full="$(rate full)" -v told="$(rate told)" 'BEGIN { exit a != 3 * full || full != 0.003 || told != 0.002 }'
verdict $? "adapters take three times the learning rate of weights, unless told otherwise" a/latest/trainer.json
ls a/latest/ > ls.log && [ ! -e a/latest/model.safetensors ] && [ -e a/latest/adapter_model.safetensors ] &&
    grep -q '"base_model_name_or_path": "base/step-6"' a/latest/adapter_config.json && grep -q '"r": 4' a/latest/adapter_config.json
verdict $? "a checkpoint is a peft folder that names the parent's own folder" ls.log
[ "$(stat -c %s a/latest/optimizer-00001-of-00001.safetensors)" -lt "$(($(stat -c %s base/latest/optimizer-00001-of-00001.safetensors) / 4))" ]
verdict $? "moments are of the adapters alone"
mkdir b && cp -r a/step-4 a/log.jsonl b && run b --steps 8 --checkpoint-every 4 --resume auto && diff -r a/step-8 b/step-8 > diff.log 2>&1
verdict $? "8 steps = 4 + resume, bit for bit" b.log
run c --steps 8 --micro-batch 3 --recompute block && paste <(field a loss) <(field c loss) |
    awk '{ d = $2 - $4; n++; if (d < -0.001 || d > 0.001) bad = 1 } END { exit bad || n < 8 }'
verdict $? "accumulation and recomputation give the same losses" c.log
run d --steps 2 --lora-targets q,v --lora-alpha 4 && grep -q 'q_proj.lora_A' d/latest/adapter_model.safetensors && ! grep -q 'k_proj\|down_proj' d/latest/adapter_model.safetensors
verdict $? "adapters on some projections" d.log
run e --steps 2 --train-embeddings && grep -q 'embed_tokens' e/latest/adapter_model.safetensors && [ "$(scores e)" != "$(scores a)" ] && grep -q embed_tokens e/latest/adapter_config.json &&
    grep -q ensure_weight_tying e/latest/adapter_config.json && grep -q 'base_model.model.lm_head.weight' e/latest/adapter_model.safetensors
verdict $? "embeddings are trained and saved whole when asked for" e.log
"$train" $lora --dry-run > dry.log 2>&1 && grep -q 'optimizer of the adapters: 0.[0-9]* MB of moments and gradients, where all parameters would have [1-9]' dry.log
verdict $? "the dry run says what is saved" dry.log

# ---- ranks -------------------------------------------------------------------------------------------------------------
if mpirun -np 2 "$train" $lora --dry-run > mpi.log 2>&1 && ! grep -q 'no MPI' mpi.log; then
    timeout 120 mpirun -np 2 "$train" $lora --out r2 --steps 8 --checkpoint-every 4 > r2.log 2>&1 && paste <(field a loss) <(field r2 loss) |
        awk '{ d = $2 - $4; n++; if (d < -0.001 || d > 0.001) bad = 1 } END { exit bad || n < 8 }'
    verdict $? "2 ranks give the losses of one" r2.log
    mkdir r2b && cp -r r2/step-4 r2/log.jsonl r2b && timeout 120 mpirun -np 2 "$train" $lora --out r2b --steps 8 --checkpoint-every 4 --resume auto > r2b.log 2>&1 &&
        diff -r r2/step-8 r2b/step-8 > diff.log 2>&1
    verdict $? "2 ranks: 8 steps = 4 + resume, bit for bit" r2b.log
    mkdir r1 && cp -r r2/step-4 r2/log.jsonl r1 && run r1 --steps 8 --checkpoint-every 4 --resume auto
    verdict $? "what 2 ranks began 1 goes on with" r1.log
else
    echo "skip - ranks: no MPI here"
fi

# ---- merged and apart --------------------------------------------------------------------------------------------------
apart=$(scores a)
"$infer" export a --dtype f32 --out merged/ > export.log 2>&1 && grep -q 'merged into its base' export.log && [ "$(scores merged)" = "$apart" ] &&
    [ ! -e merged/adapter_config.json ]
verdict $? "the exported whole model scores the same" export.log
"$infer" export a --merge-lora=no --out alone/ > export.log 2>&1 && cmp alone/adapter_model.safetensors a/latest/adapter_model.safetensors &&
    [ ! -e alone/optimizer-00001-of-00001.safetensors ] && [ "$(scores alone)" = "$apart" ]
verdict $? "the exported adapter, too, without optimizer state" export.log
"$infer" info a > info.log 2>&1 && grep -q 'LoRA of rank 4, alpha 8, on q k v o gate up down' info.log
verdict $? "info says what it is" info.log
mkdir moved && mv base moved && refused 1 "it changes is not at 'base/step-6': give that folder with --base" scores a || grep -q 'give that folder with --base' score.log
verdict $? "a parent that moved is asked for" score.log
[ "$(scores a --base moved/base)" = "$apart" ]
verdict $? "--base says where it is" score.log
mv moved/base . && mkdir -p deep/er && (cd deep/er && "$infer" score ../../a --data ../../data --split tuning --threads 1 2> score.log | grep -q "^$apart")
verdict $? "the parent is found from another folder" deep/er/score.log
tuning() { sed -n 's/^tuning split, nats a token: loss \([0-9.]*\).*/\1/p' "$1"; }
"$train" --data data --init merged --batch 12 --seed 7 --lora-rank 2 --out onward --steps 1 --learning-rate 1e-12 > onward.log 2>&1 &&
    [ -n "$(tuning a.log)" ] && [ "$(tuning a.log)" = "$(tuning onward.log)" ] && [ "$(tuning a.log)" != "$(tuning base.log)" ]
verdict $? "merged, it has the loss that it was trained to apart, and is a parent in its turn" onward.log

# ---- at another institution ----------------------------------------------------------------------------------------------
# A parent trained on one cohort; another with codes of its own, tokenised with the parent's vocabulary and theirs behind it.
"$build/ehr-data" synth --patients 60 --seed 3 --risk-samples 4 --out here > site.log 2>&1 && "$build/ehr-data" tokenize here/events.h5 --out here/d >> site.log 2>&1 &&
    "$train" --data here/d --layers 2 --d-model 64 --heads 1 --kv-heads 1 --d-ff 128 --seq-len 128 --batch 8 --seed 7 --steps 4 --eval-tokens 2000 --out theirs >> site.log 2>&1 &&
    "$build/ehr-data" synth --patients 150 --seed 4 --risk-samples 4 --out there >> site.log 2>&1 &&
    "$build/ehr-data" tokenize there/events.h5 --vocabulary theirs/latest/vocabulary.json --append-codes --out there/d >> site.log 2>&1
verdict $? "another institution tokenises with the parent's vocabulary, its own codes behind it" site.log
site="--data there/d --init theirs --batch 8 --seed 7 --lora-rank 4 --steps 4 --checkpoint-every 2 --eval-tokens 2000"
refused 2 'tokens that --init theirs does not have, and with --lora-rank nothing would be learnt of them: add --train-embeddings' "$train" $site --out tuned
verdict $? "refused: adapters alone where there are new codes" refused.log
"$train" $site --train-embeddings --out tuned > tuned.log 2>&1 && mkdir onward2 && cp -r tuned/step-2 tuned/log.jsonl onward2 &&
    "$train" $site --train-embeddings --out onward2 --resume auto > onward2.log 2>&1 && diff -r tuned/step-4 onward2/step-4 > diff.log 2>&1
verdict $? "with their embeddings they are tuned to, and resumed bit for bit" tuned.log
there() { "$infer" score "$1" --data there/d --split tuning --limit 3 --threads 1 2> score.log | grep '^loss'; }
"$infer" export tuned --dtype f32 --out tuned-whole > export.log 2>&1 && [ -n "$(there tuned)" ] && [ "$(there tuned)" = "$(there tuned-whole)" ]
verdict $? "and the whole model that goes into use there scores the same" export.log

# ---- refused -----------------------------------------------------------------------------------------------------------
while IFS='|' read -r name code words flags; do
    "$train" $flags > refused.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -e "$words" refused.log && [ ! -e x ]
    verdict $? "refused: $name" refused.log
done << END
rank 0|2|--lora-rank must be between 1 and|$given --out x --lora-rank 0
a negative rank|2|--lora-rank must be between 1 and|$given --out x --lora-rank -3
a rank beyond the weights|2|--lora-rank 65: between 1 and 64|$given --out x --lora-rank 65
no such projection|2|'dwon', the nearest is 'down'|$lora --out x --lora-targets q,dwon
a rank without --init|2|--lora-rank needs --init|--data data --out x --lora-rank 4
targets without a rank|2|--lora-targets belongs to --lora-rank|$given --out x --lora-targets q
adapters as a parent|2|holds adapters: merge them first|--data data --init a --batch 12 --lora-rank 4 --out x
another rank on resuming|2|trained with --lora-rank 4, this command says 8|$given --lora-rank 8 --out a --steps 9 --resume auto
none on resuming|2|trained with --lora-rank 4, this command says 0|$given --out a --steps 9 --resume auto
other targets on resuming|2|trained with --lora-targets q,k,v,o,gate,up,down, this command says q|$lora --lora-targets q --out a --steps 9 --resume auto
another alpha on resuming|2|trained with --lora-alpha 8, this command says 4|$lora --lora-alpha 4 --out a --steps 9 --resume auto
another parent on resuming|2|give the folder they were begun on|--data data --init other --batch 12 --seed 7 --lora-rank 4 --out a --steps 9 --resume auto
END
infer_refuses() { # infer_refuses NAME WORDS ARGUMENTS...
    local name=$1 words=$2
    shift 2
    refused 1 "$words" "$infer" score "$@" --data data --split tuning
    verdict $? "refused: $name" refused.log
}
infer_refuses "the wrong base" 'was trained on the model with sha256' a --base other
infer_refuses "a base that is nowhere" 'is no model' a --base nowhere
refused 2 'belongs to an adapter' "$infer" score base --base other --data data
verdict $? "refused: --base of a whole model" refused.log
broken() { # broken NAME: a copy of the checkpoint without checksums, to be spoilt
    rm -rf "$1" && cp -r a/step-8 "$1" && rm "$1/SHA256SUMS"
}
cp -r a/step-8 flipped && byte=$(od -An -tu1 -j 20000 -N 1 flipped/adapter_model.safetensors) &&
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of=flipped/adapter_model.safetensors bs=1 seek=20000 conv=notrunc status=none
infer_refuses "a flipped bit" 'adapter_model.safetensors is damaged' flipped
broken cut && head -c 9000 a/step-8/adapter_model.safetensors > cut/adapter_model.safetensors
infer_refuses "a truncated adapter" 'cut/adapter_model.safetensors' cut
broken empty && : > empty/adapter_model.safetensors
infer_refuses "an empty adapter" 'empty/adapter_model.safetensors' empty
broken gone && rm gone/adapter_model.safetensors
infer_refuses "no adapter beside its configuration" 'gone/adapter_model.safetensors' gone
broken rank && sed -i 's/"r": 4/"r": 8/' rank/adapter_config.json
infer_refuses "another rank than the tensors'" 'base model and rank 8 ask for' rank
broken dora && sed -i 's/"use_dora": false/"use_dora": true/' dora/adapter_config.json
infer_refuses "a kind of adapter we do not have" 'use_dora is on' dora
broken text && echo '{"peft_type": "LORA", "r": 4' > text/adapter_config.json
infer_refuses "a configuration that is no JSON" 'adapter_config.json is not a JSON object' text
broken part && sed -i 's/lora_B\(.weight\)/lora_C\1/' part/adapter_model.safetensors
infer_refuses "half a pair" 'lora_B.weight is missing' part
exit $failed
