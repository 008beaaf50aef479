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

for form in "" "--keys keys"; do
    # shellcheck disable=SC2086
    start serve --deadline 300 $form
    # shellcheck disable=SC2046
    "$python" "$root/tests/page_browser.py" "$url" $([ -z "$form" ] || cat alice) > page.log 2>&1
    rc=$?
    [ $rc = 0 ] || cat page.log
    verdict $rc "the page${form:+ behind keys}: $(grep -c '^ok - ' page.log) checks" serve.err
    stop || failed=1
done
exit $failed
