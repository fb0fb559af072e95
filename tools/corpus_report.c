#include "tools/corpus_report.h"

#include "common/file.h"
#include "common/json.h"
#include "common/memory.h"
#include "data/sources.h"
#include "tokenizer/tokenizer.h"
#include "tools/html_page.h"
#include "tools/terminal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	SAMPLES = 12,
	SAMPLE_TOKENS = 400,
	SAMPLE_BYTES = 1600,
	MOST_REASONS = 50,
	SOURCES_SHOWN = 50,
	SHARDS_SHOWN = 256,
	LENGTHS_AT_ONCE = 1 << 16,
};

static const char style[] =
	":root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--ink:#1b1f24;--soft:#5b6570;"
	"--line:#dfe3e8;--accent:#2f6fde;--kept:#2f6fde;--copies:#e39b2d;--near:#c9603a;--empty:#9aa4af;"
	"--rejected:#b03060}\n"
	"@media (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2127;--ink:#e6e9ed;--soft:#9aa5b1;"
	"--line:#323841;--accent:#6ea0ff;--kept:#6ea0ff;--copies:#f0b45c;--near:#e8845f;--empty:#77828e;"
	"--rejected:#e0709a}}\n"
	"*{box-sizing:border-box}\n"
	"body{margin:0 auto;padding:1.5rem 1rem 3rem;max-width:60rem;background:var(--page);color:var(--ink);"
	"font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\n"
	"h1{font-size:1.6rem;margin:0}\n"
	"h2{font-size:1.15rem;margin:0 0 .75rem}\n"
	"header p{margin:.25rem 0 0;color:var(--soft);font-size:.875rem}\n"
	"section{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:1rem "
	"1.25rem;margin-top:1rem}\n"
	".cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.75rem;margin-top:"
	"1rem}\n"
	".cards div{background:var(--card);border:1px solid var(--line);border-radius:.75rem;padding:.75rem "
	"1rem}\n"
	".cards b{display:block;font-size:1.35rem;line-height:1.3;font-variant-numeric:tabular-nums}\n"
	".cards span,.note,figcaption{color:var(--soft);font-size:.875rem}\n"
	".wide{overflow-x:auto}\n"
	"table{border-collapse:collapse;width:100%;font-size:.9rem}\n"
	"th,td{text-align:left;padding:.35rem .75rem .35rem 0;border-bottom:1px solid var(--line);"
	"vertical-align:top}\n"
	"th{color:var(--soft);font-weight:500}\n"
	"tr:last-child td{border-bottom:0}\n"
	".n{text-align:right;font-variant-numeric:tabular-nums}td.n{white-space:nowrap}\n"
	"td:last-child,th:last-child{padding-right:0}\n"
	"figure{margin:0}.bars{min-width:22rem}figcaption{margin-top:.5rem}\n"
	"svg{display:block;width:100%;height:auto}\n"
	"svg text{fill:var(--soft);font-size:12px;text-anchor:middle}\n"
	".bars rect{fill:var(--accent)}\n"
	".share{height:1.25rem;border-radius:.375rem;overflow:hidden;margin-bottom:.75rem}\n"
	".kept{fill:var(--kept);color:var(--kept)}.copies{fill:var(--copies);color:var(--copies)}"
	".near{fill:var(--near);color:var(--near)}.empty{fill:var(--empty);color:var(--empty)}"
	".rejected{fill:var(--rejected);color:var(--rejected)}\n"
	"details{margin-top:.75rem}details>.note{margin:.25rem 0}\n"
	"summary{cursor:pointer}\n"
	"pre{white-space:pre-wrap;unicode-bidi:isolate;background:var(--page);border:1px solid var(--line);"
	"border-radius:.5rem;padding:.75rem;margin:.5rem 0 "
	"0;max-height:24rem;overflow:auto;font:.8125rem/1.45 "
	"ui-monospace,Menlo,Consolas,monospace}\n"
	"code{font:.875em ui-monospace,Menlo,Consolas,monospace}\n"
	"bdi{unicode-bidi:isolate}h1,bdi,pre{overflow-wrap:anywhere}td bdi{display:block;min-width:8rem}\n";

static double ratio(double a, double b)
{
	return b > 0 ? a / b : 0;
}

