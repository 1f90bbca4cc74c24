/* Ends or starves a program at a chosen one of the calls by which it changes the files below one folder.

       cc -shared -fPIC -O2 -U_FORTIFY_SOURCE -o io_shim.so io_shim.c -ldl
       LD_PRELOAD=./io_shim.so CSP_IO_CONTROL=control program

   `control` is a file that holds a struct control; it is mapped into every process that inherits the variables, so
   that one count runs over all of them, and whoever writes into the file steers them all at once.

       COUNT  the calls are counted
       TRACE  and each is noted
       KILL   before call number `at`, half of it done where it writes, its process is noted and killed by SIGKILL;
              the same comes once more `again` calls later, unless that is 0
       FAIL   from call number `at` on, every call that may need room on the disk fails with `error` (ENOSPC, EROFS, ...)

   Notes are lines of control.report: number, pid, call, path, command line, command line of the parent; with tabs
   between. A rename or link belongs to where its new name is. What C programs write by stdio is not seen but for the
   opening of the file, and nothing that is written through a mapping. For Linux on 64 bits. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { COUNT, TRACE, KILL, FAIL };
enum need { NOTHING, ROOM, BYTES }; /* BYTES: room, and a kill leaves half of them */
enum verdict { GO, REFUSED, TORN };

struct control {
    _Atomic uint64_t count;
    uint64_t at, again;
    uint32_t mode, error;
    char folder[4064]; /* absolute, empty for none */
};

static struct control *control;
static char report[PATH_MAX];

__attribute__((constructor)) static void begin(void)
{
    const char *name = getenv("CSP_IO_CONTROL");
    int fd = name ? syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    snprintf(report, sizeof report, "%s.report", name);
    control = shared == MAP_FAILED ? NULL : shared;
}

/* Nothing here may go through the functions that are replaced below: it would count itself. */
static ssize_t contents(const char *path, char *text, size_t room)
{
    int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : syscall(SYS_read, fd, text, room - 1);
    if (fd >= 0)
        syscall(SYS_close, fd);
    size = size < 0 ? 0 : size;
    text[size] = 0;
    return size;
}

static void command_line(int pid, char *text, size_t room)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    ssize_t size = contents(path, text, room);
    for (ssize_t i = 0; i < size; i++)
        if (text[i] == 0 || text[i] == '\t' || text[i] == '\n')
            text[i] = ' ';
}

