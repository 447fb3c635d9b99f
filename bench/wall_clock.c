/* A wall clock that is wrong by so many seconds: preloaded into the platform's processes, so that only theirs is.

WALL_CLOCK_FILE names a file of eight bytes, a signed number of seconds, which may change at any time. The clocks that
measure durations are left as they are: it is the wall clock that people and NTP set. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t none = 0;
static const volatile int64_t *wrong_by = &none;

__attribute__((constructor)) static void look_at_the_file(void) {
    const char *path = getenv("WALL_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *seen = mmap(NULL, sizeof *wrong_by, PROT_READ, MAP_SHARED, file, 0);
    if (seen != MAP_FAILED) wrong_by = seen;
    close(file);
}

typedef int (*clock_reader)(clockid_t, struct timespec *);

int clock_gettime(clockid_t clock, struct timespec *now) {
    static clock_reader libc_reader; /* it asks no kernel: a system call would take five times as long */
    if (!libc_reader) libc_reader = (clock_reader)dlsym(RTLD_NEXT, "clock_gettime");
    int failed = libc_reader(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *wrong_by;
    return failed;
}

int gettimeofday(struct timeval *restrict seen, void *restrict zone) {
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    if (!failed) *seen = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return failed;
}

time_t time(time_t *seen) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seen) *seen = now.tv_sec;
    return now.tv_sec;
}