static void begin_section(struct html_page *page, const char *heading)
{
	html_page_print(page, "<section>\n<h2>%s</h2>\n", heading);
}

static void end_section(struct html_page *page)
{
	html_page_print(page, "</section>\n");
}

static void print_number(struct html_page *page, uint64_t number)
{
	html_page_print(page, "<td class=\"n\">%s</td>", human_grouped(number).text);
}

/* ---- sizes ---- */

static void print_card(struct html_page *page, const char *value, const char *name)
{
	html_page_print(page, "<div><b>%s</b><span>%s</span></div>\n", value, name);
}

static void print_header(struct html_page *page, const struct corpus_report *report)
{
	const struct corpus_info *info = corpus_get_info(report->corpus);
	char hash[33], text[64];
	hash128_format(info->hash, hash);
	html_page_print(page, "<header>\n<h1>Corpus <bdi>");
	html_page_string(page, corpus_directory(report->corpus));
	html_page_print(page, "</bdi></h1>\n<p>hash <code>%s</code></p>\n<p>tokenizer ", hash);
	html_page_string(page, info->tokenizer_name);
	html_page_print(page, ", %s ids, end of document %" PRIu32 ", tokens in %s</p>\n</header>\n",
		human_grouped(info->vocabulary).text, info->eod,
		info->dtype == CORPUS_U16 ? "16 bits" : "32 bits");
	html_page_print(page, "<div class=\"cards\">\n");
	print_card(page, human_grouped(info->documents).text, "documents");
	print_card(page, human_count((double)info->tokens).text, "tokens");
	print_card(page, human_bytes((double)info->bytes).text, "of text");
	snprintf(text, sizeof text, "%.3f",
		ratio((double)info->bytes, (double)(info->tokens - info->documents)));
	print_card(page, text, "bytes per token");
	snprintf(text, sizeof text, "%.0f", ratio((double)info->tokens, (double)info->documents));
	print_card(page, text, "tokens per document");
	print_card(page, human_grouped(info->shard_count).text, info->shard_count == 1 ? "shard" : "shards");
	html_page_print(page, "</div>\n");
}

/* ---- what was dropped ---- */

struct fate {
	const char *class, *name;
	uint64_t documents;
};

static void print_fates(struct html_page *page, const struct corpus_info *info)
{
	const struct fate fates[] = {{"kept", "kept", info->documents},
		{"copies", "exact duplicates", info->dropped_duplicates},
		{"near", "near-duplicates", info->dropped_near}, {"empty", "empty", info->dropped_empty},
		{"rejected", "rejected", info->dropped_rejected}};
	const int count = sizeof fates / sizeof *fates;
	double all = 0, at = 0;
	for (int i = 0; i < count; i++)
		all += (double)fates[i].documents;
	begin_section(page, "What came in, and what stayed");
	html_page_print(page, "<svg class=\"share\" viewBox=\"0 0 1000 20\" preserveAspectRatio=\"none\" "
			      "role=\"img\" aria-label=\"shares of the documents, as in the table\">");
	for (int i = 0; i < count; i++) {
		double width = 1000 * ratio((double)fates[i].documents, all);
		html_page_print(page, "<rect class=\"%s\" x=\"%.2f\" y=\"0\" width=\"%.2f\" height=\"20\"/>",
			fates[i].class, at, width);
		at += width;
	}
	html_page_print(page, "</svg>\n<div class=\"wide\"><table>\n<tr><th>documents</th><th "
			      "class=\"n\">number</th><th class=\"n\">share</th></tr>\n");
	for (int i = 0; i < count; i++) {
		html_page_print(page, "<tr><td><span class=\"%s\">&#9632;</span> %s</td>", fates[i].class,
			fates[i].name);
		print_number(page, fates[i].documents);
		html_page_print(page, "<td class=\"n\">%.2f%%</td></tr>\n",
			100 * ratio((double)fates[i].documents, all));
	}
	html_page_print(page, "</table></div>\n");
	if (info->near_bands)
		html_page_print(page,
			"<p class=\"note\">Near-duplicates share one of %d bands of %d MinHashes of their "
			"runs of five words with a document of a smaller key.</p>\n",
			info->near_bands, info->near_rows);
	if (info->repaired)
		html_page_print(page,
			"<p class=\"note\">%s sequences of invalid UTF-8 were replaced by U+FFFD.</p>\n",
			human_grouped(info->repaired).text);
}

