/* The supervisor holds several descriptors for each container, so it lifts its own soft limit;
 * the programs it starts get the host's back. */
#ifndef PCTR_NOFILE_H
#define PCTR_NOFILE_H

void pctr_nofile_raise(void);
void pctr_nofile_restore(void);

#endif
