/* What is done after a job: files read, control groups and trees removed. */
#ifndef PCTR_CLEANUP_H
#define PCTR_CLEANUP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Before the start: what will be such a tree may be there already, from a container that has not written to
 * it, and be mounted with what `stack` stands for: a descriptor of that (spares.h), else -1. */
int pctr_cleanup_reuse(char *plan, size_t size, uint64_t stack);

/* Reads the files that a cleanup plan names into `out`; returns how many bytes that are. */
uint32_t pctr_cleanup_collect(char *plan, size_t size, char *out, uint32_t room);

/* Does the rest of a cleanup plan in this process, trees excepted.  An operation that fails does
 * not stop the others: what stays behind is found and removed by the next process that opens the
 * store. */
void pctr_cleanup_run(char *plan, size_t size);

/* The same with trees, for who has nothing else to do any more. */
void pctr_cleanup_last(char *plan, size_t size);

/* Removes the plan's trees, which may take long, in a child.  Returns its PID, or 0 when the
 * plan names no tree.  Takes over what `root` and `stack` say of the one that is a container's;
 * without a `root`, it is used by nobody again. */
pid_t pctr_cleanup_trees(char *plan, size_t size, int *root, uint64_t stack);

#endif
