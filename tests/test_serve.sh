#!/bin/bash
# test_serve.sh BUILD - ehr-infer serve from the outside, on the loopback: its numbers are those of `ehr-infer risk`; who may
# ask what; what attacks come to; the audit log; stages; ending and being killed.
. "$(dirname "$0")/shell.sh"
. "$root/tests/serve.sh"

{
    "$data" synth --patients 200 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$data" label events/events.h5 --data d --outcome admission_1y=VISIT//IN --horizon 365d &&
        "$data" label events/events.h5 --data d --outcome visit_30d=VISIT//OUT --horizon 30d &&
        "$build/ehr-train" --data d $tiny --steps 16 --out r &&
        "$infer" key --keys keys --name alice --scopes all > alice && "$infer" key --keys keys --name sue --scopes score > sue
} > made.log 2>&1
verdict $? "make a dataset, a checkpoint and two keys" made.log
[ $failed = 0 ] || exit 1
[ "$(stat -c %a keys)" = 600 ] && ! grep -qF "$(cut -c5- alice)" keys
verdict $? "the file of keys holds none of them"

# ---- the same numbers ------------------------------------------------------------------------------------------------
rc=0
for e in mc scope reach; do
    for n in admission_1y visit_30d; do
        "$infer" risk r --data d --labels d/labels/$n.h5 --estimator $e --samples 8 --seed 5 --limit 10 --out $n-$e.csv > risk.log 2>&1 || rc=1
    done
done
verdict $rc "risks by ehr-infer risk" risk.log
"$infer" embed r --data d --labels d/labels/admission_1y.h5 --what last --limit 10 --out embeddings.npy > embed.log 2>&1
verdict $? "embeddings by ehr-infer embed" embed.log
start main --keys keys --audit audit.log --read-timeout 1 --max-body 256K --connections 50
verdict $? "a server starts" main.err
"$python" "$client" same "$url" "$(cat alice)" "$infer" d events '[{"codes":["VISIT//IN"],"horizon":"365d"},{"codes":["VISIT//OUT"],"horizon":"30d"}]' admission_1y visit_30d || failed=1
"$python" "$client" answers "$url" "$(cat alice)" || failed=1
"$python" "$client" streams "$url" "$(cat alice)" || failed=1
if "$python" -c 'import openai' 2> /dev/null; then
    "$python" "$client" openai "$url" "$(cat alice)" || failed=1
else
    echo "skip - OpenAI's Python client: not installed (sh scripts/setup.sh openai)"
fi
"$python" "$client" attacks "$url" "$(cat alice)" "$(cat sue)" 1 audit.log || failed=1
grep -q '"who":"sue".*"action":"risk","status":403' audit.log && grep -q '"who":"-".*"action":"risk","status":401' audit.log
verdict $? "refusals are in the audit log" audit.log
[ "$(grep -c '"action":"completions","status":499' audit.log)" = 3 ] && [ "$(grep -c '"action":"stream","status":200' audit.log)" -ge 3 ]
verdict $? "streams are logged when they begin, and when they end" audit.log
for status in 400 401 403 404 405 408 413; do grep -q "\"status\":$status," audit.log || echo "no $status"; done > missing.log
[ ! -s missing.log ] && [ "$(grep '"action":"other","status":400' audit.log | wc -l)" -ge 6 ]
verdict $? "each refusal, also of what is no HTTP or never came whole" missing.log
sed -n 's/.*"action":"risk","status":200.*"input":"\([0-9a-f]*\)".*/\1/p' audit.log | sort | uniq -d | grep -q .
verdict $? "a replayed body shows by its keyed hash" audit.log
! grep -q -e I50 -e LOINC -e 'SEX' -e 1950- audit.log
verdict $? "and no patient is" audit.log

