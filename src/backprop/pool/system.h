/* What the pool needs from the system: pause, clock, threads, placement, sleep. Only pool.c includes it. There are
   three ways to sleep: a futex on Linux, WaitOnAddress on Windows, condition variables elsewhere. */
#ifndef BP_POOL_SYSTEM_H
#define BP_POOL_SYSTEM_H

#include <stdatomic.h>
#include <stdint.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <process.h>
#else
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#endif
#if defined(__linux__) && !defined(BP_POOL_NO_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(SYS_futex) && defined(FUTEX_PRIVATE_FLAG)  /* some 32-bit machines have only SYS_futex_time64 */
#define USE_FUTEX 1
#endif
#endif

#ifdef __has_feature
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

/* Bytes of a worker's stack. A task starts 5 KiB below its top, glibc's own data included. The frames of sanitizers are
   several times as large. */
#ifdef SANITIZED
#define STACK_BYTES ((size_t)8 << 20)
#else
#define STACK_BYTES ((size_t)512 << 10)
#endif

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");  /* `yield` does nothing on most cores */
#endif
}

/* ---- Clock and threads ---- */

#ifdef _WIN32

static int64_t now(void)
{
    LARGE_INTEGER frequency, t;  /* the frequency is fixed at boot; reading it needs no system call */
    QueryPerformanceFrequency(&frequency);
    QueryPerformanceCounter(&t);
    return t.QuadPart / frequency.QuadPart * 1000000000 +
           t.QuadPart % frequency.QuadPart * 1000000000 / frequency.QuadPart;
}

static void yield(void) { SwitchToThread(); }
static void name_thread(const char *name) { (void)name; }
static int on_fork(void (*in_child)(void)) { return (void)in_child, 0; }  /* there is no fork */

static void *(*thread_main)(void *);
static unsigned __stdcall enter_thread(void *argument) { return thread_main(argument) != NULL; }

/* Start a detached thread; nonzero if that fails. Windows has no signals to block. */
static int start_thread(void *(*main)(void *), void *argument)
{
    thread_main = main;
    uintptr_t thread = _beginthreadex(NULL, (unsigned)STACK_BYTES, enter_thread, argument,
                                      STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
    if (!thread)
        return 1;
    CloseHandle((HANDLE)thread);
    return 0;
}

#else

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void yield(void) { sched_yield(); }
static int on_fork(void (*in_child)(void)) { return pthread_atfork(NULL, NULL, in_child); }

static void name_thread(const char *name)
{
#if defined(__APPLE__)
    pthread_setname_np(name);
#elif defined(__linux__)
    pthread_setname_np(pthread_self(), name);
#else
    (void)name;
#endif
}

/* Returns 0 if the thread runs, else an errno value. */
static int create_thread(void *(*main)(void *), void *argument, size_t stack_bytes)
{
    pthread_t thread;
    pthread_attr_t attributes;
    int status = pthread_attr_init(&attributes);
    if (status)
        return status;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (stack_bytes)
        pthread_attr_setstacksize(&attributes, stack_bytes);
    status = pthread_create(&thread, &attributes, main, argument);
    pthread_attr_destroy(&attributes);
    return status;
}

/* Start a detached thread that handles no signals of the process; nonzero if that fails. */
static int start_thread(void *(*main)(void *), void *argument)
{
    sigset_t blocked, callers;
    /* The thread inherits this mask. Signals from a thread's own faults stay unblocked: blocked, they would end the
       process without the traceback of a handler (Python's faulthandler). */
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &callers);
    int status = create_thread(main, argument, STACK_BYTES);
    if (status == EINVAL)  /* libraries of this process keep more thread-local data than such a stack holds */
        status = create_thread(main, argument, 0);
    pthread_sigmask(SIG_SETMASK, &callers, NULL);
    return status;
}

#endif

/* ---- Placement ---- */

#ifdef __linux__

