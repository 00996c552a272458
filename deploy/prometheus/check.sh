#!/bin/sh
# Check Prometheus's configuration and rules, and run the tests of the rules, if promtool is here. `make promtool` installs
# it; PROMTOOL names another one.
set -eu
cd "$(dirname "$0")"
promtool=${PROMTOOL:-promtool}
if ! command -v "$promtool" >/dev/null; then
    echo 'No promtool here: the alerts were not checked or tested. Install it with: make promtool'
    exit 0
fi
"$promtool" check config prometheus.yml
"$promtool" test rules alerts_test.yml
