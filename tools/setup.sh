#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The machine's package state in, every program and header that building and testing bpfence needs out.
# Called by `make dev`. Installs with apt only what is missing; on other distributions it prints what is missing and stops.
set -euo pipefail

ask_python=${BPFENCE_PYTHON:-}
PATH=${PATH#*/.build/bin:} # the Makefile puts its own link to bpftool first
say() { printf '  %s\n' "$*"; }

# One line a need: the file or command that shows it is there, then the Debian package.
needs='
command:gcc gcc
command:clang clang
command:llvm-strip llvm
command:pkg-config pkg-config
command:qemu-system-x86_64 qemu-system-x86
command:busybox busybox-static
command:kmod kmod
command:ip iproute2
command:udevadm udev
command:gpgv gpgv
command:sqlite3 sqlite3
command:xz xz-utils
command:openssl openssl
pkg:libbpf libbpf-dev
pkg:libelf libelf-dev
pkg:zlib zlib1g-dev
file:/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
lib:libseccomp.so.2 libseccomp2
'

present() {
    case $1 in
        command:*) command -v "${1#*:}" >/dev/null ;;
        pkg:*) command -v pkg-config >/dev/null && pkg-config --exists "${1#*:}" ;;
        file:*) [ -e "${1#*:}" ] ;;
        lib:*) case $(PATH=$PATH:/sbin:/usr/sbin ldconfig -p) in *"${1#*:}"*) ;; *) return 1 ;; esac ;;
    esac
}

python_fits() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in $ask_python /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && python_fits "$name"; then command -v "$name"; return 0; fi
    done
    return 1
}

# Ubuntu ships bpftool per kernel; the wrapper in PATH refuses to run under any other kernel, the real one below does not.
find_bpftool() {
    local path
    for path in "$(command -v bpftool || true)" /usr/sbin/bpftool /usr/lib/linux-tools/*/bpftool /usr/lib/linux-tools-*/bpftool; do
        if [ -x "$path" ] && "$path" version >/dev/null 2>&1; then echo "$path"; return 0; fi
    done
    return 1
}

has_python_headers() {
    local python
    python=$(find_python) || return 1
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'
}

missing=()
while read -r mark package; do
    [ -n "$mark" ] || continue
    present "$mark" || missing+=("$package")
done <<<"$needs"

if command -v apt-get >/dev/null; then
    available() { apt-cache show "$1" >/dev/null 2>&1; }
    root=()
    if [ "$(id -u)" != 0 ]; then root=(sudo); fi
    refreshed=no
    install() {
        if ! { [ "$(id -u)" = 0 ] || command -v sudo >/dev/null; }; then
            echo "missing packages: $*; install them as root, or install sudo" >&2; exit 3
        fi
        if [ $refreshed = no ]; then say "refreshing the package lists"; "${root[@]}" apt-get update -qq; refreshed=yes; fi
        say "installing: $*"
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    }
    if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi
    if ! find_bpftool >/dev/null; then
        [ $refreshed = yes ] || { "${root[@]}" apt-get update -qq; refreshed=yes; }
        # A variable, not a pipe into grep -q: that ends early, and under pipefail apt-cache's SIGPIPE would read as "not there".
        candidate=$(LC_ALL=C apt-cache policy bpftool)
        case $candidate in
            *'Candidate: '[0-9]*) install bpftool ;;
            *) install linux-tools-common linux-tools-generic ;;
        esac
    fi
    if ! find_python >/dev/null; then
        install python3 python3-venv python3-dev
        for version in 3.13 3.12 3.11; do
            find_python >/dev/null && break
            if available "python$version-venv"; then install "python$version" "python$version-venv" "python$version-dev"; fi
        done
    fi
    if ! has_python_headers; then
        python=$(find_python) || true
        if [ "$python" = /usr/bin/python3 ]; then install python3-dev; elif [ -n "$python" ]; then install "$(basename "$python")-dev"; fi
    fi
elif [ ${#missing[@]} -gt 0 ] || ! find_bpftool >/dev/null || ! has_python_headers; then
    find_bpftool >/dev/null || missing+=(bpftool)
    has_python_headers || missing+=("Python 3.11 or later with venv and headers")
    printf 'missing (names of the Debian packages): %s\ninstall them with your package manager and run make dev again\n' "${missing[*]}" >&2
    exit 3
fi

find_python >/dev/null || { echo "no Python 3.11 or later with venv was found; set BPFENCE_PYTHON" >&2; exit 3; }
find_bpftool >/dev/null || { echo "bpftool was not found" >&2; exit 3; }
say "system packages are complete"
find_python >"${1:?usage: setup.sh FILE-FOR-PYTHON-PATH FILE-FOR-BPFTOOL-PATH}"
find_bpftool >"${2:?}"