# ---- keys and the kill switch while it runs ----------------------------------------------------------------------------
status() { "$python" - "$url" "$1" "$2" << 'END'
import http.client, sys, urllib.parse
u = urllib.parse.urlsplit(sys.argv[1])
c = http.client.HTTPConnection(u.hostname, u.port, timeout=60)
c.request("POST" if sys.argv[2].startswith("/v1") else "GET", sys.argv[2], b'{"prompt": "SEX//F RACE//WHITE VISIT//OUT"}' if sys.argv[2].startswith("/v1") else None,
          {"Authorization": "Bearer " + sys.argv[3]})
print(c.getresponse().status)
END
}
busy() { # until something is being computed, 10 s at most
    "$python" - "$url" << 'END'
import sys, time, urllib.request
for _ in range(200):
    if "ehr_requests_running 0\n" not in urllib.request.urlopen(sys.argv[1] + "/metrics", timeout=10).read().decode():
        sys.exit(0)
    time.sleep(0.05)
sys.exit(1)
END
}
becomes() { # becomes WANT PATH KEY: within 3 s
    local i got
    for i in $(seq 30); do
        got=$(status "$2" "$3")
        [ "$got" = "$1" ] && return 0
        sleep 0.1
    done
    echo "$got instead of $1" > becomes.log
    return 1
}
[ "$(status /v1/score "$(cat sue)")" = 200 ] && sed -i '/^sue/d' keys && becomes 401 /v1/score "$(cat sue)"
verdict $? "a key that is taken out of the file counts no longer" becomes.log
"$infer" key --keys keys --name sam --scopes score --per-minute 3 > sam 2> key.log && becomes 200 /v1/score "$(cat sam)" &&
    becomes 429 /v1/score "$(cat sam)" && [ "$(status /v1/score "$(cat alice)")" = 200 ]
verdict $? "a quota is a key's own" becomes.log
refused 2 'UTF-8' "$infer" key --keys keys --name $'M\xfcller' --scopes score
verdict $? "a name that the audit log could not hold is refused" refused.log
cp keys keys.whole && printf 'M\xfcller %s score 0\n' "$(printf 'ehr_x' | sha256sum | cut -c1-64)" >> keys
for i in $(seq 30); do grep -q 'UTF-8' main.err && break; sleep 0.1; done
[ "$(status /v1/score "$(cat alice)")" = 200 ] && grep -q 'line 3.*UTF-8.*the keys stay' main.err
verdict $? "nor is it read: the keys stay as they were" main.err
cp keys.whole keys
stop
verdict $? "SIGTERM ends it with exit code 0" main.err

# ---- the audit log -----------------------------------------------------------------------------------------------------
"$infer" audit verify audit.log > verify.log 2>&1
verdict $? "the audit log's chain holds" verify.log
head=$(sed -n 's/^head //p' verify.log)
"$infer" audit verify audit.log --head "$head" > verify.log 2>&1
verdict $? "and ends with its head" verify.log
while IFS='|' read -r name words command; do
    cp audit.log edited.log
    eval "$command"
    refused 1 "$words" "$infer" audit verify edited.log --head "$head"
    verdict $? "an audit log with $name is seen" refused.log
done << 'END'
an edited line|line 3 was changed|sed -i '3s/"status":[0-9]*/"status":299/' edited.log
a removed line|line 4 (numbered 5) does not follow|sed -i '4d' edited.log
a line twice|does not follow|sed -i '4p' edited.log
two lines swapped|does not follow|sed -i '4{h;d};5{G}' edited.log
its end cut off|lines were cut off|sed -i '$d' edited.log
half a line at the end|is not whole|truncate -s -20 edited.log
something else in it|is no line|sed -i '2i {"seq": 2}' edited.log
END
cp audit.log edited.log && sed -i '3s/"status":[0-9]*/"status":299/' edited.log
refused 1 'line 3 was changed' "$infer" serve r --port 0 --audit edited.log
verdict $? "a server does not go on with an edited log" refused.log
cp audit.log keyless.log
refused 2 'keyless.log.key is missing: put the key back' "$infer" serve r --port 0 --audit keyless.log && [ ! -e keyless.log.key ]
verdict $? "nor makes a lost key of a log anew" refused.log

# ---- more than it can do -----------------------------------------------------------------------------------------------
start small --queue 2 --batch 8 --audit small.log --deadline 300
"$python" "$client" burst "$url" none 24 48 > burst.log 2>&1
awk '$1 == "retry" { retry = $2; next } { n += $1; if ($2 == 200) good = $1; else if ($2 == 429) full = $1; else bad = 1 }
    END { exit bad || n != 24 || good < 2 || full < 1 || retry != full }' burst.log
