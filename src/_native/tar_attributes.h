/* The extended attributes of a file that goes into an archive. */
#ifndef PCTR_TAR_ATTRIBUTES_H
#define PCTR_TAR_ATTRIBUTES_H

#include "tar_head.h"
#include "tar_write.h"

/* Clears the records and adds the attributes that belong to a file's content, user.* and
 * security.capability, sorted by name. *opaque tells whether the directory hides what lower layers
 * have in it: PCTR_TAR_WRITE_UPPER among `flags` has overlay's own attributes looked at.
 * PCTR_TAR_WRITE_OK, or what is wrong, READ with errno. For one thread: the memory is static. */
enum pctr_tar_write_code pctr_tar_attributes(int fd, uint32_t flags,
                                             struct pctr_tar_records *records, bool *opaque);

#endif
