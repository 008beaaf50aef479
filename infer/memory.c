/* memory.c - see memory.h. */
#include "infer/memory.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The number that a line of the file starts with after `name`; NaN: there is none. */
static double file_number(const char *path, const char *name) {
    char line[256];
    double x = NAN;
    const size_t n = strlen(name);
    FILE *f = fopen(path, "r");
    while (f && isnan(x) && fgets(line, sizeof line, f))
        if (!strncmp(line, name, n) && sscanf(line + n, "%lf", &x) != 1) x = NAN;
    if (f) fclose(f);
    return x;
}

/* What is left below ulimit -v. */
static double below_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY) return INFINITY;
    const double pages = file_number("/proc/self/statm", "");
    const double left = (double)limit.rlim_cur - pages * (double)sysconf(_SC_PAGESIZE);
    return left > 0 ? left : 0;
}

/* What is left to the control group of the process (version 2), as batch systems and containers set it. */
static double below_group(void) {
    char line[3072], path[4096];
    FILE *f = fopen("/proc/self/cgroup", "r");
    const int found = f && fgets(line, sizeof line, f) && !strncmp(line, "0::", 3);
    if (f) fclose(f);
    if (!found) return INFINITY;
    line[strcspn(line, "\n")] = 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
    const double most = file_number(path, ""); /* "max": no number, no limit */
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", line + 3);
    const double used = file_number(path, "");
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.stat", line + 3);
    const double given_up = file_number(path, "inactive_file "); /* cached files, counted as used */
    if (isnan(most) || isnan(used)) return INFINITY;
    return fmax(most - used + (isnan(given_up) ? 0 : given_up), 0);
}

double memory_free(const Device *dev) {
    size_t free_bytes, total_bytes;
    device_memory(dev, &free_bytes, &total_bytes);
    if (device_kind(dev) != DEVICE_CPU) return (double)free_bytes;
    const double kib = file_number("/proc/meminfo", "MemAvailable:");
    return fmin(isnan(kib) ? (double)total_bytes : kib * 1024, fmin(below_limit(), below_group()));
}
