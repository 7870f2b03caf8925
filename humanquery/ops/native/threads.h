/* Sharing out work that falls into units: threads live for one call, so nothing survives that a forked process could miss. */
#include <pthread.h>
#include <stdint.h>

#define LONGEST 64 /* threads */

/* Does the units from..to; gives 0, or 1 where memory ran out. */
typedef int (*Work)(const void *call, int64_t from, int64_t to);

typedef struct {
    Work work;
    const void *call;
    int64_t from, to;
    int failed;
} Slice;

static void *work_on(void *given)
{
    Slice *slice = given;
    slice->failed = slice->work(slice->call, slice->from, slice->to);
    return NULL;
}

static int share_out(Work work, const void *call, int64_t units, int64_t threads)
{
    pthread_t started[LONGEST];
    int alive[LONGEST] = {0}, failed = 0;
    Slice slices[LONGEST];
    threads = threads < LONGEST ? threads : LONGEST;
    threads = threads < units ? threads : units;
    threads = threads > 1 ? threads : 1;
    for (int64_t t = 0; t < threads; t++)
        slices[t] = (Slice){work, call, units * t / threads, units * (t + 1) / threads, 0};
    for (int64_t t = 1; t < threads; t++)
        alive[t] = !pthread_create(&started[t], NULL, work_on, &slices[t]);
    for (int64_t t = 0; t < threads; t++)
        if (!alive[t])
            work_on(&slices[t]);
    for (int64_t t = 0; t < threads; t++) {
        if (alive[t])
            pthread_join(started[t], NULL);
        failed |= slices[t].failed;
    }
    return failed;
}
