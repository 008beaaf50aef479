#!/bin/bash
# test_infer_cli.sh BUILD - ehr-infer from the outside: the same bytes whatever the batch, futures and their times, losses
# that agree with training, damaged checkpoints and labels, bad usage.
. "$(dirname "$0")/shell.sh"
. scripts/env.sh
export OMP_NUM_THREADS=2
data=$build/ehr-data infer=$build/ehr-infer python=$root/.venv/bin/python
cd "$work" || exit 1

column() { awk -F, -v name="$2" '/^#/ { next } !at { for (i = 1; i <= NF; i++) if ($i == name) at = i; next } { print $at }' "$1"; }
near() { awk -v a="$1" -v b="$2" -v limit="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a != "" && b != "" && d <= limit) }'; }

# ---- a dataset, labels and a small checkpoint; a second dataset with the same vocabulary, a third with another ----------
{
    "$data" synth --patients 300 --risk-samples 16 --out events && "$data" synth --patients 60 --seed 2 --risk-samples 0 --out events2 &&
        "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" tokenize events2/events.h5 --vocabulary events/vocabulary.json --out other &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN &&
        "$data" label events/events.h5 --data d --outcome visit_30d=VISIT//OUT --horizon 30d --index last-year &&
        "$data" label events2/events.h5 --data other --outcome visit_30d=VISIT//OUT --horizon 30d --index last-year &&
        "$data" tokenize events/events.h5 --values separate --out separate &&
        "$build/ehr-train" --data d --layers 1 --seq-len 256 --batch 4 --steps 24 --eval-every 24 \
            --eval-tokens 0 --out r
} > made.log 2>&1 || { not_ok "make a dataset and a checkpoint" made.log; exit 1; }
labels=d/labels/visit_30d.h5

# ---- usage and failures ------------------------------------------------------------------------------------------------
damage() { # damage NAME: a copy of the checkpoint to spoil
    mkdir -p "$1" && cp r/latest/*.json r/latest/model.safetensors "$1"
}
damage plain
damage cut && head -c 60000 r/latest/model.safetensors > cut/model.safetensors
damage flip && printf '\377' | dd of=flip/model.safetensors bs=1 seek=30 conv=notrunc status=none
damage size && printf '\377' | dd of=size/model.safetensors bs=1 seek=5 conv=notrunc status=none
damage wide && sed -i 's/"hidden_size": [0-9]*/"hidden_size": 256/' wide/config.json
damage deep && sed -i 's/"num_hidden_layers": 1/"num_hidden_layers": 2/' deep/config.json
damage lost && LC_ALL=C sed -i 's/model\.norm\.weight/model.nose.weight/' lost/model.safetensors
cp -rL r/latest bit && "$infer" info bit | grep -q '^files .*as saved'
verdict $? "info says that all files are as they were saved"
size=$(stat -c %s bit/model.safetensors)
flip_bit() { # flip_bit FILE OFFSET: the lowest bit of a byte
    local byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
flip_bit bit/model.safetensors $(((size - 4000) / 4 * 4)) # of a mantissa: a file as valid as before
cp -rL r/latest moments && flip_bit moments/optimizer-00001-of-00001.safetensors 500000
damage nowords && rm nowords/vocabulary.json
damage torn && head -c 200 r/latest/config.json > torn/config.json
head -c 3000 $labels > cut.h5
printf 'x' > text.h5
mkdir no-shard && cp d/*.json no-shard
cp -r d bent && printf '\377' | dd of=bent/dataset.json bs=1 seek=40 conv=notrunc status=none

while IFS='|' read -r name code words command; do
    eval "set -- $command"
    "$infer" "$@" > usage.log 2>&1
    rc=$?
    [ $rc = "$code" ] && grep -q -i -e "$words" usage.log
    verdict $? "$name: exit $code" usage.log
done << 'EOF'
help|0|usage: |generate --help
unknown command|2|did you mean 'risk'|risks r
no checkpoint named|2|needs a CHECKPOINT|score --data d
unknown flag|2|did you mean --samples|generate r --data d --sample 3
trailing junk|2|--samples|generate r --data d --samples 12x
a size that overflows|2|--samples|generate r --data d --samples 99999999999999999999
no samples|2|--samples|risk r --data d --labels d/labels/visit_30d.h5 --samples 0
patient out of range|2|has patients 0 to|generate r --data d --patient 100000
patient below range|2|--patient|generate r --data d --patient -1
patient that is no number|2|key:K|generate r --data d --patient me
no such patient key|2|123456789|generate r --data d --patient key:123456789
unknown split|2|held_out|generate r --data d --split testing
index time that is none|2|last-year|generate r --data d --at yesterday
index time below zero|2|last-year|generate r --data d --at -5d
missing dataset|1|nowhere|score r --data nowhere
events file as dataset|1|tokenize|score r --data events/events.h5
events folder as dataset|1|events|score r --data events
dataset as checkpoint|1|is not a checkpoint|score d --data d
missing checkpoint|1|is not a checkpoint|info nowhere
labels as dataset|1|d/labels/visit_30d.h5|score r --data d/labels/visit_30d.h5
dataset as labels|1|d/held_out-00000.h5|risk r --data d --labels d/held_out-00000.h5
a horizon of zero|2|--horizon|generate r --data d --horizon 0d
a horizon that is none|2|--horizon|generate r --data d --horizon soon
no temperature in risk|2|--temperature|risk r --data d --labels d/labels/visit_30d.h5 --temperature 0.7
outcome of no token|2|nearest|generate r --data d --outcome VISIT//INN
one code of an outcome is of no token|2|VISIT//INN; nearest.* VISIT//IN,|generate r --data d --outcome VISIT//OUT,VISIT//INN,MEDS_DEATH
one code of those to score is of no token|2|--codes.* matches VISIT//INN, ICU|score r --data d --codes VISIT//OUT,VISIT//INN,ICU --detail codes.h5
no device|1|--device cuda|generate r --data d --device cuda
weights of eight bits|0|weights in I8|generate r --data d --samples 1 --weights int8
weights of sixteen bits|0|weights in BF16|score r --data d --limit 1 --weights bf16
keys and values of sixteen bits|0|keys and values in BF16|generate r --data d --samples 1 --kv-dtype bf16
keys and values beside weights of eight bits|0|keys and values in BF16|generate r --data d --samples 1 --weights int8
keys and values of no such kind|2|--kv-dtype|generate r --data d --kv-dtype int8
weights of no such kind|2|--weights|score r --data d --weights int4
name of the output|2|.csv or .h5|risk r --data d --labels d/labels/visit_30d.h5 --out risk.txt
folder of the output|1|no folder|risk r --data d --labels d/labels/visit_30d.h5 --out nowhere/risk.csv
output of generate|1|nowhere/x|generate r --data d --out nowhere/x --samples 1
output of score|1|nowhere/x|score r --data d --limit 1 --out nowhere/x.csv
sequence longer than the model's|2|at most 256|score r --data d --seq-len 512
vocabulary of another dataset|1|tokenize.*--vocabulary|score r --data separate
weights cut short|1|cut/model.safetensors|score cut --data d
a bit of the weights' header|1|flip/model.safetensors|score flip --data d
the length of the weights' header|1|size/model.safetensors|score size --data d
weights of another width|1|wide|score wide --data d
weights of another depth|1|deep|score deep --data d
a bit of a weight|1|bit/model.safetensors is damaged|score bit --data d
a bit of a weight, by generate|1|bit/model.safetensors is damaged|generate bit --data d
a bit of a weight, by risk|1|bit/model.safetensors is damaged|risk bit --data d --labels d/labels/visit_30d.h5
a bit of a weight, by info|1|bit/model.safetensors is damaged|info bit
a bit of the moments, by info|1|moments/optimizer-00001-of-00001.safetensors is damaged|info moments
the moments are not read for inference|0|excess|score moments --data d
a folder without checksums|0|has no SHA256SUMS|score plain --data d
a tensor missing|1|model.norm.weight|score lost --data d
a checkpoint without vocabulary|1|vocabulary.json|score nowords --data d
half a config.json|1|config.json|score torn --data d
labels of another dataset|1|another dataset|risk r --data d --labels other/labels/visit_30d.h5
labels of another dataset, to embed by|1|made for another dataset|embed r --data d --labels other/labels/visit_30d.h5 --out e.h5
labels cut short|1|cut.h5|risk r --data d --labels cut.h5
labels that are text|1|text.h5|risk r --data d --labels text.h5
labels that are not there|1|none.h5|risk r --data d --labels none.h5
a dataset without shards|1|no-shard/train-00000.h5|score r --data no-shard
a bent dataset.json|1|dataset.json|score r --data bent
EOF
if [ -e /dev/full ]; then
    "$infer" generate r --data d --samples 1 > /dev/full 2> full.log
    a=$?
    "$infer" generate r --data d --samples 1 --out /dev/full 2>> full.log
    b=$?
    (ulimit -f 1; "$infer" risk r --data d --labels $labels --samples 1 --out full.csv) >> full.log 2>&1
    c=$?
    [ $a = 1 ] && [ $b = 1 ] && [ $c = 1 ] && [ ! -e full.csv ] && [ "$(grep -c 'disk full\|No space left on device\|File too large' full.log)" = 3 ]
    verdict $? "a full disk is told" full.log
fi
echo before | tee kept.txt > kept.html
(ulimit -f 1; "$infer" generate r --data d --samples 40 --max-tokens 40 --out kept.txt --html kept.html) > kept.log 2>&1
[ $? = 1 ] && [ "$(cat kept.txt kept.html)" = "before
before" ] && [ ! -e kept.txt.tmp ] && [ ! -e kept.html.tmp ]
verdict $? "a generate that fails leaves what was there, and no half of a file" kept.log

# ---- risk --------------------------------------------------------------------------------------------------------------
risk() { # risk OUT FLAGS...
    local out=$1
    shift
    "$infer" risk r --data d --labels $labels --samples 6 --out "$out" "$@" > risk.log 2>&1
}
risk a.csv --batch 64 --threads 2
verdict $? "risk" risk.log
rows=$(column a.csv risk | wc -l)
patients=$("$data" inspect d --split held_out 2> /dev/null | sed -n 's/.*held_out[^0-9]*\([0-9][0-9]*\).*/\1/p' | head -n 1)
[ "$rows" -gt 10 ] && [ "$(column a.csv split | sort -u)" = 2 ] && [ "$(column a.csv patient_key | sort -u | wc -l)" -le "${patients:-0}" ] &&
    column a.csv risk | awk '!($1 >= 0 && $1 <= 1) { bad = 1 } END { exit bad || NR == 0 }'
verdict $? "a row for each labelled patient of the split, probabilities between 0 and 1" a.csv
risk b.csv --batch 1 --threads 1 && cmp a.csv b.csv > diff.log 2>&1 && risk c.csv --batch 7 --threads 2 && cmp a.csv c.csv >> diff.log 2>&1 &&
    risk c.csv --batch 64 --threads 1 && cmp a.csv c.csv >> diff.log 2>&1
verdict $? "the same bytes for batches of 1, 7 and 64 and for 1 and 2 threads" diff.log
risk a.h5 --batch 64 && risk b.h5 --batch 7 --threads 1 && cmp a.h5 b.h5 > diff.log 2>&1
verdict $? "HDF5 tables too" diff.log
# Room for 5,120 futures at a time there is not: about 170 kB each, and the limit leaves less than half of that.
many() { "$infer" risk r --data d --labels $labels --samples 256 --max-tokens 4 --limit 20 --batch "$2" --threads 1 --out "$1" > risk.log 2>&1; }
case $build in
*-san) echo "skip - a batch that memory has no room for: ulimit -v and sanitizers do not go together" ;;
*)
    many free.csv 64 && ! grep -q 'memory has room' risk.log && (ulimit -v 800000 && many tight.csv 5120) && cmp free.csv tight.csv &&
        room=$(sed -n 's/^ *memory has room for \([0-9]*\) futures at a time, not --batch 5120.*/\1/p' risk.log) && [ "$room" -gt 1 ] && [ "$room" -lt 5120 ]
    verdict $? "a batch that memory has no room for shrinks, says so, and gives the same bytes" risk.log
    ;;
esac
risk c.csv --seed 2 && ! cmp -s a.csv c.csv && [ "$(column a.csv patient_key)" = "$(column c.csv patient_key)" ]
verdict $? "another seed gives other risks of the same patients" risk.log
risk c.csv --limit 5 && [ "$(column a.csv risk | head -n 5)" = "$(column c.csv risk)" ]
verdict $? "--limit takes the first rows and changes none" risk.log
rm -f mean.log variance.log
for e in mc scope reach; do
    "$infer" risk r --data d --labels $labels --samples 40 --limit 12 --estimator $e --out $e.csv > risk.log 2>&1 || break
    sed -n "s/^  a future's variance is \([0-9.]*\) of counting's.*/$e \1/p" risk.log >> variance.log
    paste <(column $e.csv risk) <(column $e.csv mc_se) | awk -v e=$e '{ m += $1; v += $2 * $2 } END { print e, m / NR, sqrt(v) / NR }' >> mean.log
done
awk '{ m[NR] = $2; s[NR] = $3 } END { for (i = 1; i <= 3; i++) for (j = 1; j < i; j++) { d = m[i] - m[j]; if (d < 0) d = -d
     if (d > 4 * sqrt(s[i] ^ 2 + s[j] ^ 2) + 1e-6) bad = 1 } exit bad || NR != 3 || s[1] == 0 || s[3] > s[1] }' mean.log
