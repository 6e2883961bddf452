/* Stands between a process and the C library for every call that changes a file or a directory below one place.

   LD_PRELOAD it and set
     INTERPOSE_ROOT   the directory that is watched
     INTERPOSE_TRACE  a file that gets every call, in order, with what it wrote
     INTERPOSE_KILL   "before N" or "after N": the process kills itself with SIGKILL around the Nth call
   A call that is made through the library itself (a buffered stream's own write) is not seen, so streams are flushed
   after every fwrite. interpose_fail(N, errno) makes the Nth call from now on fail; interpose_calls() counts. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int trace = -1;
static long calls, kill_at = -1, fail_from = -1, fail_to = -1;
static int kill_after, fail_errno;

#define REAL(result, name, ...)                                                        \
    static result (*real)(__VA_ARGS__);                                                \
    if (!real) real = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t raw_write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, size);
}

__attribute__((constructor)) static void begin(void) {
    const char *place = getenv("INTERPOSE_ROOT"), *file = getenv("INTERPOSE_TRACE"), *when = getenv("INTERPOSE_KILL");
    if (place) {
        snprintf(root, sizeof root, "%s", place);
        root_length = strlen(root);
    }
    if (file) {
        REAL(int, "open64", const char *, int, ...);
        trace = real(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    }
    if (when) {
        kill_after = !strncmp(when, "after", 5);
        kill_at = atol(strchr(when, ' '));
    }
}

long interpose_calls(void) { return calls; }

/* Let the calls number first … last, counted from now, fail; 0, 0 ends it. */
void interpose_fail(long first, long last, int error) {
    fail_from = first ? calls + first : -1;
    fail_to = calls + last;
    fail_errno = error;
}

/* Write a line into the trace that is no call, for the harness to know where it was. */
void interpose_mark(const char *text) {
    char line[PATH_MAX];
    int length = snprintf(line, sizeof line, "mark\t%s\t\t0\t0\n\n", text);
    pthread_mutex_lock(&mutex);
    if (trace >= 0) raw_write(trace, line, length);
    pthread_mutex_unlock(&mutex);
}

static int watched(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static const char *absolute(int directory, const char *path, char *buffer) {
    char base[PATH_MAX / 2], link[64];
    int held, end = 0;
    if (sscanf(path, "/proc/self/fd/%d/%n", &held, &end) == 1 && end) return absolute(held, path + end, buffer);
    if (path[0] == '/') return path;
    if (directory == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
    }
    snprintf(buffer, PATH_MAX, "%s/%s", base, path);
    return buffer;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    buffer[length < 0 ? 0 : length] = 0;
    return buffer;
}

/* Before a call: returns nonzero, with errno set, when it is to fail. Holds the mutex until leave(). */
static int enter(void) {
    pthread_mutex_lock(&mutex);
    calls++;
    if (calls == kill_at && !kill_after) kill(getpid(), SIGKILL);
    if (fail_from >= 0 && calls >= fail_from && calls <= fail_to) {
        pthread_mutex_unlock(&mutex);
        errno = fail_errno;
        return 1;
    }
    return 0;
}

static void leave(int worked, const char *name, const char *path, const char *other, long offset, const void *data,
                  size_t size) {
    int kept = errno;
    char line[2 * PATH_MAX + 128];
    if (worked && trace >= 0) {
        int length = snprintf(line, sizeof line, "%s\t%s\t%s\t%ld\t%zu\n", name, path, other, offset, data ? size : 0);
        raw_write(trace, line, length);
        for (size_t done = 0; data && done < size;) done += raw_write(trace, (const char *)data + done, size - done);
        raw_write(trace, "\n", 1);
    }
    if (calls == kill_at && kill_after) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&mutex);
    errno = kept;
}

static long position(int fd) {
    struct stat status;
    if ((fcntl(fd, F_GETFL) & O_APPEND) && !fstat(fd, &status)) return status.st_size;
    return lseek(fd, 0, SEEK_CUR);
}

