#!/bin/bash
# test_page.sh BUILD - the page of `ehr-infer serve` in a headless Chromium, with and without keys (page_browser.py).
. "$(dirname "$0")/shell.sh"
. "$root/tests/serve.sh"
{ command -v chromedriver && "$python" -c 'import selenium'; } > /dev/null 2>&1 ||
    skip_all "the page of ehr-infer serve" "no browser: sh scripts/setup.sh browser"
{
    "$data" synth --patients 200 --risk-samples 0 --out events && "$data" tokenize events/events.h5 --vocabulary events/vocabulary.json --out d &&
        "$build/ehr-train" --data d $tiny --steps 40 --out r &&
        "$infer" key --keys keys --name alice --scopes all > alice
} > made.log 2>&1
verdict $? "make a checkpoint and a key" made.log

sha=$(sha256sum < r/latest/model.safetensors | cut -c1-64)
(cd "$root/scripts" && "$python" -c '
import json, sys, recalibrate
r = {"slope": 0.5, "intercept": 1.0, "rows": 200, "known": 150, "positive": 30, "fitted": "slope and intercept", "alerts_per_100": 10, "threshold": 0.5,
     "budgets": [], "outcome": "admission_3mt", "model_sha256": sys.argv[1], "labels_sha256": "x",
     "outcome_codes": ["VISIT//NONE", "VISIT//IN"], "stop_codes": [], "horizon_minutes": 90 * 1440, "estimator": "reach"}
json.dump(recalibrate.document([recalibrate.seal(r)]), open(sys.argv[2], "w"))' "$sha" "$work/maps.json")
for form in "--recalibration maps.json" "--keys keys --max-samples 16 --max-tokens 32"; do
    # shellcheck disable=SC2086
    start serve --deadline 300 $form
    # shellcheck disable=SC2046
    "$python" "$root/tests/page_browser.py" "$url" $([ "${form#--keys}" = "$form" ] || cat alice) > page.log 2>&1
    rc=$?
    [ $rc = 0 ] || cat page.log
    verdict $rc "the page, $form: $(grep -c '^ok - ' page.log) checks" serve.err
    stop || failed=1
done
exit $failed
