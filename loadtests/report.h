/* What a run counted, and the JSON line that tells of it. */
#ifndef REPORT_H
#define REPORT_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_BATCH = 1024, MAX_ANSWERS = 20000000 };
enum fault { CONNECT, TIMEOUT, CLOSED, PROTOCOL, FAULTS };
static const char *const FAULT_NAMES[FAULTS] = {"connect", "timeout", "closed", "protocol"};

static uint32_t *latencies; /* microseconds, of answers 2xx */
static size_t good, room;
static uint64_t bytes;
static long answers, statuses[600], faults[FAULTS], reconnects, batches[MAX_BATCH + 1];

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(void *old, size_t size) {
    void *memory = realloc(old, size);
    if (!memory) die("out of memory");
    return memory;
}

/* An answer, its batch's size (0: not told) and how long it took, in seconds. */
static void count(int status, int batch, double seconds) {
    if (answers == MAX_ANSWERS) return;
    answers++;
    statuses[status]++;
    if (batch > 0) batches[batch < MAX_BATCH ? batch : MAX_BATCH]++;
    if (status >= 300) return;
    if (good == room) latencies = allocate(latencies, (room = room ? 2 * room : 4096) * sizeof *latencies);
    latencies[good++] = (uint32_t)(seconds * 1e6);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double p) { /* milliseconds; nearest rank */
    size_t rank = (size_t)(p * (double)good + 0.999999);
    return good ? latencies[(rank > good ? good : rank) - 1] / 1e3 : 0;
}

static void count_of(const char **comma, const char *name, long count) {
    if (count) printf("%s\"%s\": %ld", *comma, name, count);
    if (count) *comma = ", ";
}

static void report(double seconds, double cpu_seconds) {
    char name[16];
    const char *comma = "";
    if (good) qsort(latencies, good, sizeof *latencies, ascending);
    printf("{\"requests\": %ld, \"ok\": %zu, \"errors\": {", answers, good);
    for (int status = 300; status < 600; status++) {
        snprintf(name, sizeof name, "%d", status);
        count_of(&comma, name, statuses[status]);
    }
    for (int fault = 0; fault < FAULTS; fault++) count_of(&comma, FAULT_NAMES[fault], faults[fault]);
    printf("}, \"reconnects\": %ld, \"bytes\": %llu, \"seconds\": %.4f, \"rps\": %.2f, \"p50_ms\": %.3f, ", reconnects,
           (unsigned long long)bytes, seconds, seconds > 0 ? (double)good / seconds : 0, percentile(.5));
    printf("\"p90_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"cpu_seconds\": %.4f, \"batch_sizes\": {",
           percentile(.9), percentile(.99), percentile(1), cpu_seconds);
    comma = "";
    for (int size = 1; size <= MAX_BATCH; size++) {
        snprintf(name, sizeof name, "%d", size);
        count_of(&comma, name, batches[size]);
    }
    puts("}}");
}

#endif
