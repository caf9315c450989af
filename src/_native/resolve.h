/* Paths of a container, resolved once, to a descriptor, beneath its root. */
#ifndef PCTR_RESOLVE_H
#define PCTR_RESOLVE_H

#include "ops.h"

#include <limits.h>

enum pctr_make { PCTR_MAKE_NOTHING, PCTR_MAKE_DIRECTORY, PCTR_MAKE_EMPTY_FILE };

/* O_PATH descriptor of `path`; links stay within the root.  With `make`, a missing last
 * component and its parents come into being.  Before ROOT, paths are the host's own. */
int pctr_resolve(const struct pctr_context *context, const char *path, unsigned op_flags,
                 enum pctr_make make);

/* Directory that holds the last component of `path`; *name points at that component. */
int pctr_resolve_parent(const struct pctr_context *context, const char *path, const char **name);

/* Splits `path` into what comes before its last component, without the slash, and that component,
 * which must be a name: not "", "." or "..". */
int pctr_split_path(const char *path, char parent[PATH_MAX], const char **name);

/* Directory `path` with parents, made with `mode` where missing. */
int pctr_make_directories(const struct pctr_context *context, const char *path, unsigned op_flags,
                          mode_t mode);

#endif
