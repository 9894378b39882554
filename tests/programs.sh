#!/bin/sh
# Installs the programs that tests need and no package index has, where that may be done: elsewhere their tests are
# skipped, and say so.
missing=
command -v chromium >/dev/null || missing="$missing chromium"
ldconfig -p 2>/dev/null | grep -q libatomic.so.1 || missing="$missing libatomic1" # for what drives the browser
command -v curl >/dev/null || missing="$missing curl"
command -v ip >/dev/null || missing="$missing iproute2"
command -v ssh >/dev/null || missing="$missing openssh-client"
[ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
[ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
echo "Installing by apt-get, for the tests:$missing"
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >/dev/null ||
    echo "...which did not work: the tests that need them are skipped"