/* Why documents were rejected, by rejects.jsonl. */
struct reasons {
	struct reason {
		char *text, *first; /* "a.jsonl, line 17" */
		uint64_t documents;
	} list[MOST_REASONS];
	size_t count;
	uint64_t others; /* that found no room, or are no rejects */
	bool missing;    /* there is no list of them */
};

static enum status describe_place(const cJSON *reject, char **text)
{
	const cJSON *file = cJSON_GetObjectItemCaseSensitive(reject, "file");
	const cJSON *line = cJSON_GetObjectItemCaseSensitive(reject, "line");
	const cJSON *byte = cJSON_GetObjectItemCaseSensitive(reject, "byte");
	*text = NULL;
	if (!cJSON_IsString(file) || !cJSON_IsNumber(byte))
		return STATUS_OK;
	if (asprintf(text, "%s, %s %.0f", file->valuestring, cJSON_IsNumber(line) ? "line" : "byte",
		    cJSON_IsNumber(line) ? line->valuedouble : byte->valuedouble) >= 0)
		return STATUS_OK;
	*text = NULL;
	return error_set(STATUS_MEMORY, "no memory for rejects");
}

static enum status add_reject(struct reasons *reasons, const cJSON *reject)
{
	const cJSON *text = cJSON_GetObjectItemCaseSensitive(reject, "reason");
	const char *words = cJSON_GetStringValue(text);
	for (size_t i = 0; words && i < reasons->count; i++)
		if (strcmp(reasons->list[i].text, words) == 0) {
			reasons->list[i].documents++;
			return STATUS_OK;
		}
	if (!words || reasons->count == MOST_REASONS) {
		reasons->others++;
		return STATUS_OK;
	}
	struct reason *reason = &reasons->list[reasons->count];
	TRY(describe_place(reject, &reason->first));
	reason->text = strdup(words);
	reasons->count++; /* from here on it is freed with the others */
	reason->documents = 1;
	FAIL_IF(!reason->text, STATUS_MEMORY, "no memory for rejects");
	return STATUS_OK;
}

/* A line that is not JSON is one of other reasons. */
static enum status add_line(struct reasons *reasons, const char *line, size_t length)
{
	cJSON *reject;
	enum status status = json_parse(line, length, false, NULL, &reject);
	if (status == STATUS_OK || status == STATUS_CORRUPT)
		status = add_reject(reasons, reject);
	cJSON_Delete(reject);
	return status;
}

static int compare_reasons(const void *a, const void *b)
{
	const struct reason *x = a, *y = b;
	if (x->documents != y->documents)
		return x->documents > y->documents ? -1 : 1;
	return strcmp(x->text, y->text);
}

static void print_reasons(struct html_page *page, struct reasons *reasons)
{
	if (reasons->count)
		qsort(reasons->list, reasons->count, sizeof *reasons->list, compare_reasons);
	html_page_print(page, "<div class=\"wide\"><table>\n<tr><th>why rejected</th><th "
			      "class=\"n\">documents</th><th>the first</th></tr>\n");
	for (size_t i = 0; i < reasons->count; i++) {
		const struct reason *reason = &reasons->list[i];
		html_page_print(page, "<tr><td>");
		html_page_string(page, reason->text);
		html_page_print(page, "</td>");
		print_number(page, reason->documents);
		html_page_print(page, "<td><bdi>");
		html_page_string(page, reason->first ? reason->first : "");
		html_page_print(page, "</bdi></td></tr>\n");
	}
	if (reasons->others) {
		html_page_print(page, "<tr><td>other reasons</td>");
		print_number(page, reasons->others);
		html_page_print(page, "<td></td></tr>\n");
	}
	html_page_print(page, "</table></div>\n");
}

static enum status read_rejects(void *user, const char *path)
{
	struct reasons *reasons = user;
	char *line = NULL;
	size_t room = 0;
	ssize_t length;
	FILE *file = fopen(path, "re");
	enum status status = STATUS_OK;
	reasons->missing = !file && errno == ENOENT;
	if (!file)
		return error_set_errno(STATUS_IO, "%s: cannot open", path);
	while (status == STATUS_OK && (length = getline(&line, &room, file)) > 0)
		status = add_line(reasons, line, (size_t)length);
	if (status == STATUS_OK && ferror(file))
		status = error_set_errno(STATUS_IO, "%s: cannot read", path);
	free(line);
	(void)fclose(file);
	return status;
}