verdict $? "three estimators agree within their errors, and reach has the least" mean.log
# n - 1 of 40 in a variance that is estimated.
awk '{ v[$1] = $2 } END { exit !(v["mc"] > 1.02 && v["mc"] < 1.03 && v["reach"] > 0 && v["reach"] < 1) }' variance.log
verdict $? "risk tells the variance of a future beside counting's" variance.log
"$infer" risk r --data d --labels d/labels/admission_1y.h5 --labels $labels --limit 2 --samples 2 > risk.log 2> err.log &&
    [ "$(cat risk.log)" = "$(printf 'admission_1y-risk.csv\nvisit_30d-risk.csv')" ] && column admission_1y-risk.csv true_risk | awk '!($1 > 0 && $1 < 1) { exit 1 }'
verdict $? "two label files, two tables named for them; the true risks come along" err.log
if [ -x "$python" ]; then
    "$python" - a.csv a.h5 > h5.log 2>&1 << 'EOF'
import csv, sys
import h5py, numpy as np
lines = open(sys.argv[1]).read().splitlines()
attributes = dict(l[1:].strip().split(": ", 1) for l in lines if l.startswith("#"))
rows = list(csv.DictReader(l for l in lines if not l.startswith("#")))
with h5py.File(sys.argv[2]) as f:
    assert set(f) == set(rows[0]), (set(f), set(rows[0]))
    for name in rows[0]:
        text = np.array([float(r[name]) if r[name] else np.nan for r in rows])
        assert np.allclose(text, np.asarray(f[name], float), rtol=1e-6, atol=1e-12, equal_nan=True), name
    for name, value in attributes.items():
        assert f.attrs[name].decode() == value, name
