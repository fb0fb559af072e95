/*
 * crash_disk.h: what a disk may hold after the power failed, for every moment of a recorded run.
 *
 * crash_record puts a recorder under common/file.h: every operation below one folder is carried out and
 * written down. crash_visit then takes every prefix of that record, and gives the caller the folder as a disk
 * may hold it when the power fails there. The disk is POSIX's at its most careless (compare ALICE and
 * CrashMonkey, OSDI 2014 and 2018): only fsync keeps anything.
 *
 *    data      a file's writes and truncations last once it is fsynced. Before, each 512-byte sector of each
 *              write is there or not, the file's new size too; a sector that is not is what it was, and where
 * the file grew over it zeros or rubbish names     creating, removing, renaming lasts once the folder is
 * fsynced (rename: the one it goes to; it and exchange are atomic). Before, each of them is there or not, in
 * any combination. fsync of a file does not keep its name
 *
 * Of all combinations: all lost, none lost, names alone, names and sizes with zeros or rubbish for data, data
 * alone, and random ones of several densities. Each different state is visited once.
 *
 * One recording at a time, threads may share it. Names are at most 63 bytes. Everything asserts.
 */
#ifndef TESTS_FAULTS_CRASH_DISK_H
#define TESTS_FAULTS_CRASH_DISK_H

#include "common/file.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { CRASH_SECTOR = 512, CRASH_NAME = 64, CRASH_FILES = 1024 };

enum crash_kind {
	CRASH_LINK, /* a new name: of a file, a folder, a symbolic link */
	CRASH_UNLINK,
	CRASH_RENAME,
	CRASH_EXCHANGE,
	CRASH_WRITE,
	CRASH_TRUNCATE,
	CRASH_SYNC,
	CRASH_DONE /* the command has returned: what it did must last */
};

struct crash_operation {
	enum crash_kind kind;
	int node, other;                            /* what it is about; exchange: the two */
	int folder, to;                             /* of the name(s) */
	char name[CRASH_NAME], to_name[CRASH_NAME]; /* sync: for people */
	uint64_t offset, bytes;                     /* truncate: the size */
	uint8_t *data;
};

struct crash_entry {
	char name[CRASH_NAME];
	int node;
};

/* A file, folder or symbolic link ("data" is its target), whatever its names. */
struct crash_node {
	mode_t kind; /* S_IFREG, S_IFDIR, S_IFLNK */
	uint8_t *data;
	uint64_t bytes, room;
	struct crash_entry *entries;
	int entry_count, entry_room;
};

struct crash_tree {
	struct crash_node *nodes; /* 0: the folder itself */
	int count, room;
};

static struct {
	char root[256];
	pthread_mutex_t mutex;
	struct crash_tree now, before; /* names only; with contents, when recording began */
	int node_of[CRASH_FILES];      /* of each descriptor, plus 1 */
	struct crash_operation *operations;
	int count, room;
} crash = {.mutex = PTHREAD_MUTEX_INITIALIZER};

/* ---- trees ---- */

static inline int crash_node_new(struct crash_tree *tree, mode_t kind)
{
	if (tree->count == tree->room) {
		tree->room = tree->room * 2 + 64;
		tree->nodes = realloc(tree->nodes, (size_t)tree->room * sizeof *tree->nodes);
	}
	tree->nodes[tree->count] = (struct crash_node){.kind = kind};
	return tree->count++;
}

static inline void crash_tree_free(struct crash_tree *tree)
{
	for (int i = 0; i < tree->count; i++) {
		free(tree->nodes[i].data);
		free(tree->nodes[i].entries);
	}
	free(tree->nodes);
	*tree = (struct crash_tree){0};
}