static enum status print_dropped(struct html_page *page, const struct corpus *corpus)
{
	struct reasons reasons = {0};
	enum status status = STATUS_OK;
	const struct corpus_info *info = corpus_get_info(corpus);
	print_fates(page, info);
	if (info->dropped_rejected) {
		status = corpus_use_file(corpus, "rejects.jsonl", read_rejects, &reasons);
		if (status == STATUS_OK)
			print_reasons(page, &reasons);
		if (reasons.missing) {
			html_page_print(page, "<p class=\"note\">rejects.jsonl, which tells why, is not "
					      "there.</p>\n");
			status = STATUS_OK;
		}
	}
	for (size_t i = 0; i < reasons.count; i++) {
		free(reasons.list[i].text);
		free(reasons.list[i].first);
	}
	end_section(page);
	return status;
}

/* ---- lengths ---- */

enum { CHART_WIDTH = 640, CHART_HEIGHT = 190, CHART_TOP = 20, CHART_BOTTOM = 168 };

/* 512, 1k, 2k, ... 1M */
static struct human power_of_two(int bits)
{
	static const char *const units[] = {"", "k", "M", "G"};
	struct human label;
	snprintf(label.text, sizeof label.text, "%d%s", 1 << bits % 10, units[bits / 10]);
	return label;
}

static void print_bar(struct html_page *page, int bin, uint64_t documents, uint64_t most, double x,
	double width, bool labelled)
{
	/* At least a line for what is not zero. */
	double room = CHART_BOTTOM - CHART_TOP, height = room * ratio((double)documents, (double)most);
	height = documents && height < 1.5 ? 1.5 : height;
	html_page_print(page,
		"<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"2\"><title>%s to %s "
		"tokens: %s documents</title></rect>\n",
		x + width * 0.08, CHART_BOTTOM - height, width * 0.84, height,
		human_grouped(UINT64_C(1) << bin).text, human_grouped((UINT64_C(2) << bin) - 1).text,
		human_grouped(documents).text);
	if (documents)
		html_page_print(page, "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n", x + width / 2,
			CHART_BOTTOM - height - 4, human_count((double)documents).text);
	if (labelled)
		html_page_print(page, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", x + width / 2,
			CHART_BOTTOM + 16, power_of_two(bin).text);
}

static enum status take_length(struct corpus_lengths *out, uint64_t document, uint32_t tokens,
	corpus_length_visitor *visit, void *user)
{
	out->bin[31 - __builtin_clz(tokens | 1)]++;
	if (tokens > out->longest) {
		out->longest = tokens;
		out->longest_document = document;
	}
	return visit ? visit(user, document, tokens) : STATUS_OK;
}

enum status corpus_lengths_read(
	struct corpus *corpus, struct corpus_lengths *out, corpus_length_visitor *visit, void *user)
{
	uint64_t documents = corpus_get_info(corpus)->documents;
	uint32_t *lengths;
	enum status status = STATUS_OK;
	*out = (struct corpus_lengths){0};
	TRY(memory_alloc((void **)&lengths, LENGTHS_AT_ONCE, sizeof *lengths, "lengths"));
	for (uint64_t at = 0; at < documents && status == STATUS_OK; at += LENGTHS_AT_ONCE) {
		uint64_t count = documents - at < LENGTHS_AT_ONCE ? documents - at : LENGTHS_AT_ONCE;
		status = corpus_document_lengths(corpus, at, count, lengths);
		for (uint64_t i = 0; i < count && status == STATUS_OK; i++)
			status = take_length(out, at + i, lengths[i], visit, user);
	}
	free(lengths);
	return status;
}

struct lengths_shown corpus_lengths_shown(const struct corpus_lengths *lengths)
{
	struct lengths_shown shown = {.first = LENGTH_BINS, .last = -1};
	for (int i = 0; i < LENGTH_BINS; i++) {
		if (!lengths->bin[i])
			continue;
		shown.first = i < shown.first ? i : shown.first;
		shown.last = i;
		shown.most = lengths->bin[i] > shown.most ? lengths->bin[i] : shown.most;
	}
	return shown;
}

