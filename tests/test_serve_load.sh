#!/bin/bash
# test_serve_load.sh BUILD - ehr-infer serve under many clients: no error, the rollouts' throughput, memory that stays; a
# second checkpoint beside it; recalibration maps.  The long form of the load, by hand:
#   tests/serve_load.py URL KEY 20000 --pid PID
. "$(dirname "$0")/shell.sh"
. "$root/tests/serve.sh"

{
    "$data" synth --patients 300 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN --horizon 365d &&
        "$build/ehr-train" --data d $tiny --steps 16 --out r && "$build/ehr-train" --data d $tiny --steps 40 --out other &&
        "$infer" key --keys keys --name alice --scopes all > alice
} > made.log 2>&1
verdict $? "make a dataset, two checkpoints and a key" made.log
[ $failed = 0 ] || exit 1
key=$(cat alice)

keyed() { start "$@" --keys keys; }
metric() { # metric NAME: its value
    "$python" - "$url" "$key" "$1" << 'END'
import sys, urllib.request
r = urllib.request.Request(sys.argv[1] + "/metrics", headers={"Authorization": "Bearer " + sys.argv[2]})
print(next((l.split()[-1] for l in urllib.request.urlopen(r, timeout=20).read().decode().splitlines() if l.startswith(sys.argv[3] + " ")), "none"))
END
}
compared() { # until all that was offered is compared, dropped or failed
    local i
    for i in $(seq 100); do
        [ "$(awk -v o="$(metric ehr_second_offered_total)" -v c="$(metric ehr_second_difference_count)" -v s="$(metric ehr_second_scores_total)" \
            -v d="$(metric ehr_second_dropped_total)" 'BEGIN { print o == c / '"$1"' + s + d }')" = 1 ] && return 0
        sleep 0.1
    done
    return 1
}

# ---- load --------------------------------------------------------------------------------------------------------------
keyed load --audit load.log --deadline 300
"$python" "$root/tests/serve_load.py" "$url" "$key" 640 --clients 64 --samples 8 --pid $pid --answers load.answers > load.txt 2>&1
verdict $? "64 clients, 640 mixed requests: answers or 429, nothing else" load.txt
sed 's/^/    /' load.txt
# The same requests again take no more memory than the first time: 4 KiB a request would show.
rss() { awk '/^VmRSS/ { print $2 }' /proc/$pid/status; }
first=$(rss)
case $build in
*-san*) echo "skip - memory stays: the sanitizers keep what is freed" ;;
*)
    "$python" "$root/tests/serve_load.py" "$url" "$key" 640 --clients 64 --samples 8 > again.txt 2>&1
    echo "$first $(rss)" | awk '{ exit !($2 < 1.03 * $1) }'
    verdict $? "memory stays: $first KiB after 640 requests, $(rss) after 1280" again.txt
    ;;
esac
stop && "$infer" audit verify load.log > verify.log 2>&1 && all_logged load.log load.answers
verdict $? "each of $(wc -l < load.answers) answers is in the log" unlogged

outcome='[{"codes":["VISIT//IN"],"horizon":"365d"}]'
keyed same --deadline 300
ratio=0
for _ in 1 2 3; do # computed seconds, not those on the wall: other programs run too
    TIMEFORMAT='%U %S'
    { time "$infer" risk r --data d --labels d/labels/admission_1y.h5 --estimator mc --samples 32 --seed 5 --out off.csv > off.log 2>&1; } 2> off.time
    "$python" "$client" rows "$url" "$key" d "$outcome" off.csv 32 $pid > rows.txt 2>&1 || break
    tokens=$(sed -n 's/.*futures, \([0-9]*\) tokens.*/\1/p' off.log)
    now=$(awk -v off="$(awk '{ print $1 + $2 }' off.time)" -v offline="$tokens" '{ print ($1 / $3) / (offline / off) }' rows.txt)
    ratio=$(echo "$ratio $now" | awk '{ print($1 > $2 ? $1 : $2) }')
    awk -v r="$ratio" 'BEGIN { exit !(r >= 0.8) }' && break
