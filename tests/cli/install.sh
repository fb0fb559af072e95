#!/bin/bash
# `make install` into an empty prefix: the program runs from there, and the manual page holds every flag of every command.
. "$(dirname "$0")/tap.bash"
ferry=$(realpath "$ferry")
cd "$(dirname "$0")/../.." || exit 1
installed=$dir/usr/bin/ferry page=$dir/usr/share/man/man1/ferry.1
test_that "make install" env -u MAKEFLAGS -u MAKELEVEL make B="$(dirname "$ferry")" PREFIX=/usr DESTDIR="$dir" install
test_that "the program is there and is the one built" cmp "$ferry" "$installed"
test_that "it runs from there" bash -c "cd / && '$installed' --version"
test_that "the page names its version" grep -q "ferry $(cat VERSION)" "$page"
test_that "no marker is left in the page" bash -c "! grep -n '^@\|@VERSION@' '$page'"
mapfile -t commands < <("$ferry" help | sed -n 's/^  \([a-z-]*\) .*/\1/p' | grep -vx ferry)
test_that "there are commands" test "${#commands[@]}" -ge 12
for command in "${commands[@]}"; do
	test_that "the page has every flag of $command" bash -c "
		set -o pipefail
		flags=\$('$ferry' help $command | sed -n 's/^  \(--[a-z0-9_-]*\).*/\1/p')
		[ \"\$flags\" ] || exit 1
		awk -v start='.SS ferry $command' '/^\.S/ { on = (\$0 == start) } on' '$page' | sed 's/\\\\//g' >'$dir/section'
		for flag in \$flags; do grep -q -- \"^fB\$flag\" '$dir/section' || { echo \"missing: \$flag\"; exit 1; }; done"
done
if command -v man >/dev/null && command -v groff >/dev/null; then
	test_that "troff has nothing to say about it" bash -c "
		warnings=\$(groff -man -Tascii -ww '$page' 2>&1 >/dev/null); echo \"\$warnings\"; [ -z \"\$warnings\" ]"
else
	echo "ok - troff has nothing to say about it # SKIP groff is not installed"
fi
exit $status
