/* The pool without Python: jobs of many sizes, one after another, with pauses in which workers fall asleep, and with
   two leases. Each task must run once, and the caller must see what it wrote. Prints the number of worker threads at
   the end. */
#include "pool/pool.h"

#include <stdio.h>
#include <string.h>

enum { MOST_TASKS = 5000, ROUNDS = 400 };

static int runs[MOST_TASKS];
static int ids_seen[8];

static void task(void *context, ptrdiff_t index, int worker)
{
    runs[index] += *(int *)context;
    ids_seen[worker] = 1;
    for (volatile int i = 0; i < 300; i++)
        ;
}

static void wait_ns(int64_t ns)
{
    for (int64_t start = bp_pool_now(); bp_pool_now() - start < ns;)
        bp_pool_yield();
}

static int polls;
static int stop_at_tenth(void *context) { return (void)context, ++polls == 10; }

int main(void)
{
    int one = 1, workers = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int n = 1 + round * 37 % MOST_TASKS, threads = 1 + round % 4;
        memset(runs, 0, sizeof runs);
        if (bp_pool_run(threads, n, task, &one, NULL, NULL) != BP_POOL_DONE)
            return printf("round %d: not done\n", round), 1;
        for (int i = 0; i < MOST_TASKS; i++)
            if (runs[i] != (i < n))
                return printf("round %d: task %d of %d ran %d times\n", round, i, n, runs[i]), 1;
        if (round % 50 == 49)
            wait_ns(3000000);  /* workers sleep after 0.1 ms */
    }
    if (bp_pool_run(4, MOST_TASKS, task, &one, stop_at_tenth, NULL) != BP_POOL_STOPPED || polls != 10)
        return printf("a poll did not stop the run: %d polls\n", polls), 1;
    for (int id = 1; id < 8; id++)
        workers += ids_seen[id];
    if (workers == 0 || bp_pool_size() != 3)
        return printf("%d threads, of which %d worked\n", bp_pool_size(), workers), 1;
    printf("right, with %d threads\n", bp_pool_size());
    return 0;
}