done
awk -v r="$ratio" 'BEGIN { exit !(r >= 0.8) }' && [ "$(awk '{ print $1 }' rows.txt)" = "$tokens" ]
verdict $? "64 clients get the rollouts of ehr-infer risk, the same tokens at $ratio of its rate" rows.txt
stop

# ---- killed under load of streams ------------------------------------------------------------------------------------------
keyed killed --audit killed.log --deadline 300
"$python" "$root/tests/serve_load.py" "$url" "$key" 200 --clients 16 --only stream --answers killed.answers > killed.txt 2>&1 &
asking=$!
for _ in $(seq 400); do
    [ "$(grep -c '"action":"completions","status":200' killed.log)" -gt 80 ] && break
    sleep 0.02
done
kill_server
wait $asking
keyed again --audit killed.log && all_logged killed.log killed.answers && stop && "$infer" audit verify killed.log > verify.log 2>&1
verdict $? "kill -9 under streams: each of $(wc -l < killed.answers) whole answers is in the log, and it starts again" unlogged

# ---- a second checkpoint -----------------------------------------------------------------------------------------------------
keyed plain --deadline 300
"$python" "$client" burst "$url" "$key" 8 16 > /dev/null
"$python" "$client" one "$url" "$key" > plain.json
stop
for second in r other; do
    keyed $second --shadow $second --deadline 300
    "$python" "$client" one "$url" "$key" > $second.json && cmp plain.json $second.json
    verdict $? "a shadow ($second) changes no answer" $second.err
    "$python" "$client" burst "$url" "$key" 12 16 > burst.log 2>&1
    grep -q '^12 200$' burst.log && compared 2
    verdict $? "all it had room for is compared" burst.log
    echo "$(metric ehr_second_difference_count) $(metric ehr_second_agree_total) $(metric ehr_second_difference_sum)" > $second.counts
    "$python" "$client" second "$url" "$key" ${second/#r/same} || failed=1
    "$python" "$client" shadowed "$url" "$key" > shadowed.log 2>&1
    verdict $? "its metrics are Prometheus's, and few" shadowed.log
    stop || not_ok "a server with a shadow ends"
done
awk '$1 != $2 || $3 != 0 || $1 < 2 { exit 1 }' r.counts
verdict $? "a shadow of the same weights agrees to the bit" r.counts
awk '$3 == 0 || $1 < 2 { exit 1 }' other.counts
verdict $? "one of other weights differs" other.counts
keyed flood --shadow other --deadline 300
"$python" "$root/tests/serve_load.py" "$url" "$key" 400 --clients 64 --samples 4 --only score > flood.txt 2>&1 && compared 1 &&
    [ "$(metric ehr_second_offered_total)" = 400 ]
verdict $? "what a shadow has no time for is dropped and counted: $(metric ehr_second_dropped_total) of 400" flood.txt
stop
keyed canary --canary other --canary-share 0.5 --deadline 300
"$python" "$root/tests/serve_load.py" "$url" "$key" 100 --clients 8 --only score > canary.txt 2>&1
once=$(metric ehr_second_offered_total)
"$python" "$root/tests/serve_load.py" "$url" "$key" 100 --clients 8 --only score > canary.txt 2>&1
[ "$once" -gt 20 ] && [ "$once" -lt 80 ] && [ "$(metric ehr_second_offered_total)" = $((2 * once)) ]
verdict $? "a canary sees a share of the patients, the same ones: $once of 100" canary.txt
stop
refused 2 'one of them' "$infer" serve r --port 0 --shadow other --canary other
verdict $? "a shadow and a canary at once: exit 2" refused.log
cp -rL other/latest alien && rm alien/SHA256SUMS && sed -i 's/COMPLAINT\/\/COUGH/COMPLAINT\/\/COUGHS/' alien/vocabulary.json &&
    refused 1 'another vocabulary' "$infer" serve r --port 0 --shadow alien
verdict $? "a second checkpoint with another vocabulary is refused" refused.log

# ---- recalibration -----------------------------------------------------------------------------------------------------------
sha=$(sha256sum < r/latest/model.safetensors | cut -c1-64)
maps() { # maps FILE CHANGE: recalibration.json as evaluate writes it, then changed
    (cd "$root/scripts" && "$python" -c "
import json, sys, recalibrate
sha, path, change = sys.argv[1:]
record = {'slope': 0.83, 'intercept': -0.31, 'rows': 200, 'known': 150, 'positive': 30, 'fitted': 'slope and intercept', 'alerts_per_100': 10, 'threshold': 1 / 7,
          'budgets': [{'alerts_per_100': 1, 'threshold': 1e-05}], 'outcome': 'admission_1y', 'model_sha256': sha, 'labels_sha256': 'x',
          'outcome_codes': ['VISIT//IN'], 'stop_codes': [], 'horizon_minutes': 525600, 'estimator': 'mc'}
if change == 'model': record['model_sha256'] = 64 * '0'
if change == 'codes': del record['outcome_codes']
if change == 'later': record['after_minutes'] = 1440
if change == 'stay': record['outcome_codes'] = []
if change == 'next': record['estimator'] = 'next'
record = recalibrate.seal(record)
if change in ('slope', 'both'): record['slope'] = 0.84
if change in ('hashed', 'both'): record['hashed'] = record['hashed'].replace('0.83', '0.84')
if change == 'bytes': del record['hashed']
all = recalibrate.document([record])
if change == 'old': all['format_version'] = 1
json.dump(all, open(path, 'w'), indent=1)
" "$sha" "$work/$1" "$2")
}
maps maps.json none
keyed maps --recalibration maps.json
"$python" "$client" maps "$url" "$key" maps.json || failed=1
stop
for change in stay next; do
    maps $change.json $change && keyed $change --recalibration $change.json && grep -q '^1 recalibration maps' $change.err &&
        "$python" -c 'import json, sys, urllib.request
r = urllib.request.Request(sys.argv[1] + "/info", headers={"Authorization": "Bearer " + sys.argv[2]})
assert json.load(urllib.request.urlopen(r, timeout=60))["recalibration"] == []' "$url" "$key" > $change.log 2>&1
    verdict $? "a map that no request can ask for (${change}) keeps nobody from being served, and is not told" $change.err
    stop
done
maps later.json later
keyed later --recalibration later.json
"$python" - "$url" "$key" > later.log 2>&1 << 'END'
import json, sys, urllib.request
ask = {"patient": {"tokens": ["VISIT//OUT"], "statics": ["SEX//F", "RACE//WHITE"]}, "outcomes": [{"name": "admission_1y", "codes": ["VISIT//IN"], "horizon": "365d"}], "estimator": "mc", "samples": 2}
r = urllib.request.Request(sys.argv[1] + "/v1/risk", json.dumps(ask).encode(), {"Authorization": "Bearer " + sys.argv[2]})
o = json.load(urllib.request.urlopen(r, timeout=60))["outcomes"][0]
assert o["recalibrated"] is None and "after the index" in o["not_recalibrated"], o
END
verdict $? "no map of outcomes that count from later on is taken for one of all" later.log
stop
while IFS='|' read -r change words; do
    maps bad.json "$change"
    refused 1 "$words" "$infer" serve r --port 0 --recalibration bad.json
    verdict $? "a map refused: $change" refused.log
done << 'END'
slope|was changed after it was fitted
hashed|was changed after it was fitted
both|was changed after it was fitted
bytes|was changed after it was fitted
old|of an older release (format_version 1, this one reads 2): run scripts/evaluate.sh again to fit its maps anew
model|was fitted for the model
codes|does not say what it was fitted for
END
echo '{}' > bad.json
refused 1 'is no recalibration.json' "$infer" serve r --port 0 --recalibration bad.json
verdict $? "a file without maps is refused" refused.log
exit $failed