static void print_lengths(struct html_page *page, const struct corpus_lengths *lengths)
{
	const struct lengths_shown shown = corpus_lengths_shown(lengths);
	const int first = shown.first, last = shown.last;
	if (last < 0)
		return;
	begin_section(page, "Lengths of documents");
	int bins = last - first + 1;
	/* Few bars do not become broad ones. */
	double width = bins < 8 ? CHART_WIDTH / 8.0 : CHART_WIDTH / (double)bins;
	html_page_print(page,
		"<figure>\n<div class=\"wide\"><svg class=\"bars\" viewBox=\"0 0 %d %d\" role=\"img\" "
		"aria-label=\"documents by "
		"length, as in the table below\">\n",
		CHART_WIDTH, CHART_HEIGHT);
	for (int i = first; i <= last; i++)
		print_bar(page, i, lengths->bin[i], shown.most, (i - first) * width, width,
			bins <= 12 || (last - i) % 2 == 0);
	html_page_print(page,
		"</svg></div>\n<figcaption>documents by tokens, end of document included; each bar reaches "
		"to "
		"twice its number. The longest, of %s tokens, is document %" PRIu64
		".</figcaption>\n</figure>\n",
		human_grouped(lengths->longest).text, lengths->longest_document);
	html_page_print(page, "<details><summary>as a table</summary>\n<div class=\"wide\"><table>\n<tr><th "
			      "class=\"n\">from</th><th class=\"n\">to</th><th "
			      "class=\"n\">documents</th></tr>\n");
	for (int i = first; i <= last; i++) {
		html_page_print(page, "<tr>");
		print_number(page, UINT64_C(1) << i);
		print_number(page, (UINT64_C(2) << i) - 1);
		print_number(page, lengths->bin[i]);
		html_page_print(page, "</tr>\n");
	}
	html_page_print(page, "</table></div></details>\n");
	end_section(page);
}

/* ---- splits and shards ---- */

static void print_splits(struct html_page *page, const struct corpus_report *report)
{
	begin_section(page, "Splits");
	html_page_print(page, "<div class=\"wide\"><table>\n<tr><th>");
	html_page_string(page, report->split);
	html_page_print(page,
		"</th><th class=\"n\">documents</th><th class=\"n\">tokens</th><th class=\"n\">windows of "
		"%s</th></tr>\n",
		human_grouped(report->seq_length).text);
	for (int part = 0; part < SPLIT_PARTS; part++) {
		html_page_print(page, "<tr><td>%s</td>", split_part_name((enum split_part)part));
		print_number(page, report->ranges[part].documents);
		print_number(page, report->ranges[part].tokens);
		print_number(page, report->windows[part]);
		html_page_print(page, "</tr>\n");
	}
	html_page_print(page, "</table></div>\n");
	end_section(page);
}

static void print_shards(struct html_page *page, const struct corpus_info *info)
{
	uint64_t item = info->dtype == CORPUS_U16 ? 2 : 4;
	begin_section(page, "Shards");
	html_page_print(page,
		"<details%s><summary>%s %s</summary>\n<div class=\"wide\"><table>\n<tr><th>name</th><th "
		"class=\"n\">documents</th><th class=\"n\">tokens</th><th class=\"n\">of tokens on "
		"disk</th></tr>\n",
		info->shard_count <= 8 ? " open" : "", human_grouped(info->shard_count).text,
		info->shard_count == 1 ? "shard" : "shards");
	for (uint64_t i = 0; i < info->shard_count && i < SHARDS_SHOWN; i++) {
		const struct corpus_shard *shard = &info->shards[i];
		html_page_print(page, "<tr><td>%05" PRIu64 "</td>", i);
		print_number(page, shard->documents);
		print_number(page, shard->tokens);
		html_page_print(page, "<td class=\"n\">%s</td></tr>\n",
			human_bytes((double)(shard->tokens * item)).text);
	}
	html_page_print(page, "</table></div>\n");
	if (info->shard_count > SHARDS_SHOWN)
		html_page_print(page, "<p class=\"note\">and %s more</p>\n",
			human_grouped(info->shard_count - SHARDS_SHOWN).text);
	html_page_print(page, "</details>\n");
	end_section(page);
}

/* ---- sources ---- */