static inline struct crash_tree crash_tree_copy(const struct crash_tree *from)
{
	struct crash_tree tree = {.count = from->count, .room = from->count};
	tree.nodes = malloc((size_t)from->count * sizeof *tree.nodes);
	for (int i = 0; i < from->count; i++) {
		struct crash_node *node = &tree.nodes[i];
		*node = from->nodes[i];
		node->room = node->bytes;
		node->data = malloc(node->bytes + 1);
		if (node->bytes)
			memcpy(node->data, from->nodes[i].data, node->bytes);
		node->entry_room = node->entry_count;
		node->entries = malloc(((size_t)node->entry_count + 1) * sizeof *node->entries);
		if (node->entry_count)
			memcpy(node->entries, from->nodes[i].entries,
				(size_t)node->entry_count * sizeof *node->entries);
	}
	return tree;
}

static inline struct crash_entry *crash_find(const struct crash_node *folder, const char *name)
{
	for (int i = 0; i < folder->entry_count; i++)
		if (strcmp(folder->entries[i].name, name) == 0)
			return &folder->entries[i];
	return NULL;
}

static inline void crash_set_name(struct crash_tree *tree, int folder, const char *name, int node)
{
	struct crash_node *f = &tree->nodes[folder];
	struct crash_entry *entry = crash_find(f, name);
	if (!entry) {
		if (f->entry_count == f->entry_room) {
			f->entry_room = f->entry_room * 2 + 8;
			f->entries = realloc(f->entries, (size_t)f->entry_room * sizeof *f->entries);
		}
		entry = &f->entries[f->entry_count++];
		snprintf(entry->name, CRASH_NAME, "%s", name);
	}
	entry->node = node;
}

/* If it is that node's: a name that another operation gave away since stays. */
static inline void crash_drop_name(struct crash_tree *tree, int folder, const char *name, int node)
{
	struct crash_node *f = &tree->nodes[folder];
	struct crash_entry *entry = crash_find(f, name);
	if (entry && entry->node == node)
		*entry = f->entries[--f->entry_count];
}

static inline void crash_resize(struct crash_node *node, uint64_t bytes)
{
	if (bytes > node->room) {
		node->room = bytes * 2;
		node->data = realloc(node->data, node->room);
	}
	if (bytes > node->bytes)
		memset(node->data + node->bytes, 0, bytes - node->bytes);
	node->bytes = bytes;
}

static inline void crash_apply_names(struct crash_tree *tree, const struct crash_operation *o)
{
	switch (o->kind) {
	case CRASH_LINK:
		crash_set_name(tree, o->folder, o->name, o->node);
		break;
	case CRASH_UNLINK:
		crash_drop_name(tree, o->folder, o->name, o->node);
		break;
	case CRASH_RENAME:
		crash_drop_name(tree, o->folder, o->name, o->node);
		crash_set_name(tree, o->to, o->to_name, o->node);
		break;
	default: /* exchange */
		crash_set_name(tree, o->folder, o->name, o->other);
		crash_set_name(tree, o->to, o->to_name, o->node);
	}
}

static inline void crash_apply_data(struct crash_tree *tree, const struct crash_operation *o)
{
	struct crash_node *node = &tree->nodes[o->node];
	if (o->kind == CRASH_TRUNCATE) {
		crash_resize(node, o->bytes);
		return;
	}
	if (o->offset + o->bytes > node->bytes)
		crash_resize(node, o->offset + o->bytes);
	memcpy(node->data + o->offset, o->data, o->bytes);
}

/* ---- recording ---- */

static inline void crash_scan(const char *path, int folder)
{
	DIR *stream = opendir(path);
	struct dirent *entry;
	assert(stream);
	while ((entry = readdir(stream))) {
		char child[512], target[256];
		struct stat info;
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
		assert(lstat(child, &info) == 0 && strlen(entry->d_name) < CRASH_NAME);
		int node = crash_node_new(&crash.before, info.st_mode & S_IFMT);
		crash_set_name(&crash.before, folder, entry->d_name, node);
		struct crash_node *n = &crash.before.nodes[node];
		if (S_ISDIR(info.st_mode)) {
			crash_scan(child, node);
			continue;
		}
		crash_resize(n, (uint64_t)info.st_size);
		if (S_ISLNK(info.st_mode)) {
			assert(readlink(child, target, sizeof target) == info.st_size);
			memcpy(n->data, target, n->bytes);
		} else {
			int fd = open(child, O_RDONLY);
			assert(fd >= 0 && read(fd, n->data, n->bytes) == (ssize_t)n->bytes);
			close(fd);
		}
	}
	closedir(stream);
}

