/*
 * nfs_files.h: what NFS, and FUSE file systems as sshfs, do with a file that is open when it is removed: it gets another
 * name, and its folder stays until it is closed. An `unlink` for file_operations (common/file.h).
 */
#ifndef TESTS_NFS_FILES_H
#define TESTS_NFS_FILES_H

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int unlink_on_nfs(const char *path)
{
	struct stat info, open_file;
	char hidden[512];
	if (lstat(path, &info) < 0)
		return -1;
	for (int fd = 3; fd < 64; fd++) {
		if (fstat(fd, &open_file) < 0 || open_file.st_ino != info.st_ino)
			continue;
		if (strstr(path, "/.nfs")) {
			errno = EBUSY;
			return -1;
		}
		snprintf(hidden, sizeof hidden, "%.*s/.nfs%d", (int)(strrchr(path, '/') - path), path, fd);
		return rename(path, hidden);
	}
	return unlink(path);
}

#endif
