#!/bin/sh
# configure.sh FILE [test|fuzz]: finds what ferry builds with (and is tested or fuzzed with), installs what is missing
# (Debian's packages, as root or through sudo), and writes make variables to FILE. Nothing is installed where
# everything is there already; where it may not install, it prints the one command that does and stops. ROOT=DIR
# looks under DIR instead of / (for its own test).
set -eu
out=$1
root=${ROOT:-}

# What must be there, as "package:file that shows it is there".
needed="gcc:/usr/bin/gcc g++:/usr/bin/g++ libc6-dev:stdio.h
libzstd-dev:zstd.h libxxhash-dev:xxhash.h zlib1g-dev:zlib.h libcjson-dev:cjson/cJSON.h
libsimdjson-dev:simdjson.h"
case $(uname -m) in # Debian has oneDNN for these; OpenBLAS stands in on others
x86_64 | aarch64 | ppc64le | s390x) needed="$needed libdnnl-dev:dnnl.h" ;;
*) needed="$needed libopenblas-dev:cblas.h" ;;
esac
case ${2:-} in
test) needed="$needed libcmocka-dev:cmocka.h zstd:/usr/bin/zstd" ;;
fuzz) needed="$needed clang:/usr/bin/clang libclang-rt-dev:/usr/lib/llvm-*/lib/clang/*/lib/linux/libclang_rt.fuzzer-*.a" ;;
esac

there() {
	case $1 in
	/*)
		for d in "$root"$1; do # a pattern, perhaps
			[ -e "$d" ] && return 0
		done
		return 1
		;;
	*)
		for d in "$root"/usr/include "$root"/usr/local/include "$root"/usr/include/*-linux-gnu; do
			[ -e "$d/$1" ] && return 0
		done
		return 1
		;;
	esac
}
list_missing() {
	missing=
	for item in $needed; do
		there "${item#*:}" || missing="$missing ${item%%:*}"
	done
}

list_missing
if [ -n "$missing" ]; then
	if ! command -v apt-get >/dev/null; then
		echo "ferry needs these Debian packages, or your system's names for them:$missing" >&2
		exit 1
	fi
	install="apt-get install -y --no-install-recommends$missing"
	if [ "$(id -u)" = 0 ]; then
		as_root=
	elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
		as_root=sudo
	else
		echo "Packages are missing. Run this, then make again:" >&2
		echo "  sudo apt-get update && sudo $install" >&2
		exit 1
	fi
	echo "installing:$missing" >&2
	log=$(mktemp)
	if ! { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive $install; } >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		echo "That failed: ${as_root:+sudo }$install" >&2
		rm -f "$log"
		exit 1
	fi
	rm -f "$log"
	list_missing
	if [ -n "$missing" ]; then
		echo "installed, but still not found:$missing" >&2
		exit 1
	fi
fi
{
	if there dnnl.h; then echo "HAVE_DNNL := 1"; fi
	if there cblas.h; then echo "HAVE_BLAS := 1"; fi
	if echo "#include <mpi.h>" | mpicc -x c -c -o /dev/null - >/dev/null 2>&1; then echo "HAVE_MPI := 1"; fi
} >"$out.tmp"
mv "$out.tmp" "$out"
