#!/bin/sh
# setup.sh - installs what building, testing and the quickstart need, if it is missing: Debian or Ubuntu packages with
# apt-get (as root, or through sudo), Python packages into .venv.  Takes a moment when nothing is missing.
#   setup.sh            everything
#   setup.sh parity     also torch and transformers, for `make test-parity`
#   setup.sh browser    also Chromium and selenium, to test the page of `ehr-infer serve` (Debian)
#   setup.sh cds        also flask and the like, for scripts/cds_hooks_sidecar.py
#   setup.sh meds       also pyarrow and meds, for scripts/meds_to_events.py and events_to_meds.py
#   setup.sh openai     also OpenAI's client, which tests/test_serve.sh asks `ehr-infer serve` with
set -eu
[ "${1:-}" != --help ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0; }
cd "$(dirname "$0")/.."

packages="gcc g++ libc6-dev make pkg-config libopenmpi-dev openmpi-bin libhdf5-dev libjansson-dev libzip-dev zlib1g-dev \
libsodium-dev libpcre2-dev libmicrohttpd-dev libcmocka-dev python3 python3-venv iproute2 patchelf"
[ "${1:-}" != browser ] || packages="$packages chromium chromium-driver"

missing() {
    if command -v dpkg-query > /dev/null 2>&1; then
        installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $packages 2> /dev/null | sed -n 's/^installed //p' | tr '\n' ' ')
        for p in $packages; do
            case " $installed " in *" $p "*) ;; *) printf '%s ' "$p" ;; esac
        done
    fi
}

if ! command -v dpkg-query > /dev/null 2>&1; then
    if ! sh scripts/detect.sh "$(mktemp -d)" 2> /dev/null | grep -q 'HDF5_LIBS'; then
        echo "setup: this is not Debian or Ubuntu; install the like of these packages yourself, then run make again:" >&2
        echo "  $packages" >&2
        exit 1
    fi
else
    need=$(missing)
    if [ -n "$need" ]; then
        if [ "$(id -u)" = 0 ]; then
            run=""
        elif command -v sudo > /dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2> /dev/null; }; then
            run="sudo"
        else
            echo "setup: missing packages, and no right to install them.  Ask an administrator to type this line:" >&2
            echo "  apt-get update && apt-get install -y $need" >&2
            # Tests and the bundle need more than the programs do.
            ! sh scripts/detect.sh "$(mktemp -d)" 2> /dev/null | grep -q 'error no ' || exit 1
            echo "setup: the programs can be built without; going on" >&2
            run=no
        fi
        if [ "$run" != no ]; then
            echo "setup: installing $need"
            $run apt-get -qq update
            # shellcheck disable=SC2086
            $run env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $need > /dev/null
            rm -f build/detect.mk build-san/detect.mk # it told what was missing
        fi
    fi
fi

# Python, for the evaluation scripts only.  The stamp is the list that was installed.
venv() { # venv LIST STAMP
    if ! cmp -s "$1" ".venv/$2"; then
        # One without pip was interrupted while it was made.
        if ! .venv/bin/python -c 'import pip' 2> /dev/null; then
            python3=python3
            python3 -c 'import ensurepip, venv' 2> /dev/null || python3=/usr/bin/python3
            $python3 -m venv .venv
        fi
        echo "setup: installing the Python packages of $1 into .venv"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$1"
        cp "$1" ".venv/$2"
    fi
}
venv scripts/requirements.txt stamp
case "${1:-}" in parity | meds | browser | cds | openai) venv "scripts/requirements-$1.txt" "stamp-$1" ;; esac