static void note(uint64_t number, const char *call, const char *path)
{
    char mine[512], parents[512], line[PATH_MAX + 1200];
    command_line(getpid(), mine, sizeof mine);
    command_line(getppid(), parents, sizeof parents);
    int size = snprintf(line, sizeof line, "%llu\t%d\t%s\t%s\t%s\t%s\n", (unsigned long long)number, (int)getpid(), call,
                        path, mine, parents);
    int fd = syscall(SYS_openat, AT_FDCWD, report, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    syscall(SYS_write, fd, line, size); /* one call, so that processes do not mix their lines */
    syscall(SYS_close, fd);
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
}

/* The file that a call concerns: by its name in a directory, or the open file itself where there is no name. */
static int whole_path(int dir, const char *name, char *path)
{
    size_t size = 0;
    if (!name || name[0] != '/') {
        char link[64];
        snprintf(link, sizeof link, dir == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", dir);
        ssize_t got = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
        if (got < 0)
            return 0;
        size = got;
        if (name)
            path[size++] = '/';
    }
    return snprintf(path + size, PATH_MAX - size, "%s", name ? name : "") < (int)(PATH_MAX - size);
}

static int watched(int dir, const char *name, char *path)
{
    size_t size = control ? strlen(control->folder) : 0;
    if (!size || !whole_path(dir, name, path))
        return 0;
    return !strncmp(path, control->folder, size) && (path[size] == '/' || path[size] == 0);
}

static enum verdict point(const char *call, enum need need, int dir, const char *name)
{
    char path[PATH_MAX + 1] = "";
    int before = errno;
    int concerns = watched(dir, name, path);
    errno = before;
    if (!concerns)
        return GO;
    uint64_t number = atomic_fetch_add(&control->count, 1) + 1;
    uint32_t mode = control->mode;
    int dies = mode == KILL && number == control->at;
    if (mode == TRACE || dies)
        note(number, call, path);
    errno = before;
    if (dies) {
        control->at += control->again;
        control->again = 0;
        if (need == BYTES)
            return TORN;
        die();
    }
    if (mode == FAIL && number >= control->at && need != NOTHING) {
        errno = control->error;
        return REFUSED;
    }
    return GO;
}

#define CHANGE(call, parameters, need, dir, name, whole)                                                               \
    int call parameters                                                                                                \
    {                                                                                                                  \
        return point(#call, need, dir, name) == GO ? whole : -1;                                                       \
    }

#define WRITE(call, parameters, fd, half, whole)                                                                       \
    ssize_t call parameters                                                                                            \
    {                                                                                                                  \
        enum verdict verdict = point(#call, BYTES, fd, NULL);                                                          \
        if (verdict == TORN) {                                                                                         \
            half;                                                                                                      \
            die();                                                                                                     \
        }                                                                                                              \
        return verdict == GO ? whole : -1;                                                                             \
    }

#define OPEN(call, parameters, last, dir, name)                                                                        \
    int call parameters                                                                                                \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        va_start(rest, last);                                                                                          \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                                        \
        va_end(rest);                                                                                                  \
        if (flags & (O_CREAT | O_TRUNC) && point(#call, ROOM, dir, name) != GO)                                        \
            return -1;                                                                                                 \
        return syscall(SYS_openat, dir, name, flags, mode);                                                            \
    }

#define STREAM(call)                                                                                                   \
    FILE *call(const char *name, const char *how)                                                                      \
    {                                                                                                                  \
        FILE *(*next)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #call);  \
        return *how == 'r' || point(#call, ROOM, AT_FDCWD, name) == GO ? next(name, how) : NULL;                       \
    }

WRITE(write, (int fd, const void *bytes, size_t size), fd, syscall(SYS_write, fd, bytes, size / 2),
      syscall(SYS_write, fd, bytes, size))
WRITE(pwrite, (int fd, const void *bytes, size_t size, off_t at), fd, syscall(SYS_pwrite64, fd, bytes, size / 2, at),
      syscall(SYS_pwrite64, fd, bytes, size, at))
WRITE(pwrite64, (int fd, const void *bytes, size_t size, off64_t at), fd,
      syscall(SYS_pwrite64, fd, bytes, size / 2, at), syscall(SYS_pwrite64, fd, bytes, size, at))
WRITE(writev, (int fd, const struct iovec *parts, int count), fd,
      syscall(SYS_write, fd, parts->iov_base, parts->iov_len / 2), syscall(SYS_writev, fd, parts, count))
WRITE(sendfile, (int out, int in, off_t *at, size_t size), out, syscall(SYS_sendfile, out, in, at, size / 2),
      syscall(SYS_sendfile, out, in, at, size))
WRITE(sendfile64, (int out, int in, off64_t *at, size_t size), out, syscall(SYS_sendfile, out, in, at, size / 2),
      syscall(SYS_sendfile, out, in, at, size))
WRITE(copy_file_range, (int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags), out,
      syscall(SYS_copy_file_range, in, from, out, to, size / 2, flags),
      syscall(SYS_copy_file_range, in, from, out, to, size, flags))

CHANGE(fsync, (int fd), NOTHING, fd, NULL, syscall(SYS_fsync, fd))
CHANGE(fdatasync, (int fd), NOTHING, fd, NULL, syscall(SYS_fdatasync, fd))
CHANGE(ftruncate, (int fd, off_t size), ROOM, fd, NULL, syscall(SYS_ftruncate, fd, size))
CHANGE(ftruncate64, (int fd, off64_t size), ROOM, fd, NULL, syscall(SYS_ftruncate, fd, size))

CHANGE(rename, (const char *from, const char *to), ROOM, AT_FDCWD, to,
       syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0))
CHANGE(renameat, (int old, const char *from, int dir, const char *to), ROOM, dir, to,
       syscall(SYS_renameat2, old, from, dir, to, 0))
CHANGE(renameat2, (int old, const char *from, int dir, const char *to, unsigned flags), ROOM, dir, to,
       syscall(SYS_renameat2, old, from, dir, to, flags))
CHANGE(link, (const char *from, const char *to), ROOM, AT_FDCWD, to, syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0))
CHANGE(linkat, (int old, const char *from, int dir, const char *to, int flags), ROOM, dir, to,
       syscall(SYS_linkat, old, from, dir, to, flags))
CHANGE(unlink, (const char *name), NOTHING, AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, 0))
CHANGE(unlinkat, (int dir, const char *name, int flags), NOTHING, dir, name, syscall(SYS_unlinkat, dir, name, flags))
CHANGE(rmdir, (const char *name), NOTHING, AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, AT_REMOVEDIR))
CHANGE(mkdir, (const char *name, mode_t mode), ROOM, AT_FDCWD, name, syscall(SYS_mkdirat, AT_FDCWD, name, mode))
CHANGE(mkdirat, (int dir, const char *name, mode_t mode), ROOM, dir, name, syscall(SYS_mkdirat, dir, name, mode))

OPEN(open, (const char *name, int flags, ...), flags, AT_FDCWD, name)
OPEN(open64, (const char *name, int flags, ...), flags, AT_FDCWD, name)
OPEN(openat, (int dir, const char *name, int flags, ...), flags, dir, name)
OPEN(openat64, (int dir, const char *name, int flags, ...), flags, dir, name)
STREAM(fopen)
STREAM(fopen64)