EOF
    verdict $? "h5py reads the same numbers and attributes" h5.log
else
    echo "skip - h5py reads the same numbers and attributes: no .venv"
fi

# ---- generate ----------------------------------------------------------------------------------------------------------
"$infer" generate r --data d --patient 2 --samples 3 > one.txt 2> gen.log && "$infer" generate r --data d --patient 2 --samples 3 --batch 1 --threads 1 > two.txt 2> gen.log &&
    cmp one.txt two.txt && [ "$(grep -c '^simulated future' one.txt)" = 3 ] && grep -q '^recorded history' one.txt && grep -q '^what really happened' one.txt
verdict $? "generate: history, futures and what happened; the same text twice" gen.log
key=$(sed -n 's/.*key:\([0-9]*\).*/\1/p' one.txt | head -n 1)
"$infer" generate r --data d --patient "key:$key" --samples 3 > two.txt 2> gen.log && cmp one.txt two.txt
verdict $? "a patient by rank and by key is the same" gen.log
"$infer" generate r --data d --patient 2 --seed 9 --samples 3 > two.txt 2> gen.log && ! cmp -s one.txt two.txt
verdict $? "another seed gives other futures" gen.log
"$data" label events/events.h5 --data d --outcome typo_30d=VISIT//OUT,VISIT//INN --horizon 30d --index last-year > label.log 2>&1 && grep -q 'warning: no event and no token is VISIT//INN:' label.log &&
    "$infer" risk r --data d --labels d/labels/typo_30d.h5 --samples 2 --limit 2 --out typo.csv > risk.log 2>&1 && grep -q 'warning: typo_30d: no token.* matches VISIT//INN' risk.log