/* The folder and last name of a path below the root; false: it is not. "" names the root itself. */
static inline bool crash_resolve(const char *path, int *folder, char name[CRASH_NAME])
{
	size_t length = strlen(crash.root);
	*folder = 0;
	name[0] = 0;
	if (strncmp(path, crash.root, length) != 0 || (path[length] && path[length] != '/'))
		return false;
	for (path += length; *path;) {
		path += strspn(path, "/");
		size_t part = strcspn(path, "/");
		if (!part)
			break;
		if (name[0]) {
			struct crash_entry *entry = crash_find(&crash.now.nodes[*folder], name);
			if (!entry)
				return false;
			*folder = entry->node;
		}
		assert(part < CRASH_NAME);
		memcpy(name, path, part);
		name[part] = 0;
		path += part;
	}
	return true;
}

static inline int crash_lookup(int folder, const char *name)
{
	if (!name[0])
		return folder;
	struct crash_entry *entry = crash_find(&crash.now.nodes[folder], name);
	return entry ? entry->node : -1;
}

static inline struct crash_operation *crash_note(enum crash_kind kind, int node)
{
	if (crash.count == crash.room) {
		crash.room = crash.room * 2 + 256;
		crash.operations = realloc(crash.operations, (size_t)crash.room * sizeof *crash.operations);
	}
	struct crash_operation *o = &crash.operations[crash.count++];
	*o = (struct crash_operation){.kind = kind, .node = node};
	return o;
}

/* A change of names: noted, and made in the tree of now. */
static inline void crash_note_names(enum crash_kind kind, int node, int folder, const char *name)
{
	struct crash_operation *o = crash_note(kind, node);
	o->folder = o->to = folder;
	snprintf(o->name, CRASH_NAME, "%s", name);
	crash_apply_names(&crash.now, o);
}

static inline void crash_note_two(
	enum crash_kind kind, int folder, const char *name, int to, const char *to_name)
{
	struct crash_operation *o = crash_note(kind, crash_lookup(folder, name));
	o->other = crash_lookup(to, to_name);
	o->folder = folder;
	o->to = to;
	snprintf(o->name, CRASH_NAME, "%s", name);
	snprintf(o->to_name, CRASH_NAME, "%s", to_name);
	assert(o->node >= 0);
	crash_apply_names(&crash.now, o);
}

static inline int crash_new_name(const char *path, mode_t kind, const char *target)
{
	char name[CRASH_NAME];
	int folder;
	if (!crash_resolve(path, &folder, name))
		return -1;
	int node = crash_node_new(&crash.now, kind);
	if (target) {
		crash_resize(&crash.now.nodes[node], strlen(target));
		memcpy(crash.now.nodes[node].data, target, strlen(target));
	}
	crash_note_names(CRASH_LINK, node, folder, name);
	return node;
}

static int crash_open(const char *path, int flags, mode_t mode)
{
	char name[CRASH_NAME];
	int folder, node = -1;
	pthread_mutex_lock(&crash.mutex);
	int fd = file_operations_system.open(path, flags, mode);
	if (fd >= 0 && crash_resolve(path, &folder, name)) {
		assert(fd < CRASH_FILES);
		node = crash_lookup(folder, name);
		if (node < 0)
			node = crash_new_name(path, S_IFREG, NULL);
		else if (flags & O_TRUNC)
			crash_note(CRASH_TRUNCATE, node);
	}
	if (fd >= 0)
		crash.node_of[fd] = node + 1;
	pthread_mutex_unlock(&crash.mutex);
	return fd;
}

