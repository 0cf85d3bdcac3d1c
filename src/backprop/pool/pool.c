/* A small thread pool: claimed tasks; workers that spin, then sleep; safe across fork. (Figures: a virtual machine with
   two Zen 4 cores, Linux 6.18.)

   A. Threads. The caller of a run is its worker 0 and starts at once. Threads 1, 2, ... are detached. A run creates
      one when it first has use for it, and it never ends. A run of t threads and n tasks uses only ids below min(t,
      n): so small runs keep to the first few workers, and those stay awake.
   B. Ownership. `busy` is a try-lock. The caller that takes it owns the job's fields, the reset of `finished`, and
      `caller_asleep`, `alive` and `skip_creation`, until it releases the lock. Any other caller computes alone. So
      there is no queue, no caller waits for another, and there are never more workers than the largest n_threads - 1.
   C. Claiming. `claim` = generation * 2^24 + number of unclaimed tasks. The owner publishes a job by one store of it.
      Each thread, the owner too, takes a task by compare-and-swap to claim - 1. A late worker sees an old generation
      or no task left; both are harmless, also if it slept through whole jobs. (A stale swap could succeed only if the
      worker were held between its load and its swap for 2^40 jobs: two days of empty ones.)
   D. Fields without a lock. A worker loads claim (acquire), then the fields, then swaps. If the swap succeeds, the
      fields were those of its generation. They were not older: the load acquires the publishing store, whose release
      sequence the swaps continue (this also makes visible what the caller wrote before the run). They were not newer:
      the owner writes fields only after an acquire load, or a swap, that found no task left. The worker's swap
      (release) came before that in the order of claim, and its reads before its swap. If the swap fails, the worker
      drops what it read. The fields are relaxed atomics, so that reading them at any time is no data race.
   E. The end. A worker that finds no task left adds the number of its tasks to `finished` (release), once. The owner
      waits until `finished` equals the claimed tasks less its own (acquire). This is the only wait, and it is for
      claimed tasks alone.
   F. Sleep. The same handshake serves twice. A thread that is about to sleep sets a flag, then looks again for what
      it waits for. The other side changes that first, then looks at the flag. All four accesses are seq_cst, so at
      least one of the two sees the other. The flags: `asleep[id]` (worker against claim; the thread that clears it
      wakes the worker) and `caller_asleep` (owner against finished).
   G. Waking takes the waker 7-10 us and the sleeper 20-50 us. So a thread wakes at most one sleeper before a task of
      its own: the caller before its first task, a worker when it has claimed a task while others are left. The number
      of threads awake doubles in each such time.
   H. fork. The child's handler resets everything, as if no run had been: the words are as another thread left them,
      and the workers do not exist there. There is no prepare handler, so fork waits for nothing. A caller whose own
      poll forked sees `forks` changed, leaves its run and touches nothing of the pool.
   I. Process exit. Nothing is joined, freed or destroyed.
   J. Placement. Linux often puts a new or woken thread on the waker's CPU although another is idle, and leaves it
      there. This was seen only if two CPUs share a cache. Two threads were no faster than one for the first 4-10 ms
      of 13 of 16 fresh processes; and in 5 of 8 they never became faster if each call found the worker asleep. So a
      worker goes to sleep with the last caller's CPU taken out of its affinity, checks its CPU when it wakes, and
      gets its own affinity back after its first job. With this, 8 of 8 ran on two CPUs. It costs an idle thread four
      system calls a sleep. */

#define _GNU_SOURCE  /* sched_yield, sigset_t and syscall under -std=c11 */
#include "pool/pool.h"
#include "pool/system.h"
#include "process/float_mode.h"

static int run_alone(ptrdiff_t n_tasks, bp_pool_task task, void *context, int (*poll)(void *), void *poll_context)
{
    for (ptrdiff_t i = 0; i < n_tasks; i++) {
        task(context, i, 0);
        if (poll && poll(poll_context))
            return BP_POOL_STOPPED;
    }
    return BP_POOL_DONE;
}