verdict $? "label and risk tell of codes that nothing has" risk.log
"$infer" generate r --data d --patient 2 --outcome VISIT//OUT --samples 2 2> gen.log | grep -q '<- outcome'
verdict $? "outcomes are marked" gen.log
"$infer" generate r --data d --patient 2 --samples 3 --out three.txt > gen.log 2>&1 && cmp one.txt three.txt
verdict $? "--out holds what standard output would" gen.log
if [ -x "$python" ]; then
    for at in last-year end last-event 0d 400d; do
        "$infer" generate r --data d --patient 2 --at $at --samples 3 --horizon 90d --json > $at.jsonl 2> gen.log && "$python" - $at $at.jsonl > json.log 2>&1 << 'EOF'
import json, sys
at, lines = sys.argv[1], [json.loads(line) for line in open(sys.argv[2])]
assert [line["kind"] for line in lines] == ["history", "future", "future", "future", "recorded"]
assert len({line["patient_key"] for line in lines}) == 1
for line in lines:
    days = [e["days"] for e in line["events"]]
    assert days == sorted(days)
    assert all(e["code"] and e["kind"] for e in line["events"])
    if line["kind"] == "history":
        assert all(d <= 0 for d in days)
    if line["kind"] == "future":
        assert line["stop"] in ("death", "horizon", "limit"), line["stop"]
        assert all(0 <= d <= 90 + 1e-9 for d in days) and line["days"] <= 90 + 1e-9
    if line["kind"] == "recorded":
        assert all(d > 0 for d in days)
