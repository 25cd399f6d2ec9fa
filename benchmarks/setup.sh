#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The machine's package state in, every program that the rows of benchmarks/macro.py run out.
# Called by `make bench` and `make bench-quick`. Installs with apt only what is missing, and says so; elsewhere it prints what is missing and stops.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

# The command that shows it is there, then the Debian package.
needs='
gcc gcc
as binutils
find findutils
grep grep
sqlite3 sqlite3
nginx nginx-light
ab apache2-utils
redis-server redis-server
redis-benchmark redis-tools
python3 python3
nsenter util-linux
'

missing=()
while read -r program package; do
    [ -n "$program" ] || continue
    command -v "$program" >/dev/null || missing+=("$package")
done <<<"$needs"
[ ${#missing[@]} -gt 0 ] || exit 0

root=()
if [ "$(id -u)" != 0 ]; then root=(sudo); fi
if ! command -v apt-get >/dev/null || { [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; }; then
    echo "missing (names of the Debian packages), which the benchmarks of whole programs run: ${missing[*]}" >&2
    exit 3
fi
echo "  installing what the benchmarks of whole programs run: ${missing[*]}"
case " ${missing[*]} " in
    *' nginx-light '* | *' redis-server '*) echo '  (servers start with their packages; systemctl disable --now nginx redis-server ends them)' ;;
esac
"${root[@]}" apt-get update -qq
"${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
