#!/bin/bash
# tools/configure.sh's decisions on pretended machines: what it installs, as whom, and what it says where it may not.
. "$(dirname "$0")/tap.bash"
cd "$(dirname "$0")/../.." || exit 1

headers="usr/include/stdio.h usr/include/zstd.h usr/include/xxhash.h usr/include/zlib.h usr/include/simdjson.h
	usr/include/cjson/cJSON.h usr/include/x86_64-linux-gnu/dnnl.h"
machine() { # USER-ID FILES...: a root with these files, and a PATH with what configure.sh calls
	rm -rf "$dir"/*
	mkdir -p "$dir/bin"
	: >"$dir/calls"
	for program in sh mv rm mktemp tail env mkdir touch dirname cat; do
		ln -s "$(command -v $program)" "$dir/bin/$program"
	done
	pretend id "echo $1"
	pretend uname "echo x86_64"
	shift
	for file in "$@"; do
		mkdir -p "$dir/root/$(dirname "$file")"
		touch "$dir/root/$file"
	done
}
pretend() { # PROGRAM SHELL-COMMANDS
	printf '#!/bin/sh\n%s\n' "$2" >"$dir/bin/$1"
	chmod +x "$dir/bin/$1"
}
# apt-get that notes its calls; installing brings every file of "provides".
pretend_apt() {
	pretend apt-get "echo \"apt-get \$*\" >>$dir/calls
		case \$1 in install) while read -r f; do mkdir -p $dir/root/\$(dirname \$f); touch $dir/root/\$f
		done <$dir/provides ;; esac"
	printf '%s\n' usr/bin/gcc usr/bin/g++ usr/bin/zstd usr/include/cmocka.h $headers >"$dir/provides"
}
configure() { # ARGUMENTS: code, $dir/out
	PATH="$dir/bin" ROOT="$dir/root" sh tools/configure.sh "$dir/out.mk" "$@" >"$dir/out" 2>&1
	code=$?
}
calls() {
	cat "$dir/calls"
	[ "$(cat "$dir/calls")" = "$1" ]
}

machine 1000 usr/bin/gcc usr/bin/g++ $headers
configure
test_that "a complete machine needs nothing, not even apt-get" [ $code -eq 0 ]
test_that "and oneDNN is found" grep -qx 'HAVE_DNNL := 1' "$dir/out.mk"
test_that "and no MPI, which it can do without" [ "$(grep -c HAVE_MPI "$dir/out.mk")" -eq 0 ]
pretend mpicc 'exit 1'
configure
test_that "an mpicc that does not work is none" [ $code -eq 0 -a "$(grep -c HAVE_MPI "$dir/out.mk")" -eq 0 ]
pretend mpicc 'exit 0'
configure
test_that "MPI is found where it is" grep -qx 'HAVE_MPI := 1' "$dir/out.mk"

# Make itself, which includes what configure.sh wrote.
machine 1000 usr/bin/gcc usr/bin/g++ $headers
for program in make find gcc g++; do
	ln -s "$(command -v $program)" "$dir/bin/$program"
done
made() { # out: what make says of the file
	env -u MAKEFLAGS -u MAKELEVEL PATH="$dir/bin" ROOT="$dir/root" make B="$dir/b" "$dir/b/config.mk" >"$dir/out" 2>&1
	code=$?
}
made
test_that "make finds no MPI either" [ $code -eq 0 -a "$(grep -c HAVE_MPI "$dir/b/config.mk")" -eq 0 ]
made
test_that "... and looks no second time" out_has "up to date"
pretend mpicc 'exit 0'
made
test_that "... but when one is installed later" [ $code -eq 0 -a "$(grep -c HAVE_MPI "$dir/b/config.mk")" -eq 1 ]
made
test_that "... once" out_has "up to date"
rm "$dir/bin/mpicc"
made
test_that "... or has gone" [ $code -eq 0 -a "$(grep -c HAVE_MPI "$dir/b/config.mk")" -eq 0 ]

machine 0
pretend_apt
configure
test_that "root on a bare machine installs, and succeeds" [ $code -eq 0 ]
test_that "with an update first and every package" calls "apt-get update
apt-get install -y --no-install-recommends gcc g++ libc6-dev libzstd-dev libxxhash-dev zlib1g-dev libcjson-dev libsimdjson-dev libdnnl-dev"

machine 0 usr/bin/gcc usr/bin/g++ $headers
pretend_apt
configure test
test_that "the tests need cmocka and zstd besides" calls "apt-get update
apt-get install -y --no-install-recommends libcmocka-dev zstd"

machine 1000 usr/bin/gcc usr/bin/g++ $headers
rm "$dir/root/usr/include/zstd.h"
pretend_apt
configure
test_that "a user without sudo is refused" [ $code -ne 0 ]
test_that "and told the one command" out_has "sudo apt-get update && sudo apt-get install -y --no-install-recommends libzstd-dev"
test_that "and nothing was installed or written" [ ! -s "$dir/calls" -a ! -e "$dir/out.mk" ]

machine 1000 usr/bin/gcc usr/bin/g++ $headers
rm "$dir/root/usr/include/zstd.h"
pretend_apt
pretend sudo "[ \"\$1\" = -n ] && exit 0; echo sudo >>$dir/calls; exec \"\$@\""
configure
test_that "a user with sudo installs through it" calls "sudo
apt-get update
sudo
apt-get install -y --no-install-recommends libzstd-dev"

machine 0 usr/bin/gcc usr/bin/g++ $headers
rm "$dir/root/usr/include/zstd.h"
pretend apt-get 'echo "E: no network" >&2; exit 100'
configure
test_that "a failed installation is a failure" [ $code -ne 0 ]
test_that "that shows why" out_has "E: no network"

machine 0 usr/bin/gcc
configure
test_that "without apt-get the packages are named" out_has "libdnnl-dev"
test_that "and it stops" [ $code -ne 0 ]

machine 0 usr/bin/gcc usr/bin/g++ $headers usr/include/cblas.h
rm "$dir/root/usr/include/x86_64-linux-gnu/dnnl.h"
pretend uname "echo riscv64"
configure
test_that "where Debian has no oneDNN, OpenBLAS will do" grep -qx 'HAVE_BLAS := 1' "$dir/out.mk"
exit $status
