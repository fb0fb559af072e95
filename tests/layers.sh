#!/bin/bash
# The layers of the design, read off the #include lines: each folder includes itself and what it stands on, nothing else.
# Also: includes are written from the root, and no two files of the program share a name.
cd "$(dirname "$0")/.." || exit 1
status=0
report() { # NAME PROBLEMS
	if [ -z "$2" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1"
		printf '%s\n' "$2" | sed 's/^/# /'
		status=1
	fi
}
layers="common tokenizer data kernels engine tools"
# Engine reads data through one door, data/loader.h.
allowed_common="common"
allowed_tokenizer="common tokenizer"
allowed_data="common tokenizer data"
allowed_kernels="common kernels"
allowed_engine="common kernels engine"
allowed_tools="$layers"

# LAYER:FILE:LINE:INCLUDED of every quoted include under a layer.
includes=$(for layer in $layers; do
	find "$layer" -type f \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) \
		-exec grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' {} + |
		sed -E "s/^([^:]*:[0-9]*):[^\"]*\"([^\"]*)\".*/$layer:\1:\2/"
done)
[ "$(printf '%s\n' "$includes" | wc -l)" -ge 20 ] || report "the includes were found" "fewer than 20 include lines"

for layer in $layers; do
	allowed=allowed_$layer problems=
	while IFS=: read -r from file line included; do
		[ "$from" = "$layer" ] || continue
		to=${included%%/*}
		[ "$to" != "$included" ] && [ -e "$included" ] ||
			problems+="$file:$line: \"$included\" is not a path from the root"$'\n'
		[ "$layer" = engine ] && [ "$included" = data/loader.h ] && continue
		case " ${!allowed} " in
		*" $to "*) ;;
		*) problems+="$file:$line: $layer must not include $included"$'\n' ;;
		esac
	done <<<"$includes"
	report "$layer includes only: ${!allowed}$([ $layer = engine ] && echo ', data/loader.h')" "$problems"
done

problems=$(find $layers -type f \( -name '*.[ch]' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.S' \) |
	sed 's|.*/||' | sort | uniq -d)
report "file names are unique in the tree" "$problems"
exit $status