verdict $? "a full queue: answers, and 429 with Retry-After, nothing else" burst.log
refused 2 'another server' "$infer" serve r --port 0 --audit small.log
verdict $? "two servers do not write one audit log" refused.log
stop
start nameless --once
"$python" "$client" once "$url" > once.log 2>&1 && [ "$(status /health none)" = 200 ]
verdict $? "--once: no request without a name, none twice" once.log
stop
start late --deadline 0.2
"$python" "$client" burst "$url" none 3 1000 > burst.log 2>&1
grep -q '^3 504$' burst.log
verdict $? "deadlines" burst.log
kill_server
start kill --kill-file off --deadline 300 --drain 300
[ "$(status /ready none)" = 200 ] && touch off && becomes 503 /ready none && [ "$(status /v1/score none)" = 503 ] && [ "$(status /health none)" = 200 ] &&
    rm off && becomes 200 /ready none && [ "$(status /v1/score none)" = 200 ]
verdict $? "the kill switch goes on and off" kill.err
"$python" "$client" burst "$url" none 8 200 > burst.log 2>&1 &
asking=$!
busy
touch off
wait $asking
grep -q '503' burst.log && ! grep -qvE '^[0-9]+ (200|503)$|^retry' burst.log
verdict $? "and stops what was being computed" burst.log
rm -f off
"$python" "$client" burst "$url" none 6 40 > burst.log 2>&1 &
asking=$!
busy
stop
rc=$?
wait $asking
[ $rc = 0 ] && grep -q '200' burst.log && ! grep -qvE '^[0-9]+ (200|503|ConnectionRefusedError)$|^retry' burst.log
verdict $? "SIGTERM: those that are there get their answers" burst.log

# ---- killed under load -------------------------------------------------------------------------------------------------
start killed --audit killed.log
for _ in 1 2 3; do
    "$python" "$client" burst "$url" none 12 4 killed.answers > burst.log 2>&1 &
    asking=$!
    before=$(grep -c '"action":"risk","status":200' killed.log)
    for _ in $(seq 400); do
        [ "$(grep -c '"action":"risk","status":200' killed.log)" -gt "$before" ] && break
        sleep 0.02
    done
    kill_server
    wait $asking
    start killed --audit killed.log || break
done
all_logged killed.log killed.answers && "$infer" audit verify killed.log > verify.log 2>&1
verdict $? "kill -9 under load, three times: each of $(wc -l < killed.answers) answers is in the log, and it starts again" unlogged
stop
printf '{"seq":9999,"ti' >> killed.log
start torn --audit killed.log && grep -q 'half-written last line' torn.err && stop && "$infer" audit verify killed.log > verify.log 2>&1
verdict $? "a half-written last line is cut off" torn.err

