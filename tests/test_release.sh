#!/bin/bash
# test_release.sh BUILD - signed checkpoints from the outside: stages, gates, two signers, dates, revocation, and every way
# to slip something past them.
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
infer=$build/ehr-infer data=$build/ehr-data
cd "$work" || exit 1
{
    "$data" synth --patients 80 --risk-samples 0 --out e && "$data" tokenize e/events.h5 --vocabulary e/vocabulary.json --out d &&
        "$build/ehr-train" --data d --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 128 --batch 2 --steps 2 --out r &&
        for who in ann bob eve; do "$data" attest --new-key $who || exit 1; done
} > made.log 2>&1 || { not_ok "make a checkpoint and keys" made.log; exit 1; }
"$infer" export r --dtype f32 --out clean > made.log 2>&1 # without optimizer state: what is released
ann="--signing-key ann --name Ann --role owner" bob="--signing-key bob --name Bob --role safety" eve="--signing-key eve --name Eve --role none"
{ cat ann.pub | tr -d '\n'; echo " Ann"; cat bob.pub | tr -d '\n'; echo " Bob # the second"; } > trusted
sha=$(sha256sum < clean/model.safetensors | cut -c1-64)
echo '{"provenance": {"model_sha256": "'$sha'"}, "loss": 2.1, "outcomes": [{"name": "death_1y", "auroc": 0.85, "slope": 1.1, "subgroups": [{"name": "sex F", "auroc": 0.8}]}]}' > report.json
echo '{"gates": [{"metric": "loss", "max": 2.2}, {"outcome": "death_1y", "metric": "auroc", "min": 0.8},
  {"outcome": "death_1y", "subgroup": "sex F", "metric": "auroc", "min": 0.75}]}' > gates.json
promote() { "$infer" promote "$1" --to "$2" --report report.json --gates gates.json "${@:3}"; }
stage() { "$infer" verify "$1" --trusted-keys trusted "${@:2}" 2> stage.err | sed -n 's/^stage *\([a-z]*\).*/\1/p'; }
is() { # is NAME CHECKPOINT STAGE
    local at
    at=$(stage "$2")
    [ "$at" = "$3" ]
    verdict $? "$1$([ "$at" = "$3" ] || echo " (is ${at:-nothing}: $(cat stage.err))")"
}
copy() { rm -rf "$2" && cp -r "$1" "$2"; }

# ---- the way up ------------------------------------------------------------------------------------------------------
refused 1 'is not signed' "$infer" verify clean
verdict $? "an unsigned checkpoint is none"
refused 1 'is not signed' promote clean internal $ann
verdict $? "nor can it be promoted"
refused 2 'needs --signing-key' "$infer" sign clean
verdict $? "somebody has to sign"
"$infer" sign clean $ann > log 2>&1
verdict $? "sign" log
is "a signature makes research" clean research
"$infer" info clean > log 2>&1 && grep -q 'as saved' log
verdict $? "the checkpoint still loads and its sums still hold" log
refused 2 'internal comes before partner' promote clean partner $ann
verdict $? "no stage is skipped"
promote clean internal $ann --expires 2999-01-01 > log 2>&1 && grep -q 'met .*death_1y sex F auroc 0.8, at least 0.75' log
verdict $? "promote to internal, gate by gate" log
is "one signer is enough for internal" clean internal
copy clean internal
promote clean partner $ann > log 2>&1 && promote clean partner $ann > log 2>&1
is "the same signer twice is not two" clean internal
refused 1 'partner needs 2 valid signatures by different keys by trusted keys, it has 1' "$infer" verify clean --trusted-keys trusted --stage partner
verdict $? "what is missing is said"
copy clean other
sed -i 's/"loss": 2.1/"loss": 2.0/' report.json && promote other partner $bob > log 2>&1
is "two signers over two reports are not two" other internal
sed -i 's/"loss": 2.0/"loss": 2.1/' report.json
promote clean partner $bob > log 2>&1
is "two signers make partner" clean partner
"$infer" verify clean --trusted-keys trusted --stage partner > log 2>&1
verdict $? "verify --stage partner ends with 0" log
head -n 1 trusted > only-ann
[ "$("$infer" verify clean --trusted-keys only-ann 2>&1 | sed -n 's/^stage *\([a-z]*\).*/\1/p')" = internal ]
verdict $? "a signer who is not trusted does not count"

# ---- refused ---------------------------------------------------------------------------------------------------------
copy internal x && sed -i 's/"max": 2.2/"max": 2.0/' gates.json
refused 1 '1 of 3 gates' promote x partner $bob && grep -q 'MISSED *loss 2.1, at most 2' refused.log
verdict $? "a gate that is missed stops the promotion"
echo '{"gates": [{"outcome": "stroke", "metric": "auroc", "min": 0.5}]}' > gates.json
refused 1 '1 of 1 gates' promote x partner $bob && grep -q 'not in the report' refused.log
verdict $? "a figure that the report lacks is a missed gate"
echo '{"gates": []}' > gates.json
refused 1 'no array "gates"' promote x partner $bob
verdict $? "no gates are no promotion"
echo '{"gates": [{"metric": "loss", "max": 3}]}' > gates.json
sed "s/$sha/${sha//[0-7]/8}/" report.json > others.json && sed 's/"provenance".*}, "loss"/"loss"/' report.json > nobodys.json
refused 1 'others.json is of another model .*evaluate this one' "$infer" promote x --to partner --report others.json --gates gates.json $bob
verdict $? "another model's report" refused.log
refused 1 'nobodys.json does not say which model' "$infer" promote x --to partner --report nobodys.json --gates gates.json $bob
verdict $? "a report of nobody knows what" refused.log
while IFS='|' read -r words gate; do
    echo '{"gates": ['"$gate"']}' > bad.json
    refused 1 "$words" "$infer" promote x --to partner --report report.json --gates bad.json $bob
    verdict $? "a gate that checks less than it seems to: $gate" refused.log
