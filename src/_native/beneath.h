/* Opening directories beneath a directory, in trees that an enemy has written. */
#ifndef PCTR_BENEATH_H
#define PCTR_BENEATH_H

/* Opens the directory `path` (relative, no `..`; empty for dir_fd's own) beneath dir_fd for
 * reading, through no link of any kind and across no mount. Returns a close-on-exec descriptor that
 * the caller owns, or -1 with errno: EXDEV for a mount or `..` on the way, ELOOP or ENOTDIR for a
 * link or another non-directory, else as openat2(2) says. */
int pctr_open_dir_beneath(int dir_fd, const char *path);

#endif