struct origin {
	char *path;
	uint64_t documents, tokens;
};

struct origins {
	struct sources *sources;
	struct origin *list;
	size_t count, capacity;
	size_t *table; /* [size], a power of two: 1 + index of an origin, 0 empty */
	size_t size;
};

static size_t *find_slot(const struct origins *origins, const char *path)
{
	size_t at = hash64(path, strlen(path)) & (origins->size - 1);
	while (origins->table[at] && strcmp(origins->list[origins->table[at] - 1].path, path) != 0)
		at = (at + 1) & (origins->size - 1);
	return &origins->table[at];
}

static enum status grow_table(struct origins *origins)
{
	if (origins->count * 2 < origins->size)
		return STATUS_OK;
	free(origins->table);
	origins->size = origins->size ? origins->size * 2 : 1024;
	TRY(memory_alloc((void **)&origins->table, origins->size, sizeof *origins->table, "sources"));
	for (size_t i = 0; i < origins->count; i++)
		*find_slot(origins, origins->list[i].path) = i + 1;
	return STATUS_OK;
}

static enum status add_origin(struct origins *origins, const char *path, uint64_t tokens)
{
	TRY(grow_table(origins));
	size_t *slot = find_slot(origins, path);
	if (!*slot) {
		TRY(memory_grow((void **)&origins->list, &origins->capacity, origins->count + 1,
			sizeof *origins->list, "sources"));
		char *copy = strdup(path);
		FAIL_IF(!copy, STATUS_MEMORY, "no memory for sources");
		origins->list[origins->count++] = (struct origin){.path = copy};
		*slot = origins->count;
	}
	origins->list[*slot - 1].documents++;
	origins->list[*slot - 1].tokens += tokens;
	return STATUS_OK;
}

/* A corpus_length_visitor. */
static enum status count_origin(void *user, uint64_t document, uint32_t tokens)
{
	struct origins *origins = user;
	struct source source;
	TRY(sources_get(origins->sources, document, &source));
	return add_origin(origins, source.path, tokens);
}

static int compare_origins(const void *a, const void *b)
{
	const struct origin *x = a, *y = b;
	if (x->tokens != y->tokens)
		return x->tokens > y->tokens ? -1 : 1;
	return strcmp(x->path, y->path);
}

static void print_origins(struct html_page *page, struct origins *origins, uint64_t tokens)
{
	if (origins->count)
		qsort(origins->list, origins->count, sizeof *origins->list, compare_origins);
	begin_section(page, "Sources");
	html_page_print(page,
		"<div class=\"wide\"><table>\n<tr><th>file</th><th class=\"n\">documents</th><th "
		"class=\"n\">tokens</th><th class=\"n\">share</th></tr>\n");
	for (size_t i = 0; i < origins->count && i < SOURCES_SHOWN; i++) {
		const struct origin *origin = &origins->list[i];
		html_page_print(page, "<tr><td><bdi>");
		html_page_string(page, origin->path);
		html_page_print(page, "</bdi></td>");
		print_number(page, origin->documents);
		print_number(page, origin->tokens);
		html_page_print(page, "<td class=\"n\">%.2f%%</td></tr>\n",
			100 * ratio((double)origin->tokens, (double)tokens));
	}
	html_page_print(page, "</table></div>\n");
	if (origins->count > SOURCES_SHOWN)
		html_page_print(page, "<p class=\"note\">and %s smaller ones</p>\n",
			human_grouped(origins->count - SOURCES_SHOWN).text);
	html_page_print(page, "<p class=\"note\">A document that came several times counts to its first "
			      "path.</p>\n");
	end_section(page);
}

static void free_origins(struct origins *origins)
{
	for (size_t i = 0; i < origins->count; i++)
		free(origins->list[i].path);
	free(origins->list);
	free(origins->table);
}

/* ---- samples ---- */

/* The length of the text without a character that was cut off at its end. */
static size_t trim(const char *text, size_t bytes)
{
	size_t end = bytes;
	while (end && bytes - end < 4 && ((unsigned char)text[end - 1] & 0xC0) == 0x80)
		end--;
	if (end && (unsigned char)text[end - 1] >= 0xC0)
		return end - 1;
	return bytes;
}