done << 'EOF'
gate 1: "max" is no number|{"metric": "loss", "min": 0, "max": "2.2"}
gate 1 has "mx": expected|{"metric": "loss", "min": 0, "mx": 2.2}
gate 1 has no "metric" with|{"metric": "loss"}
gate 1 has no "metric" with|7
EOF
printf '{' > broken.json
refused 1 'not an evaluation report' "$infer" promote x --to partner --report broken.json --gates gates.json $bob
verdict $? "a broken report"
copy internal x && promote x partner $ann --expires 2001-01-01 > log 2>&1 && promote x partner $bob > log 2>&1
is "a promotion that has expired does not count" x internal
while IFS='|' read -r name words command; do
    copy clean x
    (cd x && eval "$command")
    refused 1 "$words" "$infer" verify x --trusted-keys trusted
    verdict $? "$name" refused.log
done << 'EOF'
a flipped weight|model.safetensors was changed after it was signed|printf '\001' | dd of=model.safetensors bs=1 seek=9000 conv=notrunc status=none
an added file|more.json is not in the signed manifest|echo '{}' > more.json
a missing file|tokenizer.json was signed and is missing|rm tokenizer.json
a link in place of a file|is no plain file|rm tokenizer.json; mkdir tokenizer.json
a changed name in a record|changed after signing|sed -i 's/"name": "Bob"/"name": "Ann"/' release.json
a changed stage in a record|changed after signing|sed -i '0,/"stage": "partner"/s//"stage": "general"/' release.json
a changed manifest|the manifest was changed|sed -i 's/"deidentification": "synthetic"/"deidentification": "expert"/' release.json
a record taken out|does not follow the record before it|python3 -c "import json; r = json.load(open('release.json')); del r['records'][1]; json.dump(r, open('release.json', 'w'))"
two records exchanged|does not follow the record before it|python3 -c "import json; r = json.load(open('release.json')); a = r['records']; a[1], a[2] = a[2], a[1]; json.dump(r, open('release.json', 'w'))"
a manifest of other files|signed for another manifest|echo '{}' > a.json; python3 -c "import json, hashlib; r = json.load(open('release.json')); r['manifest']['files']['a.json'] = hashlib.sha256(open('a.json', 'rb').read()).hexdigest(); json.dump(r, open('release.json', 'w'))"
a cut release.json|is not a JSON object|head -c 200 release.json > y; mv y release.json
EOF
copy clean x && "$infer" revoke x --reason "wrong units" $eve > log 2>&1
is "a stranger cannot revoke" x partner
copy clean x && "$infer" revoke x --reason "wrong units" $ann > log 2>&1
refused 1 'it was revoked' "$infer" verify x --trusted-keys trusted && grep -q 'REVOKED (wrong units)' refused.log
verdict $? "a trusted signer can" refused.log
refused 1 'was revoked (wrong units)' promote x general $bob
verdict $? "nor is it promoted again"
sed -n 's/.*"model_sha256": "\(.*\)".*/\1/p' clean/release.json > revoked
refused 1 'it was revoked' "$infer" verify clean --trusted-keys trusted --revoked revoked
verdict $? "a list of revoked hashes holds whatever the folder says"
echo 'abc Ann' > bad
refused 1 'line 1 is no public key' "$infer" verify clean --trusted-keys bad
verdict $? "a list of keys that is none"

# ---- what the data forbids ---------------------------------------------------------------------------------------------
copy clean x && rm x/release.json && sed -i 's/"deidentification": "synthetic"/"deidentification": "structural"/' x/trainer.json && rm x/SHA256SUMS
"$infer" sign x $ann > log 2>&1
refused 1 'neither synthetic nor attested' promote x internal $ann
verdict $? "data that was not de-identified stays in research"
copy clean x && rm x/release.json x/SHA256SUMS && sed -i 's/"commit"/"canaries": true, "commit"/' x/trainer.json
"$infer" sign x $ann > log 2>&1
refused 1 'trained on canaries' promote x internal $ann
verdict $? "a model trained on canaries stays in research"
copy clean x && rm x/release.json x/SHA256SUMS
sed -i 's/"commit"/"parent_provenance": {"deidentification": "structural"}, "commit"/' x/trainer.json
"$infer" sign x $ann > log 2>&1
refused 1 'neither synthetic nor attested' promote x internal $ann
verdict $? "nor does what was begun from such a model go further"
exit $failed