history, recorded = lines[0], lines[-1]
if at == "0d":
    assert history["index_days"] == 0 and all(e["days"] == 0 for e in history["events"]) and len(history["events"]) <= 2
if at == "400d":
    assert history["index_days"] == 400
if at == "last-year":
    assert history["observed_days"] == 365
if at == "end":
    assert history["observed_days"] <= 0 and not recorded["events"]
if at == "last-event":
    assert history["events"][-1]["days"] == 0 and not recorded["events"]
EOF
        verdict $? "JSON lines, --at $at" json.log
    done
else
    echo "skip - JSON lines: no .venv"
fi
"$infer" generate r --data d --patient 2 --samples 4 --max-tokens 5 > limit.txt 2> gen.log && [ "$(grep -c '^simulated future.*: [1-5] tokens' limit.txt)" = 4 ]
verdict $? "--max-tokens ends a future" limit.txt
"$infer" generate r --data d --patient 2 --horizon 20y --samples 2 > long.txt 2> gen.log && grep -q '^simulated future.*(\(horizon\|death\|limit\)' long.txt
verdict $? "futures longer than the model's sequence" gen.log
"$infer" generate r --data d --patient 2 --horizon 100y --samples 1 --max-tokens 600 > long.txt 2> gen.log && grep -q '^simulated future.*(\(horizon\|death\|limit\)' long.txt
verdict $? "a horizon of a century" gen.log
"$infer" generate r --data d --patient 2 --horizon 1y --samples 2 --window exact > long.txt 2> gen.log && grep -q '^simulated future' long.txt
verdict $? "an exact window" gen.log

if [ -x "$python" ]; then
    cat > page.py << 'EOF'
import html.parser, json, re, sys
page, lines = open(sys.argv[1]).read(), [json.loads(line) for line in open(sys.argv[2])]
stack = []

class Check(html.parser.HTMLParser):
    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        assert not any(name in ("src", "href", "onload") for name, value in attrs)
        if tag != "meta":
            stack.append(tag)
    def handle_startendtag(self, tag, attrs):
        pass
    def handle_endtag(self, tag):
        assert stack.pop() == tag, tag

Check().feed(page)
assert not stack and not re.search(r"https?:|@import|url\(", page)
futures = [line for line in lines if line["kind"] == "future"]
assert page.count('class="future"') == len(futures) == 12
assert page.count("<svg") == page.count('<div class="drawn"><svg') == 4 and 'name="viewport"' in page # a phone scrolls the drawings alone
said = [float(x) for x in re.findall(r"<span>([0-9.]+) by the horizon", page)]
want = [sum(any(e["code"].startswith(code) for e in f["events"]) for f in futures) / 12 for code in ("VISIT//IN", "MEDS_DEATH")]
assert len(said) == 2 and all(abs(a - b) < 6e-4 for a, b in zip(said, want)), (said, want)
EOF
    for at in last-year 0d end; do
        "$infer" generate r --data d --patient 2 --at $at --samples 12 --outcome VISIT//IN --outcome MEDS_DEATH --html page.html --json --out page.jsonl > gen.log 2>&1 &&
            "$python" page.py page.html page.jsonl > page.log 2>&1
        verdict $? "a page at $at: well-formed, nothing to load, as many futures and the risks that they show" page.log
    done
