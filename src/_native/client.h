/* The host's half: starting the supervisor and exchanging messages with it. */
#ifndef PCTR_CLIENT_H
#define PCTR_CLIENT_H

#include <stddef.h>
#include <stdint.h>

/* Starts the supervisor program that `program` (an open descriptor of it) holds, from a sealed
 * copy in memory where the kernel allows that.  The supervisor is nobody's child.
 * Returns the host's end of the main socket, or -errno; *memory says whether the copy was used. */
int pctr_client_start(int program, int *memory);

/* Sends one request with descriptors.  With `channel` (or NULL), a socket pair is made, one end
 * of which goes along as the first descriptor; *channel becomes the other end, and stays as it
 * was on failure.  Returns 0 or -errno.  Blocks only while the supervisor's queue is full. */
int pctr_client_request(int sock, const void *data, size_t size, const int *fds, unsigned count,
                        int *channel);

/* Receives one message without waiting.  Returns its length (0 at end of file) or -errno;
 * *count is the room in `fds`, then how many descriptors came.  With `peek` the message stays
 * the next one to come. */
long pctr_client_receive(int sock, void *data, size_t size, int *fds, unsigned *count, int peek);

/* A descriptor that becomes readable when a name appears in `directory`, an open one, or when that
 * is removed (inotify(7)).  Returns -errno where the kernel or procfs does not let us watch it. */
int pctr_client_watch(int directory);

/* Lends `size` bytes to the pipe, whose reader gets them from where they lie (vmsplice(2)): they
 * stay as they are until then.  Returns how many it took, as many as there was room for, or -errno. */
long pctr_client_lend(int pipe, const void *data, size_t size);

/* Closes the descriptor that is kept at `cell`, which holds -1 afterwards; -1 is none. */
void pctr_client_close(int *cell);

#endif