static inline void crash_note_write(int fd, const void *data, ssize_t bytes, off_t offset)
{
	if (bytes <= 0 || !crash.node_of[fd])
		return;
	struct crash_operation *o = crash_note(CRASH_WRITE, crash.node_of[fd] - 1);
	o->offset = (uint64_t)offset;
	o->bytes = (uint64_t)bytes;
	o->data = malloc((size_t)bytes);
	memcpy(o->data, data, (size_t)bytes);
}

static ssize_t crash_write(int fd, const void *data, size_t bytes)
{
	pthread_mutex_lock(&crash.mutex);
	off_t offset = lseek(fd, 0, SEEK_CUR);
	ssize_t done = write(fd, data, bytes);
	crash_note_write(fd, data, done, offset);
	pthread_mutex_unlock(&crash.mutex);
	return done;
}

static ssize_t crash_pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
	pthread_mutex_lock(&crash.mutex);
	ssize_t done = pwrite(fd, data, bytes, offset);
	crash_note_write(fd, data, done, offset);
	pthread_mutex_unlock(&crash.mutex);
	return done;
}

static int crash_ftruncate(int fd, off_t length)
{
	pthread_mutex_lock(&crash.mutex);
	int result = ftruncate(fd, length);
	if (result == 0 && crash.node_of[fd])
		crash_note(CRASH_TRUNCATE, crash.node_of[fd] - 1)->bytes = (uint64_t)length;
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

/* One of a node's names of now: false, it has none. */
static inline bool crash_find_name(int node, char name[CRASH_NAME])
{
	for (int i = 0; i < crash.now.count; i++)
		for (int j = 0; j < crash.now.nodes[i].entry_count; j++)
			if (crash.now.nodes[i].entries[j].node == node) {
				memcpy(name, crash.now.nodes[i].entries[j].name, CRASH_NAME);
				return true;
			}
	return false;
}

static int crash_fsync(int fd)
{
	pthread_mutex_lock(&crash.mutex);
	if (crash.node_of[fd]) {
		struct crash_operation *o = crash_note(CRASH_SYNC, crash.node_of[fd] - 1);
		if (!crash_find_name(o->node, o->name))
			o->name[0] = 0; /* the folder itself */
	}
	pthread_mutex_unlock(&crash.mutex);
	return 0;
}

static int crash_close(int fd)
{
	pthread_mutex_lock(&crash.mutex);
	crash.node_of[fd] = 0;
	int result = close(fd);
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

static inline int crash_two(
	enum crash_kind kind, const char *from, const char *to, int (*call)(const char *from, const char *to))
{
	char name[CRASH_NAME], to_name[CRASH_NAME];
	int folder, to_folder;
	pthread_mutex_lock(&crash.mutex);
	int result = call(from, to);
	if (result == 0 && crash_resolve(from, &folder, name)) {
		bool inside = crash_resolve(to, &to_folder, to_name);
		assert(inside); /* nothing leaves the folder */
		crash_note_two(kind, folder, name, to_folder, to_name);
	}
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

static int crash_rename(const char *from, const char *to)
{
	return crash_two(CRASH_RENAME, from, to, rename);
}

static int crash_exchange(const char *a, const char *b)
{
	return crash_two(CRASH_EXCHANGE, a, b, file_operations_system.exchange);
}

static inline int crash_remove(const char *path, int (*call)(const char *path))
{
	char name[CRASH_NAME];
	int folder;
	pthread_mutex_lock(&crash.mutex);
	int result = call(path);
	if (result == 0 && crash_resolve(path, &folder, name))
		crash_note_names(CRASH_UNLINK, crash_lookup(folder, name), folder, name);
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

static int crash_unlink(const char *path)
{
	return crash_remove(path, unlink);
}

static int crash_rmdir(const char *path)
{
	return crash_remove(path, rmdir);
}

static int crash_mkdir(const char *path, mode_t mode)
{
	pthread_mutex_lock(&crash.mutex);
	int result = mkdir(path, mode);
	if (result == 0)
		crash_new_name(path, S_IFDIR, NULL);
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

static int crash_symlink(const char *target, const char *path)
{
	pthread_mutex_lock(&crash.mutex);
	int result = symlink(target, path);
	if (result == 0)
		crash_new_name(path, S_IFLNK, target);
	pthread_mutex_unlock(&crash.mutex);
	return result;
}

/* Begins: what is in the folder now is on the disk for good. The folder's own name is, too. */
static inline void crash_record(const char *root)
{
	static const struct file_operations operations = {
		.open = crash_open,
		.read = read,
		.pread = pread,
		.write = crash_write,
		.pwrite = crash_pwrite,
		.fsync = crash_fsync,
		.close = crash_close,
		.rename = crash_rename,
		.exchange = crash_exchange,
		.symlink = crash_symlink,
		.unlink = crash_unlink,
		.rmdir = crash_rmdir,
		.mkdir = crash_mkdir,
		.ftruncate = crash_ftruncate,
	};
	snprintf(crash.root, sizeof crash.root, "%s", root);
	crash_node_new(&crash.before, S_IFDIR);
	crash_scan(root, 0);
	crash.now = crash_tree_copy(&crash.before);
	file_system = &operations;
}

/* The command has returned and said that all is well. */
static inline void crash_done(void)
{
	crash_note(CRASH_DONE, 0);
}

static inline void crash_stop(void)
{
	file_system = &file_operations_system;
	memset(crash.node_of, 0, sizeof crash.node_of);
}

static inline void crash_forget(void)
{
	for (int i = 0; i < crash.count; i++)
		free(crash.operations[i].data);
	free(crash.operations);
	crash.operations = NULL;
	crash.count = crash.room = 0;
	crash_tree_free(&crash.now);
	crash_tree_free(&crash.before);
}

/* ---- what the disk may hold ---- */

/* Which of the pending operations a state keeps. Chances are of 256. */
struct crash_luck {
	int names, data, sizes;
	bool rubbish; /* where a file grew and its data did not come: not zeros */
	uint64_t random;
};

static inline bool crash_chance(struct crash_luck *luck, int chance)
{
	luck->random = luck->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (int)(luck->random >> 56) < chance;
}

static inline void crash_grow(struct crash_node *node, uint64_t bytes, struct crash_luck *luck)
{
	uint64_t old = node->bytes;
	crash_resize(node, bytes);
	for (uint64_t i = old; luck->rubbish && i < bytes; i++)
		node->data[i] = (uint8_t)(0xA5 + i * 37);
}

static inline void crash_keep_write(
	struct crash_node *node, const struct crash_operation *o, struct crash_luck *luck)
{
	uint64_t end = o->offset + o->bytes, next;
	if (end > node->bytes && crash_chance(luck, luck->sizes))
		crash_grow(node, end, luck);
	for (uint64_t at = o->offset; at < end; at = next) {
		next = at / CRASH_SECTOR * CRASH_SECTOR + CRASH_SECTOR;
		next = next < end ? next : end;
		uint64_t last = next < node->bytes ? next : node->bytes;
		if (crash_chance(luck, luck->data) && at < last)
			memcpy(node->data + at, o->data + (at - o->offset), last - at);
	}
}

/* What is durable, and of the rest what luck keeps. */
static inline struct crash_tree crash_state(
	const struct crash_tree *durable, const int *pending, int count, struct crash_luck luck)
{
	struct crash_tree tree = crash_tree_copy(durable);
	for (int i = 0; i < count; i++) {
		const struct crash_operation *o = &crash.operations[pending[i]];
		if (o->kind == CRASH_WRITE)
			crash_keep_write(&tree.nodes[o->node], o, &luck);
		else if (crash_chance(&luck, o->kind == CRASH_TRUNCATE ? luck.sizes : luck.names))
			o->kind == CRASH_TRUNCATE ? crash_apply_data(&tree, o) : crash_apply_names(&tree, o);
	}
	return tree;
}

static int crash_compare_entries(const void *a, const void *b)
{
	return strcmp(((const struct crash_entry *)a)->name, ((const struct crash_entry *)b)->name);
}

static inline void crash_hash_node(const struct crash_tree *tree, int node, XXH3_state_t *hash)
{
	struct crash_node *n = &tree->nodes[node];
	XXH3_64bits_update(hash, &n->kind, sizeof n->kind);
	XXH3_64bits_update(hash, &n->bytes, sizeof n->bytes);
	if (n->bytes)
		XXH3_64bits_update(hash, n->data, n->bytes);
	if (n->entry_count)
		qsort(n->entries, (size_t)n->entry_count, sizeof *n->entries, crash_compare_entries);
	for (int i = 0; i < n->entry_count; i++) {
		XXH3_64bits_update(hash, n->entries[i].name, strlen(n->entries[i].name) + 1);
		crash_hash_node(tree, n->entries[i].node, hash);
	}
	XXH3_64bits_update(hash, "/", 1);
}

static inline uint64_t crash_hash(const struct crash_tree *tree, bool done)
{
	XXH3_state_t *hash = XXH3_createState();
	XXH3_64bits_reset(hash);
	crash_hash_node(tree, 0, hash);
	XXH3_64bits_update(hash, &done, sizeof done);
	uint64_t result = XXH3_64bits_digest(hash);
	XXH3_freeState(hash);
	return result ? result : 1;
}

/* States that were visited, and found good: a set of hashes. */
struct crash_seen {
	uint64_t *slots;
	size_t room, count;
};

/* Where it is, or is to be. */
static inline uint64_t *crash_slot(const struct crash_seen *seen, uint64_t hash)
{
	size_t at = hash % seen->room;
	while (seen->slots[at] && seen->slots[at] != hash)
		at = (at + 1) % seen->room;
	return &seen->slots[at];
}

static inline bool crash_was_seen(const struct crash_seen *seen, uint64_t hash)
{
	return seen->room && *crash_slot(seen, hash);
}

static inline void crash_see(struct crash_seen *seen, uint64_t hash)
{
	if (seen->count * 2 >= seen->room) {
		struct crash_seen larger = {.room = seen->room ? seen->room * 4 : 1024, .count = seen->count};
		larger.slots = calloc(larger.room, 8);
		for (size_t i = 0; i < seen->room; i++)
			if (seen->slots[i])
				*crash_slot(&larger, seen->slots[i]) = seen->slots[i];
		free(seen->slots);
		*seen = larger;
	}
	*crash_slot(seen, hash) = hash;
	seen->count++;
}

static inline void crash_write_node(const struct crash_tree *tree, int node, const char *path)
{
	const struct crash_node *n = &tree->nodes[node];
	if (S_ISDIR(n->kind)) {
		if (mkdir(path, 0777) != 0)
			assert(node == 0);
		for (int i = 0; i < n->entry_count; i++) {
			char child[512];
			snprintf(child, sizeof child, "%s/%s", path, n->entries[i].name);
			crash_write_node(tree, n->entries[i].node, child);
		}
	} else if (S_ISLNK(n->kind)) {
		char target[256];
		snprintf(target, sizeof target, "%.*s", (int)n->bytes, (const char *)n->data);
		assert(symlink(target, path) == 0);
	} else {
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
		assert(fd >= 0 && write(fd, n->data, n->bytes) == (ssize_t)n->bytes);
		close(fd);
	}
}

/* The visitor finds a state in the folder; it may change it. `done`: the command had returned. False, it is
 * not good, ends. */
typedef bool crash_visitor(void *user, bool done);

static inline bool crash_show(const struct crash_tree *tree, crash_visitor *visitor, void *user, bool done)
{
	if (directory_remove(crash.root) != STATUS_OK)
		abort();
	crash_write_node(tree, 0, crash.root);
	return visitor(user, done);
}

/* States of one moment: the fixed kinds, then `random` others. */
static inline bool crash_visit_moment(const struct crash_tree *durable, const int *pending, int count,
	int random, uint64_t seed, bool done, struct crash_seen *seen, crash_visitor *visitor, void *user)
{
	static const struct crash_luck fixed[] = {{0, 0, 0, false, 0}, {256, 256, 256, false, 0},
		{256, 0, 0, false, 0}, {256, 0, 256, false, 0}, {256, 0, 256, true, 0},
		{0, 256, 256, false, 0}};
	static const int densities[] = {26, 90, 128, 166, 230, 250};
	enum { FIXED = sizeof fixed / sizeof *fixed };
	for (int i = 0; i < FIXED + random && (i == 0 || count); i++) {
		struct crash_luck luck = fixed[i < FIXED ? i : 0];
		if (i >= FIXED) {
			luck.random = seed * 1000003 + (uint64_t)i * 7919;
			crash_chance(&luck, 0);
			luck.names = densities[(luck.random >> 40) % 6];
			luck.data = densities[(luck.random >> 20) % 6];
			luck.sizes = densities[luck.random % 6];
			luck.rubbish = luck.random >> 63;
		}
		struct crash_tree tree = crash_state(durable, pending, count, luck);
		uint64_t hash = crash_hash(&tree, done);
		bool known = crash_was_seen(seen, hash),
		     good = known || crash_show(&tree, visitor, user, done);
		crash_tree_free(&tree);
		if (!good)
			return false;
		if (!known)
			crash_see(seen, hash);
	}
	return true;
}

/* What an fsync makes durable leaves the list of pending operations. */
static inline int crash_settle(struct crash_tree *durable, int synced, int *pending, int count)
{
	int left = 0;
	for (int i = 0; i < count; i++) {
		const struct crash_operation *o = &crash.operations[pending[i]];
		bool data = o->kind == CRASH_WRITE || o->kind == CRASH_TRUNCATE;
		if (data && o->node == synced)
			crash_apply_data(durable, o);
		else if (!data && o->to == synced)
			crash_apply_names(durable, o);
		else
			pending[left++] = pending[i];
	}
	return left;
}

/* The disk before anything was recorded, with room for every file that came later (symbolic links: with
 * target). */
static inline struct crash_tree crash_first_disk(void)
{
	struct crash_tree disk = crash_tree_copy(&crash.before);
	for (int i = disk.count; i < crash.now.count; i++) {
		const struct crash_node *node = &crash.now.nodes[i];
		int added = crash_node_new(&disk, node->kind);
		if (S_ISLNK(node->kind)) {
			crash_resize(&disk.nodes[added], node->bytes);
			memcpy(disk.nodes[added].data, node->data, node->bytes);
		}
	}
	return disk;
}

/* Visits the states after each of the recorded operations (every `stride`-th, and the last), as if fsync
 * number `skip` had been forgotten (-1: none), but for those that were seen, and adds them. True: all are
 * good. */
static inline bool crash_visit(
	int stride, int random, int skip, struct crash_seen *seen, crash_visitor *visitor, void *user)
{
	struct crash_tree durable = crash_first_disk();
	int *pending = malloc(((size_t)crash.count + 1) * sizeof *pending), count = 0, syncs = 0;
	bool done = false, good = true;
	for (int i = 0; i < crash.count && good; i++) {
		const struct crash_operation *o = &crash.operations[i];
		if (o->kind == CRASH_DONE)
			done = true;
		else if (o->kind != CRASH_SYNC)
			pending[count++] = i;
		else if (syncs++ != skip)
			count = crash_settle(&durable, o->node, pending, count);
		if (i % stride == 0 || i + 1 == crash.count || o->kind == CRASH_DONE)
			good = crash_visit_moment(
				&durable, pending, count, random, (uint64_t)i + 1, done, seen, visitor, user);
	}
	free(pending);
	crash_tree_free(&durable);
	return good;
}

/* Sync number `number`, NULL: there are fewer. */
static inline const struct crash_operation *crash_sync(int number)
{
	for (int i = 0; i < crash.count; i++)
		if (crash.operations[i].kind == CRASH_SYNC && number-- == 0)
			return &crash.operations[i];
	return NULL;
}

#endif