/* The affinity of a thread before and while it keeps off a CPU (pool.c, J). Failures cost speed alone: ignored. */
typedef struct { cpu_set_t before, during; int active; } detour;

static int current_cpu(void) { return sched_getcpu(); }

static void end_detour(detour *d)
{
    cpu_set_t set;
    /* If the affinity is not `during`, another part of the process has set it: leave it. */
    if (d->active && !sched_getaffinity(0, sizeof set, &set) && CPU_EQUAL(&set, &d->during))
        sched_setaffinity(0, sizeof set, &d->before);
    d->active = 0;
}

static void keep_off(detour *d, int cpu)
{
    end_detour(d);
    if (cpu < 0 || sched_getaffinity(0, sizeof d->before, &d->before) || !CPU_ISSET(cpu, &d->before))
        return;
    d->during = d->before;
    CPU_CLR(cpu, &d->during);
    d->active = CPU_COUNT(&d->during) && !sched_setaffinity(0, sizeof d->during, &d->during);
}

#else

typedef int detour;
static int current_cpu(void) { return -1; }
static void end_detour(detour *d) { (void)d; }
static void keep_off(detour *d, int cpu) { (void)d, (void)cpu; }

#endif

/* ---- Sleep ---- */

#if defined(_WIN32)

/* Sleep while *word == value, for at most ns nanoseconds if ns is not 0. May return early. id is the sleeper's, 0 for
   the caller. */
static void sleep_on(int id, _Atomic uint32_t *word, uint32_t value, int64_t ns)
{
    (void)id;
    WaitOnAddress((volatile void *)word, &value, sizeof value, ns ? (DWORD)((ns + 999999) / 1000000) : INFINITE);
}

static void wake(int id, _Atomic uint32_t *word)
{
    (void)id;
    WakeByAddressSingle((void *)word);
}

static void reset_sleep(void) { }

#elif defined(USE_FUTEX)

/* Sleep while *word == value, for at most ns nanoseconds if ns is not 0. May return early. id is the sleeper's, 0 for
   the caller. */
static void sleep_on(int id, _Atomic uint32_t *word, uint32_t value, int64_t ns)
{
    struct timespec t = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    (void)id;
    syscall(SYS_futex, (void *)word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, value, ns ? &t : NULL, NULL, 0);
}

static void wake(int id, _Atomic uint32_t *word)
{
    (void)id;
    syscall(SYS_futex, (void *)word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
}

static void reset_sleep(void) { }

#else

static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleep_signal[BP_MOST_THREADS] = {[0 ... BP_MOST_THREADS - 1] = PTHREAD_COND_INITIALIZER};

static void sleep_on(int id, _Atomic uint32_t *word, uint32_t value, int64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);  /* on macOS, condition variables have no other clock */
    t.tv_nsec += (long)(ns % 1000000000);
    t.tv_sec += (time_t)(ns / 1000000000 + t.tv_nsec / 1000000000);
    t.tv_nsec %= 1000000000;
    pthread_mutex_lock(&sleep_lock);
    if (atomic_load_explicit(word, memory_order_relaxed) == value) {
        if (ns)
            pthread_cond_timedwait(&sleep_signal[id], &sleep_lock, &t);
        else
            pthread_cond_wait(&sleep_signal[id], &sleep_lock);
    }
    pthread_mutex_unlock(&sleep_lock);
}

static void wake(int id, _Atomic uint32_t *word)
{
    (void)word;
    pthread_mutex_lock(&sleep_lock);  /* the word has changed: a sleeper with the lock sees it, or waits already */
    pthread_cond_signal(&sleep_signal[id]);
    pthread_mutex_unlock(&sleep_lock);
}

static void reset_sleep(void)
{
    pthread_mutex_init(&sleep_lock, NULL);
    for (int id = 0; id < BP_MOST_THREADS; id++)
        pthread_cond_init(&sleep_signal[id], NULL);
}

#endif

#endif