fi
"$infer" generate r --data d --patient 2 --samples 4 --max-tokens 5 --html page.html > gen.log 2>&1 && grep -q 'of the 4 futures were cut' page.html
verdict $? "a page says that futures were cut" gen.log
"$infer" generate r --data d --patient 2 --html nowhere/page.html > gen.log 2>&1
[ $? = 1 ] && grep -q 'nowhere/page.html' gen.log
verdict $? "a page that cannot be written" gen.log

# ---- score -------------------------------------------------------------------------------------------------------------
"$infer" score r --data d --split tuning --out p.csv --tokens t.csv > score.txt 2> score.log
verdict $? "score" score.log
logged=$(sed -n 's/^{"eval":.*"step":24,.*"loss":\([0-9.]*\),.*/\1/p' r/log.jsonl | tail -n 1)
near "$(sed -n 's/^loss *\([0-9.]*\) nats.*/\1/p' score.txt)" "$logged" 1e-4
verdict $? "the loss is the one training logged ($logged)" score.txt
excess=$(sed -n 's/^oracle floor.*excess \([-0-9.]*\).*/\1/p' score.txt)
awk -v x="$excess" 'BEGIN { exit !(x != "" && x > -0.01) }'
verdict $? "no model beats the floor ($excess over it)" score.txt
paste -d, <(column p.csv targets) <(column p.csv loss) | awk -F, '{ n += $1; s += $2 } END { printf "%.6f %d\n", s / n, n }' > mean.txt
near "$(cut -d' ' -f1 mean.txt)" "$logged" 0.01 && [ "$(cut -d' ' -f2 mean.txt)" = "$(column t.csv loss | grep -c '[0-9]')" ]
verdict $? "losses per patient and per token add up" mean.txt
head=$(sed -n 's/^ *\([0-9.]*\)  key:.*/\1/p' score.txt | head -n 1)
column t.csv loss | awk -v head="$head" '$1 > head - 0.006 && $1 < head + 0.006 { found = 1 } END { exit !found || head < 1 }' &&
    [ "$(sed -n 's/^ *\([0-9.]*\)  key:.*/\1/p' score.txt)" = "$(sed -n 's/^ *\([0-9.]*\)  key:.*/\1/p' score.txt | sort -rn)" ]
verdict $? "the list of surprising events is in order and its losses are those of --tokens" score.txt
"$infer" score r --data d --split tuning --out int8.csv --weights int8 > int8.txt 2> score.log &&
    near "$(sed -n 's/^loss *\([0-9.]*\) nats.*/\1/p' int8.txt)" "$(sed -n 's/^loss *\([0-9.]*\) nats.*/\1/p' score.txt)" 0.005 && ! cmp -s p.csv int8.csv
verdict $? "with weights of eight bits the loss is within 0.005 nats" int8.txt
"$infer" score r --data d --split tuning --seq-len 128 --threads 1 --limit 3 --out q.h5 > score.txt 2> score.log && grep -q '^tuning: 3 patients' score.txt
verdict $? "score of a few patients" score.log

# ---- info --------------------------------------------------------------------------------------------------------------
"$infer" info r > info.txt 2> info.log && grep -q '1 layers, d_model 128' info.txt && grep -q '^vocabulary .* tokens' info.txt && grep -q 'dataset_sha256' info.txt &&
    "$infer" info lost > info.log 2>&1
[ $? = 1 ] && grep -q '^shape' info.txt
verdict $? "info, and its failure on a damaged checkpoint" info.log
rm lost/trainer.json && cp r/latest/model.safetensors lost && "$infer" info lost > info.txt 2>&1 && grep -q 'not recorded' info.txt
verdict $? "info of an export without trainer.json" info.txt
exit $failed
