/* What the parts of the tar reader share with each other, and with their unit test; nobody else
 * includes it. */
#ifndef PCTR_TAR_PARTS_H
#define PCTR_TAR_PARTS_H

#include "tar.h"

enum pctr_tar_pax_set {
    PCTR_TAR_SET_SIZE = 1 << 0,
    PCTR_TAR_SET_UID = 1 << 1,
    PCTR_TAR_SET_GID = 1 << 2,
    PCTR_TAR_SET_MTIME = 1 << 3,
    PCTR_TAR_SET_REAL_SIZE = 1 << 4,
    PCTR_TAR_SET_SPARSE_BLOCKS = 1 << 5,
    PCTR_TAR_SET_SPARSE_MAJOR = 1 << 6,
    PCTR_TAR_SET_SPARSE_MINOR = 1 << 7,
    PCTR_TAR_SET_HALF_EXTENT = 1 << 8, /* an offset was read whose length is still to come */
};

/* Records the fault; returns -1. `what` is static text of at most 63 bytes. */
int pctr_tar_fail(struct pctr_tar *tar, enum pctr_tar_fault fault, int err, const char *what);

/* A number of a header block: octal, or base-256 when its first bit is set. False when it is
 * neither. */
bool pctr_tar_number(const unsigned char *field, size_t size, int64_t *value);

/* A decimal number without sign, of exactly `size` digits. False when it is not one, or beyond
 * INT64_MAX. */
bool pctr_tar_decimal(const char *text, size_t size, uint64_t *value);

/* Takes exactly `size` bytes of the current entry's data. */
int pctr_tar_take(struct pctr_tar *tar, void *to, size_t size);

/* Reads tar->pax_text (`size` bytes, changed in place) into tar->pax and the entry's attributes. */
int pctr_tar_pax_parse(struct pctr_tar *tar, size_t size);

/* Checks the text of a global header, which changes nothing: see tar_pax.c. */
int pctr_tar_pax_global(struct pctr_tar *tar, size_t size);

/* Forgets the last extended header. */
void pctr_tar_pax_reset(struct pctr_tar *tar);

/* Adds one data area to the entry's map, which grows in order and never overlaps. */
int pctr_tar_sparse_add(struct pctr_tar *tar, uint64_t offset, uint64_t length);

/* GNU's old format: the map in the header block and in blocks that follow it ahead of the data. */
int pctr_tar_sparse_old(struct pctr_tar *tar, const unsigned char *block);

/* The pax formats 0.0, 0.1 and 1.0, when the extended header asks for one. Ahead of it, data_left
 * is set. */
int pctr_tar_sparse_pax(struct pctr_tar *tar);

#endif
