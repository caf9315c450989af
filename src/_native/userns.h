/* The supervisor of an ordinary user: one user namespace further in, once, before any job. */
#ifndef PCTR_USERNS_H
#define PCTR_USERNS_H

#include <stddef.h>

/* `maps` holds NUL-ended strings: uid_map text, gid_map text, then the argument vectors of
 * newuidmap(1) and newgidmap(1) without the process number, each ended by an empty string.
 * Empty vectors: the maps are of one id each and written here.
 * On success the program is executed again inside, so that its memory belongs to the new
 * namespace and is judged by it; fds[0] then closes without a record.  Else a FAILED record
 * comes out of it. */
void pctr_userns_enter(char *maps, size_t size, const int *fds, unsigned count);

#endif
