#!/bin/sh
# configure.sh FILE: finds what ferry builds with, installs what is missing (Debian's packages, as root or through
# sudo), and writes make variables to FILE. Nothing is installed where everything is there already.
set -eu
out=$1

# What must be there to build and to test, as "package:file that shows it is there".
needed="gcc:/usr/bin/gcc g++:/usr/bin/g++ pkg-config:/usr/bin/pkg-config
libzstd-dev:zstd.h libxxhash-dev:xxhash.h zlib1g-dev:zlib.h libcjson-dev:cjson/cJSON.h
libsimdjson-dev:simdjson.h libdnnl-dev:dnnl.h libcmocka-dev:cmocka.h"

there() {
	case $1 in
	/*) [ -e "$1" ] ;;
	*) for d in /usr/include /usr/local/include /usr/include/*-linux-gnu; do [ -e "$d/$1" ] && return 0; done; return 1 ;;
	esac
}
missing=
for item in $needed; do
	there "${item#*:}" || missing="$missing ${item%%:*}"
done
if [ -n "$missing" ]; then
	command="apt-get install -y --no-install-recommends$missing"
	if ! command -v apt-get >/dev/null; then
		echo "ferry needs these Debian packages (or your system's names for them):$missing" >&2
		exit 1
	fi
	if [ "$(id -u)" = 0 ]; then
		as_root=
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		as_root=sudo
	else
		echo "Some packages are missing. Run this, then make again:" >&2
		echo "  sudo $command" >&2
		exit 1
	fi
	echo "installing:$missing" >&2
	$as_root apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive $as_root $command >/dev/null
fi
{
	if there dnnl.h; then echo "HAVE_DNNL := 1"; fi
	if there cblas.h; then echo "HAVE_BLAS := 1"; fi
	if command -v nvcc >/dev/null; then echo "HAVE_NVCC := 1"; fi
} >"$out.tmp"
mv "$out.tmp" "$out"
