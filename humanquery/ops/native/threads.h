/* Sharing out work that falls into units, among the threads that torch keeps (OpenMP), or else among threads that live for
 * one call: those are always to be had, but on a busy machine torch's own, which wait for more work, are in their way. */
#include <pthread.h>
#include <stdint.h>

#define LONGEST 64 /* threads */

/* Does the units from..to; gives 0, or 1 where memory ran out. */
typedef int (*Work)(const void *call, int64_t from, int64_t to);

/* OpenMP's entry for a parallel section: function, its argument, threads, flags. */
typedef void (*Team)(void (*)(void *), void *, unsigned, unsigned);
extern Team humanquery_team; /* NULL: none */

typedef struct {
    Work work;
    const void *call;
    int64_t units, slices, next; /* `next`: the first slice that nobody has taken */
    int failed;
} Job;

static void take_slices(void *given)
{
    Job *job = given;
    for (int64_t t; (t = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->slices;)
        if (job->work(job->call, job->units * t / job->slices, job->units * (t + 1) / job->slices))
            __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
}

static void *take_slices_too(void *given)
{
    take_slices(given);
    return NULL;
}

static int share_out(Work work, const void *call, int64_t units, int64_t threads)
{
    threads = threads < LONGEST ? threads : LONGEST;
    threads = threads < units ? threads : units;
    threads = threads > 1 ? threads : 1;
    Job job = {work, call, units, threads, 0, 0};
    if (humanquery_team && threads > 1) {
        humanquery_team(take_slices, &job, (unsigned)threads, 0);
        return job.failed;
    }
    pthread_t started[LONGEST];
    int64_t alive = 0;
    while (alive < threads - 1 && !pthread_create(&started[alive], NULL, take_slices_too, &job))
        alive++;
    take_slices(&job);
    while (alive > 0)
        pthread_join(started[--alive], NULL);
    return job.failed;
}
