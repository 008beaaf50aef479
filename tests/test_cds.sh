#!/bin/bash
# test_cds.sh BUILD - scripts/cds_hooks_sidecar.py between a CDS client (cds_client.py) and `ehr-infer serve`, open on the loopback
# and with clients' tokens.
. "$(dirname "$0")/shell.sh"
export OMP_NUM_THREADS=1
infer=$build/ehr-infer data=$build/ehr-data python=$root/.venv/bin/python
grep -q 'libmicrohttpd *yes' "$build/detect.txt" || skip_all "the CDS Hooks sidecar" "no libmicrohttpd"
"$python" -c 'import flask, waitress, jwt, prometheus_client' 2> /dev/null || skip_all "the CDS Hooks sidecar" "no flask: sh scripts/setup.sh cds"
cd "$work" || exit 1
pids=""
trap 'for p in $pids; do kill -9 $p 2> /dev/null; done; rm -rf "$work"' EXIT

listening() { # listening FILE: sets url once the server says where
    url=""
    for _ in $(seq 400); do
        url=$(sed -n "s/^listening on //p" "$1")
        [ -n "$url" ] && return 0
        sleep 0.05
    done
    return 1
}
{
    "$data" synth --patients 200 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$build/ehr-train" --data d --layers 1 --d-model 64 --heads 1 --kv-heads 1 --d-ff 64 --seq-len 256 --batch 4 --steps 16 --eval-tokens 0 --out r &&
        "$infer" key --keys keys --name sidecar --scopes risk > key
    "$python" - << 'END'
import json, jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.generate_private_key(ec.SECP384R1())
open("client.pem", "wb").write(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
json.dump({"keys": [{**public, "kid": "test", "use": "sig", "alg": "ES384"}]}, open("jwks.json", "w"))
json.dump({"services": [{"id": "admission-1y", "title": "Admission", "description": "d", "hook": "patient-view", "horizon": "365d", "samples": 16, "explain": 12,
                         "outcome": {"name": "hospital admission", "codes": ["VISIT//IN", "VISIT//IP"]}}]}, open("services.json", "w"))
END
} > made.log 2>&1
verdict $? "make a checkpoint, keys and services" made.log
"$infer" serve r --port 0 --keys keys --deadline 300 > serve.out 2> serve.err &
pids="$!"
listening serve.out
verdict $? "the model's server starts" serve.err
serve=$url
for form in "" "--jwks jwks.json --audience https://sidecar.example"; do
    log=sidecar${form:+-jwt}.out
    # shellcheck disable=SC2086
    "$python" "$root/scripts/cds_hooks_sidecar.py" --serve "$serve" --key-file key --services services.json --port 0 --max-body 2 --ehr-data "$data" $form > "$log" 2> sidecar.err &
    pids="$pids $!"
    listening "$log"
    # shellcheck disable=SC2046
    "$python" "$root/tests/cds_client.py" "$url" "$serve" "$(cat key)" $([ -z "$form" ] || echo client.pem https://sidecar.example) > client.log 2>&1
    rc=$?
    [ $rc = 0 ] || cat client.log
    verdict $rc "the sidecar${form:+ with tokens of clients}: $(grep -c '^ok - ' client.log) checks" sidecar.err
done
"$python" -c 'import sys; sys.path.insert(0, sys.argv[1]); import cds_hooks_sidecar as s
assert [s.horizon_text(h) for h in ("12h", "30d", "1y", "90min")] == ["12 hours", "30 days", "365 days", "90 minutes"]
import datetime
now = datetime.datetime(2026, 3, 1, 12)
at = lambda *times: s.index_of([{"code": "SEX//F"}, *({"time": t} for t in times)], now)
assert at() == at("2017-01-01T00:00:00") == "2026-03-01T12:00:00" and at("2026-03-02T11:59:00") == "2026-03-02T11:59:00" and at("2062-01-01T00:00:00") == "2026-03-01T12:00:00"
answer = {"model": {"id": "m", "sha256": "s", "stage": "t"}, "samples": 2, "estimator": "reach", "outcomes": [{"name": "o", "risk": 0.2, "interval": [0.1, 0.3],
          "recalibrated": {"risk": 0.2, "map": "x", "fitted": "nothing: 2 positives in the tuning split, 5 are needed"}}]}
told = lambda: s.risk_assessment({"title": "t", "horizon": "30d"}, answer, [], "Patient/1", None, "2026-03-01T12:00:00")["prediction"][0]
assert "recalibrated" not in told()["rationale"] and told()["whenPeriod"]["end"].startswith("2026-03-31T12")
answer["outcomes"][0]["recalibrated"].update(fitted="intercept alone", risk=0.4)
assert "recalibrated by map x" in told()["rationale"] and told()["probabilityDecimal"] == 0.4
event = {"name": "x", "code": "X", "days": -3, "change": 0.02, "se": 0.008}
assert "sampling noise" in s.moved_text({"events": [event]}) and "sampling noise" not in s.moved_text({"events": [{**event, "se": 0.006}]})' "$root/scripts" > horizon.log 2>&1
verdict $? "cards tell a horizon of hours in hours, what may be chance, and begin now" horizon.log
sed 's/"365d"/"6m"/' services.json > months.json
refused 2 'of months say the days' "$python" "$root/scripts/cds_hooks_sidecar.py" --serve "$serve" --services months.json --port 0 --ehr-data "$data"
verdict $? "6m, months to some and minutes to others, is no horizon" refused.log
! ls /dev/shm/ehr-cds-* > left.log 2>&1
verdict $? "nothing of a patient is left" left.log
refused 2 "only with --jwks" "$python" "$root/scripts/cds_hooks_sidecar.py" --serve "$serve" --bind 0.0.0.0 --ehr-data "$data"
verdict $? "beyond this machine only with clients' keys" refused.log
exit $failed