#define TASK_BITS 24
#define MAX_TASKS (((ptrdiff_t)1 << TASK_BITS) - 1)  /* of one job; a run of more is cut into several jobs */
/* Spinning: 64 looks of 20 ns take 1.3 us; then one look at the clock takes 25 ns. */
#define LOOKS 64
#define QUIET_NS 10000   /* spin without yielding so long: the next of many calls comes well within 10 us */
#define SPIN_NS 100000   /* then yield between looks; sleep after 100 us, twice the cost of a wake-up */
#define POLL_NS 4000000  /* the longest sleep of the caller, so that it polls every 4 ms */
/* After a failure to create a thread, which takes some 20 us, so many runs do not try again: 20 ns a run. */
#define SKIP_CREATION 1000

static struct {
    /* The job, written by the owner. It is one cache line, so that a worker gets all of it by one transfer. */
    _Alignas(64) _Atomic uint64_t claim;
    _Atomic(bp_pool_task) task;
    _Atomic(void *) context;
    _Atomic ptrdiff_t end;       /* index of the last task, plus 1: the next index is end - tasks left */
    _Atomic unsigned x87;        /* the caller's control word of that unit, for custom activations */
    _Atomic int threads;         /* only ids below it take part */
    _Atomic int cpu;             /* the caller's, or -1 if unknown */
    /* Written by workers. */
    _Alignas(64) _Atomic uint32_t finished;
    _Atomic uint32_t caller_asleep;
    /* Except for busy, hardly ever written while runs follow each other. */
    _Alignas(64) _Atomic uint32_t busy;
    _Atomic uint32_t registered;  /* the fork handler is installed */
    _Atomic uint32_t forks;
    _Atomic int alive;            /* workers are 1..alive */
    int skip_creation;
    _Alignas(64) _Atomic uint32_t asleep[BP_MOST_THREADS];
} pool;

#define LOAD(word, order) atomic_load_explicit(&pool.word, memory_order_##order)
#define STORE(word, value, order) atomic_store_explicit(&pool.word, value, memory_order_##order)

static ptrdiff_t tasks_left(uint64_t claim) { return (ptrdiff_t)(claim & (uint64_t)MAX_TASKS); }
static int same_job(uint64_t a, uint64_t b) { return a >> TASK_BITS == b >> TASK_BITS; }

/* ---- Workers ---- */

static int wake_one(int threads)  /* wake a sleeping worker with an id below `threads`; 0 if there is none */
{
    for (int id = 1; id < threads; id++)
        if (LOAD(asleep[id], seq_cst) && atomic_exchange(&pool.asleep[id], 0)) {
            wake(id, &pool.asleep[id]);
            return 1;
        }
    return 0;
}

