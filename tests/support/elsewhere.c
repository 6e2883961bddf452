/* LD_PRELOAD this, and no process sees the locks of another, as on some network filesystems. With ELSEWHERE set the
   process believes to be on the host of that name. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

int flock(int descriptor, int operation) { return 0; }

int gethostname(char *name, size_t size) {
    const char *elsewhere = getenv("ELSEWHERE");
    if (!elsewhere) return ((int (*)(char *, size_t))dlsym(RTLD_NEXT, "gethostname"))(name, size);
    strncpy(name, elsewhere, size);
    return 0;
}
