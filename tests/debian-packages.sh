#!/bin/sh
# Installs the Debian packages that the tests (and, with `bench`, the benchmarks) drive as real parts:
# as root by itself, otherwise it names what is missing and lets the tests that need it skip with the reason.
set -eu
want="prometheus:/usr/bin/prometheus prometheus-alertmanager:/usr/bin/prometheus-alertmanager chromium:/usr/bin/chromium gcc:/usr/bin/gcc openssl:/usr/bin/openssl"
[ "${1:-}" = bench ] && want="$want victoria-metrics:/usr/bin/victoria-metrics"
missing=""
for pair in $want; do
    [ -x "${pair#*:}" ] || command -v "$(basename "${pair#*:}")" >/dev/null 2>&1 || missing="$missing ${pair%%:*}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Debian packages:$missing"
    # A package's service must not start: the tests start their own servers on free ports.
    printf '#!/bin/sh\nexit 101\n' >/tmp/perfwatt-policy-rc.d && chmod +x /tmp/perfwatt-policy-rc.d
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        cp /tmp/perfwatt-policy-rc.d /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "missing Debian packages:$missing" >&2
    echo "as root: apt-get install --no-install-recommends$missing" >&2
    echo "the tests that need them will be skipped, each with its reason" >&2
fi