/* Claim a task of the job of *claim. On success *claim still counts it as left: its index is end - left. */
static int claim_task(uint64_t *claim)
{
    uint64_t seen = *claim;
    while (same_job(seen, *claim) && tasks_left(seen))
        if (atomic_compare_exchange_weak_explicit(&pool.claim, &seen, seen - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            *claim = seen;
            return 1;
        }
    return 0;
}

static void work(int id, uint64_t claim)
{
    bp_pool_task task = LOAD(task, relaxed);
    void *context = LOAD(context, relaxed);
    ptrdiff_t end = LOAD(end, relaxed);
    unsigned x87 = LOAD(x87, relaxed);
    int threads = LOAD(threads, relaxed);
    uint32_t n_done = 0;
    while (claim_task(&claim)) {
        if (!n_done)
            bp_set_x87(x87); /* MXCSR has the default mode already: workers are created in it */
        if (tasks_left(claim) > 1)
            wake_one(threads);
        task(context, end - tasks_left(claim), id);
        n_done++;
        claim--;
    }
    if (n_done) {
        atomic_fetch_add(&pool.finished, n_done);  /* seq_cst: releases the tasks' effects, and F */
        if (LOAD(caller_asleep, seq_cst))
            wake(0, &pool.finished);
    }
}

static int offers_task(uint64_t claim, int id) { return tasks_left(claim) && id < LOAD(threads, relaxed); }

static void leave_callers_cpu(detour *way)
{
    int cpu = current_cpu();
    if (cpu == LOAD(cpu, relaxed))
        keep_off(way, cpu);
}

static void *worker_main(void *argument)
{
    int id = (int)(intptr_t)argument;
    int64_t start = now();
    detour way = {0};
    name_thread("backprop");
    leave_callers_cpu(&way);
    for (;;) {
        uint64_t claim = 0;
        int found = 0;
        for (int i = 0; i < LOOKS && !found; i++) {
            claim = LOAD(claim, acquire);
            found = offers_task(claim, id);
            if (!found)
                relax();
        }
        if (!found) {
            int64_t idle = now() - start;
            if (idle < SPIN_NS) {
                if (idle > QUIET_NS)
                    yield();  /* a fresh worker may be on the caller's CPU while another CPU is idle */
                continue;
            }
            keep_off(&way, LOAD(cpu, relaxed));
            STORE(asleep[id], 1, seq_cst);
            claim = LOAD(claim, seq_cst);
            found = offers_task(claim, id);
            if (found)
                STORE(asleep[id], 0, relaxed);  /* a waker may have been quicker: one wake-up too many does no harm */
            else {
                while (LOAD(asleep[id], acquire))
                    sleep_on(id, &pool.asleep[id], 1, 0);
                leave_callers_cpu(&way);
            }
        }
        if (found) {
            work(id, claim);
            end_detour(&way);
        }
        start = now();
    }
    return NULL;
}

static void create_worker(void)
{
    int id = LOAD(alive, relaxed) + 1;
    if (pool.skip_creation)
        return;
    if (start_thread(worker_main, (void *)(intptr_t)id)) {
        pool.skip_creation = SKIP_CREATION;
        return;
    }
    STORE(alive, id, relaxed);
    yield();  /* if it is queued on this CPU, let it run and move to another (J); once per worker */
}

/* ---- The caller ---- */

static void call_help(int threads)
{
    if (!wake_one(threads) && LOAD(alive, relaxed) < threads - 1)
        create_worker();
}

static void after_fork_in_child(void)  /* the child has one thread: any memory order will do */
{
    STORE(claim, LOAD(claim, relaxed) & ~(uint64_t)MAX_TASKS, relaxed);
    STORE(caller_asleep, 0, relaxed);
    for (int id = 0; id < BP_MOST_THREADS; id++)
        STORE(asleep[id], 0, relaxed);
    STORE(alive, 0, relaxed);
    pool.skip_creation = 0;
    STORE(forks, LOAD(forks, relaxed) + 1, relaxed);
    reset_sleep();
    STORE(busy, 0, relaxed);
}

static int acquire(bp_pool_lease *lease, int n_threads)
{
    lease->n_threads = 1;
    if (n_threads < 2)
        return 1;
    /* This comes before the lock: a fork must not find the lock held and no handler. If two callers get here at once,
       the handler is installed twice and runs twice, which does no harm. */
    if (!LOAD(registered, acquire)) {
        if (on_fork(after_fork_in_child))
            return 1;
        STORE(registered, 1, release);
    }
    lease->forks = LOAD(forks, relaxed);
    if (atomic_exchange_explicit(&pool.busy, 1, memory_order_acquire))  /* acquire: what the last owner wrote */
        return 1;
    STORE(cpu, current_cpu(), relaxed);
    return lease->n_threads = n_threads < BP_MOST_THREADS ? n_threads : BP_MOST_THREADS;
}

int bp_pool_acquire(bp_pool_lease *lease, int n_threads)
{
    if (acquire(lease, n_threads) > 1)
        call_help(2);
    return lease->n_threads;
}

void bp_pool_release(bp_pool_lease *lease)
{
    if (lease->n_threads > 1 && lease->forks == LOAD(forks, relaxed))
        STORE(busy, 0, release);
    lease->n_threads = 1;
}

/* Wait until the workers have finished n tasks. */
static int wait_finished(uint32_t n, unsigned forks, int status, int (*poll)(void *), void *poll_context)
{
    int64_t start = 0;
    for (;;) {
        for (int i = 0; i < LOOKS; i++) {
            if (LOAD(finished, acquire) == n)
                return status;
            relax();
        }
        if (!start)
            start = now();
        int64_t waited = now() - start;
        if (waited < SPIN_NS) {
            if (waited > QUIET_NS)
                yield();
            continue;
        }
        STORE(caller_asleep, 1, seq_cst);
        uint32_t seen = LOAD(finished, seq_cst);
        if (seen != n)
            sleep_on(0, &pool.finished, seen, POLL_NS);
        STORE(caller_asleep, 0, relaxed);
        if (poll && status == BP_POOL_DONE && LOAD(finished, acquire) != n && poll(poll_context))
            status = BP_POOL_STOPPED;
        if (LOAD(forks, relaxed) != forks)
            return BP_POOL_LOST;
    }
}

static int run_job(const bp_pool_lease *lease, ptrdiff_t base, ptrdiff_t n, bp_pool_task task, void *context,
                   int (*poll)(void *), void *poll_context)
{
    int threads = (ptrdiff_t)lease->n_threads < n ? lease->n_threads : (int)n;
    int status = BP_POOL_DONE;
    uint32_t n_own = 0;
    STORE(task, task, relaxed);
    STORE(context, context, relaxed);
    STORE(end, base + n, relaxed);
    STORE(x87, bp_get_x87(), relaxed);
    STORE(threads, threads, relaxed);
    STORE(cpu, current_cpu(), relaxed);
    STORE(finished, 0, relaxed);  /* all tasks of the last job are counted, so no worker adds to it now */
    if (pool.skip_creation)
        pool.skip_creation--;
    uint64_t claim = ((LOAD(claim, relaxed) >> TASK_BITS) + 1) << TASK_BITS | (uint64_t)n;
    STORE(claim, claim, seq_cst);  /* releases the fields and what the tasks read; seq_cst for F */
    while (claim_task(&claim)) {
        if (tasks_left(claim) > 1)
            call_help(threads);
        task(context, base + n - tasks_left(claim), 0);
        n_own++;
        claim--;
        if (poll && poll(poll_context)) {
            status = BP_POOL_STOPPED;
            break;
        }
        if (LOAD(forks, relaxed) != lease->forks)
            return BP_POOL_LOST;
    }
    if (LOAD(forks, relaxed) != lease->forks)
        return BP_POOL_LOST;
    if (status)  /* drop the unclaimed tasks */
        n -= tasks_left(atomic_fetch_and_explicit(&pool.claim, ~(uint64_t)MAX_TASKS, memory_order_acq_rel));
    return wait_finished((uint32_t)n - n_own, lease->forks, status, poll, poll_context);
}

int bp_pool_lease_run(const bp_pool_lease *lease, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                      int (*poll)(void *), void *poll_context)
{
    int status = BP_POOL_DONE;
    if (lease->n_threads < 2 || n_tasks < 2 || lease->forks != LOAD(forks, relaxed))
        return run_alone(n_tasks, task, context, poll, poll_context);
    for (ptrdiff_t base = 0; base < n_tasks && status == BP_POOL_DONE; base += MAX_TASKS)
        status = run_job(lease, base, n_tasks - base < MAX_TASKS ? n_tasks - base : MAX_TASKS, task, context,
                         poll, poll_context);
    return status;
}

int bp_pool_run(int n_threads, ptrdiff_t n_tasks, bp_pool_task task, void *context,
                int (*poll)(void *), void *poll_context)
{
    bp_pool_lease lease;
    acquire(&lease, n_tasks < 2 ? 1 : n_threads);
    int status = bp_pool_lease_run(&lease, n_tasks, task, context, poll, poll_context);
    bp_pool_release(&lease);
    return status;
}

int bp_pool_size(void) { return LOAD(alive, relaxed); }
unsigned bp_pool_forks(void) { return LOAD(forks, relaxed); }
int64_t bp_pool_now(void) { return now(); }
void bp_pool_yield(void) { yield(); }