/* Opening changes something when it makes or empties a file. */
static const char *opening(const char *path, int flags) {
    struct stat status;
    int there = !lstat(path, &status);
    if (!there && (flags & O_CREAT)) return "creat";
    if (there && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) return "truncate";
    return NULL;
}

#define MODE(flags, mode)                                                              \
    mode_t mode = 0;                                                                   \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                           \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode = va_arg(rest, mode_t);                                                   \
        va_end(rest);                                                                  \
    }

#define OPEN(symbol, name)                                                             \
    int symbol(const char *path, int flags, ...) {                                     \
        REAL(int, name, const char *, int, ...);                                       \
        MODE(flags, mode)                                                              \
        char buffer[PATH_MAX];                                                         \
        const char *place = absolute(AT_FDCWD, path, buffer), *change;                 \
        if (!watched(place) || !(change = opening(place, flags))) return real(path, flags, mode); \
        if (enter()) return -1;                                                        \
        int result = real(path, flags, mode);                                          \
        leave(result >= 0, change, place, "", 0, NULL, 0);                             \
        return result;                                                                 \
    }
OPEN(open, "open")
OPEN(open64, "open64")

#define OPENAT(symbol, name)                                                           \
    int symbol(int directory, const char *path, int flags, ...) {                      \
        REAL(int, name, int, const char *, int, ...);                                  \
        MODE(flags, mode)                                                              \
        char buffer[PATH_MAX];                                                         \
        const char *place = absolute(directory, path, buffer), *change;                \
        if (!watched(place) || !(change = opening(place, flags))) return real(directory, path, flags, mode); \
        if (enter()) return -1;                                                        \
        int result = real(directory, path, flags, mode);                               \
        leave(result >= 0, change, place, "", 0, NULL, 0);                             \
        return result;                                                                 \
    }
OPENAT(openat, "openat")
OPENAT(openat64, "openat64")

#define FOPEN(symbol, name)                                                            \
    FILE *symbol(const char *path, const char *mode) {                                 \
        REAL(FILE *, name, const char *, const char *);                                \
        char buffer[PATH_MAX];                                                         \
        const char *place = absolute(AT_FDCWD, path, buffer), *change = NULL;          \
        int flags = mode[0] == 'w' ? O_WRONLY | O_CREAT | O_TRUNC : mode[0] == 'a' ? O_WRONLY | O_CREAT : O_RDONLY; \
        if (!watched(place) || !(change = opening(place, flags))) return real(path, mode); \
        if (enter()) return NULL;                                                      \
        FILE *result = real(path, mode);                                               \
        leave(result != NULL, change, place, "", 0, NULL, 0);                          \
        return result;                                                                 \
    }
FOPEN(fopen, "fopen")
FOPEN(fopen64, "fopen64")

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
    char buffer[PATH_MAX];
    if (!root_length || !size || !count || !watched(path_of(fileno(stream), buffer))) return real(data, size, count, stream);
    if (enter()) return 0;
    long offset = position(fileno(stream));
    size_t result = real(data, size, count, stream);
    fflush(stream);
    leave(result == count, "write", buffer, "", offset, data, size * count);
    return result;
}

ssize_t write(int fd, const void *data, size_t size) {
    char buffer[PATH_MAX];
    if (!root_length || !watched(path_of(fd, buffer))) return raw_write(fd, data, size);
    if (enter()) return -1;
    long offset = position(fd);
    ssize_t result = raw_write(fd, data, size);
    leave(result > 0, "write", buffer, "", offset, data, result);
    return result;
}

