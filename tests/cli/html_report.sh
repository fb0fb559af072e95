#!/bin/bash
# ferry inspect --html: the page tells what the corpus holds, text from documents and paths stays text, every element
# is closed; and a browser, where there is one, shows it all, runs nothing and has no complaint.
. "$(dirname "$0")/tap.bash"
page=$dir/report.html

mkdir "$dir/in"
hostile='</pre></script><img src=x onerror=alert(1)><script>document.title=1</script> & \"quoted\" \u0007 \ud800 \u202e \u65e5\u672c'
for i in $(seq 40); do echo "{\"text\": \"$hostile $i $(seq -s ' ' $((i * 1000)) $((i * 1001)))\"}"; done >"$dir/in/<b>a & b.jsonl"
echo '{"text": "the same twice"}' | tee "$dir/in/c.json" >"$dir/in/d.json"
printf '{"text": ""}\n{"text": 3}\n{"text": "no end\n{"text": "no end\n' >"$dir/in/e.jsonl"
words=$(seq -s ' ' 1000 1099)
printf '{"text": "%s"}\n' "$words" "A few words: $words" >"$dir/in/f.jsonl"
run preprocess "$dir/in" --output "$dir/corpus" --sources --dedup near
test_that "a corpus of hostile text" [ $code -eq 0 ]

run inspect "$dir/corpus" --html "$page" --split 9,1
test_that "--html: exit 0, and the file's name" [ $code -eq 0 -a "$(cat "$dir/out")" = "$page" ]
page_has() { grep -qF -- "$1" "$page"; }
page_lacks() { ! grep -qF -- "$1" "$page"; }
test_that "documents kept" page_has '<b>42</b><span>documents</span>'
test_that "near-duplicates" page_has 'near-duplicates</td><td class="n">1</td>'
test_that "why rejected, how many, and where first" page_has "<td class=\"n\">2</td><td><bdi>$dir/in/e.jsonl, line 3</bdi>"
test_that "splits" page_has '9,1</th>'
test_that "sources, escaped" page_has "$dir/in/&lt;b&gt;a &amp; b.jsonl</bdi></td><td class=\"n\">40</td>"
test_that "documents, escaped" page_has '&lt;/pre&gt;&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;'
test_that "no element of theirs" page_lacks '<img'
test_that "no script" page_lacks '<script'
test_that "nothing to load" page_lacks 'http:'
cp "$dir/in/f.jsonl" "$dir/mine"
run inspect "$dir/corpus" --html "$dir/mine"
test_that "a file that is no page is not replaced" [ $code -eq 2 -a "$(cat "$dir/mine")" = "$(cat "$dir/in/f.jsonl")" ]
cp "$page" "$dir/again.html"
run inspect "$dir/corpus" --html "$dir/again.html" --split 9,1
test_that "the same page each time" cmp -s "$page" "$dir/again.html"
run inspect "$dir/corpus" --html "$dir/in"
test_that "a directory: exit 2" [ $code -eq 2 ]
test_that "and says so" err_has "$dir/in: is a directory"
run inspect "$dir/corpus" --html "$dir/nowhere/report.html"
test_that "no such folder: exit 1" [ $code -eq 1 ]
run inspect "$dir/corpus" --html "$page" --json
test_that "--json beside it: exit 2" [ $code -eq 2 ]
rm "$dir/corpus/rejects.jsonl"
run inspect "$dir/corpus" --html "$dir/again.html"
test_that "without rejects.jsonl, it says that" grep -q "rejects.jsonl, which tells why, is not there" "$dir/again.html"

if command -v python3 >/dev/null; then
	python3 - "$page" >"$dir/out" 2>"$dir/err" <<'END'
import html.parser, sys
class Parser(html.parser.HTMLParser):
    void = {"meta"}
    open, seen = [], set()
    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in self.void:
            self.open.append(tag)
        for name, _ in attributes:
            assert not name.startswith("on"), name
            assert name not in ("src", "href", "style"), name
    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)
    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open, self.getpos())
        self.open.pop()
parser = Parser(convert_charrefs=True)
parser.feed(open(sys.argv[1], encoding="utf-8").read())
parser.close()
assert not parser.open, parser.open
assert {"svg", "table", "pre", "details"} <= parser.seen and not {"script", "img", "link"} & parser.seen, parser.seen
END
	code=$?
	test_that "a parser finds every element closed in order, and none that loads or runs" [ $code -eq 0 ]
else
	echo "ok - a parser finds every element closed # SKIP python3 is not installed"
fi

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ]; then
	echo "ok - a browser shows it # SKIP no browser (apt-get install chromium)"
	exit $status
fi
HOME=$dir timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
	--user-data-dir="$dir/browser" --enable-logging=stderr --virtual-time-budget=2000 --dump-dom "file://$page" \
	>"$dir/dom" 2>"$dir/err"
code=$?
dom_has() { grep -qF -- "$1" "$dir/dom"; }
test_that "a browser opens it" [ $code -eq 0 -a -s "$dir/dom" ]
test_that "and shows the text of documents as text" dom_has '&lt;img src=x onerror=alert(1)&gt;'
test_that "and no element of theirs" [ "$(grep -ciE '<(img|script|b>a )' "$dir/dom")" = 0 ]
test_that "its title is the corpus's" dom_has "<title>$dir/corpus</title>"
test_that "and the console is empty" [ "$(grep -c CONSOLE "$dir/err")" = 0 ]
exit $status
