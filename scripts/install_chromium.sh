#!/bin/sh
# Installs Debian's chromium and chromium-driver, with which tests open a report in a headless browser.
# Does nothing when both are there. Needs root, or sudo without a password.
set -eu

if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then
    echo "chromium is there: $(chromium --version 2>/dev/null || echo 'version unknown')"
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
    echo "install_chromium.sh: there is no apt-get here; install chromium and chromedriver by hand" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "install_chromium.sh: root is needed; run: sudo $0" >&2
        exit 1
    fi
    as_root="sudo -n"
fi
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver
chromium --version
