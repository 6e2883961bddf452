/* LD_PRELOAD this, and a process is on the host named by ELSEWHERE, whose locks no other host sees. */
#include <stdlib.h>
#include <string.h>

int flock(int descriptor, int operation) { return 0; }

int gethostname(char *name, size_t size) {
    strncpy(name, getenv("ELSEWHERE"), size);
    return 0;
}