#define PWRITE(symbol, name)                                                           \
    ssize_t symbol(int fd, const void *data, size_t size, off_t offset) {              \
        REAL(ssize_t, name, int, const void *, size_t, off_t);                         \
        char buffer[PATH_MAX];                                                         \
        if (!watched(path_of(fd, buffer))) return real(fd, data, size, offset);        \
        if (enter()) return -1;                                                        \
        ssize_t result = real(fd, data, size, offset);                                 \
        leave(result > 0, "write", buffer, "", offset, data, result);                  \
        return result;                                                                 \
    }
PWRITE(pwrite, "pwrite")
PWRITE(pwrite64, "pwrite64")

#define ON_FD(symbol, traced)                                                          \
    int symbol(int fd) {                                                               \
        REAL(int, #symbol, int);                                                       \
        char buffer[PATH_MAX];                                                         \
        if (!watched(path_of(fd, buffer))) return real(fd);                            \
        if (enter()) return -1;                                                        \
        int result = real(fd);                                                         \
        leave(!result, traced, buffer, "", 0, NULL, 0);                                \
        return result;                                                                 \
    }
ON_FD(fsync, "fsync")
ON_FD(fdatasync, "fsync")

#define FTRUNCATE(symbol, name)                                                        \
    int symbol(int fd, off_t length) {                                                 \
        REAL(int, name, int, off_t);                                                   \
        char buffer[PATH_MAX];                                                         \
        if (!watched(path_of(fd, buffer))) return real(fd, length);                    \
        if (enter()) return -1;                                                        \
        int result = real(fd, length);                                                 \
        leave(!result, "truncate", buffer, "", length, NULL, 0);                       \
        return result;                                                                 \
    }
FTRUNCATE(ftruncate, "ftruncate")
FTRUNCATE(ftruncate64, "ftruncate64")

#define SENDFILE(symbol, name)                                                         \
    ssize_t symbol(int out, int in, off_t *offset, size_t size) {                      \
        REAL(ssize_t, name, int, int, off_t *, size_t);                                \
        char buffer[PATH_MAX];                                                         \
        if (!watched(path_of(out, buffer))) return real(out, in, offset, size);        \
        errno = EINVAL; /* its caller falls back to write, which is traced */          \
        return -1;                                                                     \
    }
SENDFILE(sendfile, "sendfile")
SENDFILE(sendfile64, "sendfile64")

static int two_paths(int (*call)(const char *, const char *), const char *name, const char *from, const char *to) {
    char first[PATH_MAX], second[PATH_MAX];
    const char *a = absolute(AT_FDCWD, from, first), *b = absolute(AT_FDCWD, to, second);
    if (!watched(a) && !watched(b)) return call(from, to);
    if (enter()) return -1;
    int result = call(from, to);
    leave(!result, name, a, b, 0, NULL, 0);
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    return two_paths(real, "rename", from, to);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    char buffer[PATH_MAX];
    struct stat status;
    const char *place = absolute(AT_FDCWD, path, buffer);
    if (!watched(place) || !lstat(place, &status)) return real(path, mode);
    if (enter()) return -1;
    int result = real(path, mode);
    leave(!result, "mkdir", place, "", 0, NULL, 0);
    return result;
}

#define ON_PATH(symbol)                                                                \
    int symbol(const char *path) {                                                     \
        REAL(int, #symbol, const char *);                                              \
        char buffer[PATH_MAX];                                                         \
        const char *place = absolute(AT_FDCWD, path, buffer);                          \
        if (!watched(place)) return real(path);                                        \
        if (enter()) return -1;                                                        \
        int result = real(path);                                                       \
        leave(!result, #symbol, place, "", 0, NULL, 0);                                \
        return result;                                                                 \
    }
ON_PATH(unlink)
ON_PATH(rmdir)

int unlinkat(int directory, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char buffer[PATH_MAX];
    const char *place = absolute(directory, path, buffer);
    if (!watched(place)) return real(directory, path, flags);
    if (enter()) return -1;
    int result = real(directory, path, flags);
    leave(!result, flags & AT_REMOVEDIR ? "rmdir" : "unlink", place, "", 0, NULL, 0);
    return result;
}