# ---- stages ------------------------------------------------------------------------------------------------------------
{
    "$infer" export r --dtype f32 --out clean && for who in ann bob eve; do "$data" attest --new-key $who || exit 1; done
    { tr -d '\n' < ann.pub; echo " Ann"; tr -d '\n' < bob.pub; echo " Bob"; } > trusted
    echo '{"loss": 2.1, "provenance": {"model_sha256": "'"$(sha256sum < clean/model.safetensors | cut -c1-64)"'"}}' > report.json
    echo '{"gates": [{"metric": "loss", "max": 9}]}' > gates.json
    promote() { "$infer" promote "${4:-clean}" --to "$1" --report report.json --gates gates.json --signing-key "$2" --name "$2" --role tester ${3:+--expires $3}; }
    "$infer" sign clean --signing-key ann --name ann --role owner && promote internal ann && promote partner ann
} > made.log 2>&1
verdict $? "sign and promote" made.log
staged="--port 0 --trusted-keys trusted --keys keys --audit staged.log"
refused 1 'partner needs 2' "$infer" serve clean --stage partner $staged
verdict $? "one signer where two are due: not served" refused.log
cp -r clean early
{ promote partner bob && cp -r early expired && promote partner bob 2001-01-01 expired; } > made.log 2>&1
cp -r clean tampered
printf 'x' | dd of=tampered/model.safetensors bs=1 seek=100000 conv=notrunc 2> /dev/null
refused 1 'was changed after it was signed' "$infer" serve tampered --stage partner $staged
verdict $? "one byte of the weights: not served" refused.log
refused 1 'model.safetensors' "$infer" serve tampered --port 0
verdict $? "not even without a stage" refused.log
refused 1 'has not reached stage partner' "$infer" serve expired --stage partner $staged
verdict $? "a promotion that has expired: not served" refused.log
refused 1 'was changed after it was signed' "$infer" serve clean --stage partner $staged --shadow tampered
verdict $? "one byte of a shadow's weights: not served" refused.log
refused 1 'has not reached stage general' "$infer" serve clean --stage general $staged
verdict $? "not promoted that far: not served" refused.log
refused 2 'needs --trusted-keys' "$infer" serve clean --stage partner --port 0 --keys keys --audit staged.log
verdict $? "a stage needs to know whose word counts" refused.log
refused 2 'needs --keys and --audit' "$infer" serve clean --stage partner --port 0 --trusted-keys trusted
verdict $? "beyond research it is known who asks" refused.log
refused 2 'only with --keys' "$infer" serve clean --port 0 --bind 0.0.0.0
verdict $? "beyond this machine only with keys" refused.log
touch revoked
served=clean
start staged --stage partner ${staged#--port 0} --revoked revoked
served=r
[ "$(status /v1/score "$(cat alice)")" = 200 ] && sha256sum < clean/model.safetensors | cut -c1-64 > revoked && becomes 503 /v1/score "$(cat alice)"
verdict $? "promoted by two: served, until it is revoked" staged.err
mv revoked revoked.kept && sleep 0.3 && [ "$(status /v1/score "$(cat alice)")" = 503 ]
verdict $? "for good, though the list goes away" staged.err
stop
refused 1 'cannot read revoked' timeout 20 "$infer" serve clean --port 0 --revoked revoked
verdict $? "a list of revoked models that is not there is told" refused.log
mv revoked.kept revoked
refused 1 'was revoked' timeout 20 "$infer" serve clean --port 0 --revoked revoked
verdict $? "a revoked checkpoint is not served without a stage either" refused.log
refused 1 'was revoked' "$infer" serve clean --stage partner $staged --revoked revoked
verdict $? "a revoked checkpoint is not served again" refused.log
for words in 'partner needs 2' 'tampered/model.safetensors was changed' 'expired has not reached stage partner' 'has not reached stage general' 'was revoked'; do
    grep '"action":"refused to start: ' staged.log | grep -q "$words" || echo "no line of: $words"
done > missing.log
[ ! -s missing.log ] && [ "$(grep -c '"action":"refused to start: ' staged.log)" = 6 ] && "$infer" audit verify staged.log > verify.log 2>&1
verdict $? "each of these refusals is in the log, and its chain holds" missing.log

# ---- TLS ---------------------------------------------------------------------------------------------------------------
if command -v openssl > /dev/null && openssl req -x509 -newkey rsa:2048 -nodes -keyout tls.key -out tls.pem -days 2 -subj /CN=localhost \
    -addext subjectAltName=IP:127.0.0.1 > tls.log 2>&1; then
    start tls --tls-cert tls.pem --tls-key tls.key --audit tls.audit
    "$python" - "$url" > tls.log 2>&1 << 'END'
import socket, ssl, sys, urllib.parse, urllib.request
said = urllib.request.urlopen(sys.argv[1] + "/health", context=ssl.create_default_context(cafile="tls.pem"), timeout=20).read()
assert b"ok" in said and sys.argv[1].startswith("https"), said
u = urllib.parse.urlsplit(sys.argv[1])
# A connection that is kept, then left without a word or as TLS says goodbye; then what is not HTTP any more.
for end, newest in (("cut", "TLSv1_3"), ("closed", "TLSv1_3"), ("closed", "TLSv1_2"), ("garbage", "TLSv1_3")):
    context = ssl.create_default_context(cafile="tls.pem")
    context.maximum_version = ssl.TLSVersion[newest]
    with context.wrap_socket(socket.create_connection((u.hostname, u.port), timeout=20), server_hostname="127.0.0.1") as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while not got.endswith(b"}"):
            got += s.recv(65536) or sys.exit("closed behind %r" % got)
        assert b" 200 OK" in got, got
        if end == "closed":
            s.unwrap()
        elif end == "garbage":
            s.sendall(b"garbage\r\n\r\n")
            while s.recv(65536):
                pass
END
    verdict $? "TLS by certificate files" tls.log
    for _ in $(seq 50); do grep -q '"action":"other","status":400' tls.audit && break; sleep 0.05; done
    [ "$(grep -c '"action":"other"' tls.audit)" = 1 ]
    verdict $? "garbage behind a request is in the log there, too, and good connections are not" tls.audit
    stop
    refused 1 'cannot listen' "$infer" serve r --port 0 --tls-cert tls.pem --tls-key report.json
    verdict $? "a key that is none" refused.log
else
    echo "skip - TLS by certificate files: no openssl"
fi
exit $failed