static enum status print_text(struct html_page *page, const struct tokenizer *tokenizer, const int32_t *ids,
	uint64_t count, bool whole)
{
	char *text;
	size_t bytes;
	TRY(tokenizer_decode(tokenizer, (const uint32_t *)ids, (size_t)count, &text, &bytes));
	if (bytes > SAMPLE_BYTES) {
		bytes = SAMPLE_BYTES;
		whole = false;
	}
	/* A newline at the very beginning of pre would be dropped. */
	html_page_print(page, "<pre dir=\"auto\">\n");
	html_page_text(page, text, whole ? bytes : trim(text, bytes));
	html_page_print(page, "%s</pre></details>\n", whole ? "" : " &hellip;");
	free(text);
	return STATUS_OK;
}

static enum status print_sample(struct html_page *page, const struct corpus_report *report,
	const struct tokenizer *tokenizer, struct sources *sources, uint64_t document)
{
	uint64_t first, count, key;
	int32_t ids[SAMPLE_TOKENS];
	TRY(corpus_document(report->corpus, document, &first, &count));
	TRY(corpus_document_key(report->corpus, document, &key));
	uint64_t read = count < SAMPLE_TOKENS ? count : SAMPLE_TOKENS;
	TRY(corpus_read(report->corpus, first, read, ids));
	int part = 0;
	while (part < SPLIT_PARTS - 1 && (report->keys[part].empty || key > report->keys[part].last))
		part++;
	html_page_print(page,
		"<details open><summary>document %s <span class=\"note\">%s tokens, %s, key "
		"<code>%016" PRIx64 "</code></span></summary>\n",
		human_grouped(document).text, human_grouped(count).text,
		split_part_name((enum split_part)part), key);
	if (sources) {
		struct source source;
		TRY(sources_get(sources, document, &source));
		html_page_print(page, "<p class=\"note\"><bdi>");
		html_page_string(page, source.path);
		html_page_print(page, "</bdi>, %s %" PRIu64 "</p>\n", source.line ? "line" : "byte",
			source.line ? source.line : source.byte);
	}
	return print_text(page, tokenizer, ids, read, read == count);
}

/* Documents at evenly spaced keys: since keys are hashes, a fair sample, and the same each time. */
static enum status print_samples(
	struct html_page *page, const struct corpus_report *report, struct sources *sources)
{
	uint64_t documents = corpus_get_info(report->corpus)->documents, previous = UINT64_MAX;
	struct tokenizer *tokenizer;
	TRY(corpus_open_tokenizer(report->corpus, &tokenizer));
	begin_section(page, "Some documents");
	enum status status = STATUS_OK;
	for (uint64_t i = 0; i < SAMPLES && status == STATUS_OK; i++) {
		uint64_t document;
		status = corpus_find_key(report->corpus, UINT64_MAX / SAMPLES * i, &document);
		if (status != STATUS_OK || document == previous || document == documents)
			continue;
		previous = document;
		status = print_sample(page, report, tokenizer, sources, document);
	}
	end_section(page);
	tokenizer_close(tokenizer);
	return status;
}

/* ---- */

static enum status print_sections(
	struct html_page *page, const struct corpus_report *report, struct origins *origins)
{
	const struct corpus_info *info = corpus_get_info(report->corpus);
	struct corpus_lengths lengths;
	TRY(corpus_lengths_read(report->corpus, &lengths, origins->sources ? count_origin : NULL, origins));
	print_header(page, report);
	TRY(print_dropped(page, report->corpus));
	print_lengths(page, &lengths);
	print_splits(page, report);
	if (origins->sources)
		print_origins(page, origins, info->tokens);
	print_shards(page, info);
	return print_samples(page, report, origins->sources);
}

static enum status print_report(struct html_page *page, const struct corpus_report *report)
{
	struct origins origins = {0};
	if (corpus_get_info(report->corpus)->sources)
		TRY(sources_open(report->corpus, &origins.sources));
	enum status status = print_sections(page, report, &origins);
	free_origins(&origins);
	sources_close(origins.sources);
	return status;
}

enum status corpus_report_publish(const struct corpus_report *report, const char *path)
{
	struct html_page *page;
	TRY(html_page_open(path, corpus_directory(report->corpus), style, &page));
	enum status status = print_report(page, report);
	if (status == STATUS_OK)
		return html_page_publish(page);
	html_page_abandon(page);
	return status;
}
