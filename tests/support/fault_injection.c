/* Preloaded by fault_injection.py: makes allocations and new threads fail on request, and counts the live blocks. Needs
   glibc, which gives its allocator a second set of names.

   The return address tells which code allocates: `backprop` itself, in any thread, or (INDIRECT) Python or NumPy code
   that `backprop`'s compiled code has called, in the thread of the call. Allocations of Python code never fail: they
   would test the interpreter and NumPy, some of which crash or do not raise if their own allocations fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unwind.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { OURS, INDIRECT, THREADS, INTERPRETER, NUMPY, NOBODY };

static struct { uintptr_t start, end; int who; } ranges[64];
static int n_ranges;

void faults_watch(uintptr_t start, uintptr_t end, int who)
{
    if (n_ranges < 64) {
        ranges[n_ranges].start = start;
        ranges[n_ranges].end = end;
        ranges[n_ranges++].who = who;
    }
}

static int who_is(void *address)
{
    for (int i = 0; i < n_ranges; i++)
        if ((uintptr_t)address >= ranges[i].start && (uintptr_t)address < ranges[i].end)
            return ranges[i].who;
    return NOBODY;
}

/* ---- The k-th fails, or all from the k-th on ---- */

static atomic_int domains;  /* a bit for each kind of allocation that may fail; 0 outside a call */
static long first_to_fail;
static int for_ever, thread_error;
static atomic_long n_seen, n_failed;
static _Thread_local int is_caller;
static uintptr_t eval_start, eval_end;  /* the function that runs Python code */

static _Unwind_Reason_Code look_at_frame(struct _Unwind_Context *frame, void *is_ours)
{
    uintptr_t address = (uintptr_t)_Unwind_GetIP(frame);
    int who = who_is((void *)address);
    *(int *)is_ours = who == OURS;
    return (who == INTERPRETER || who == NUMPY) && !(address >= eval_start && address < eval_end)
        ? _URC_NO_REASON : _URC_END_OF_STACK;
}

/* Whether the first caller outside Python and NumPy is backprop. */
static int is_asked_by_ours(void)
{
    int is_ours = 0;
    if (!is_caller || !(atomic_load(&domains) >> INDIRECT & 1))
        return 0;
    is_caller = 0;  /* the unwinder's own allocations do not count */
    _Unwind_Backtrace(look_at_frame, &is_ours);
    is_caller = 1;
    return is_ours;
}

static int fails(int who)
{
    if (who == INTERPRETER || who == NUMPY)
        who = is_asked_by_ours() ? INDIRECT : NOBODY;
    if (who == NOBODY || !(atomic_load(&domains) >> who & 1))
        return 0;
    long n = atomic_fetch_add(&n_seen, 1) + 1;
    if (n != first_to_fail && !(for_ever && first_to_fail && n > first_to_fail))
        return 0;
    atomic_fetch_add(&n_failed, 1);
    return 1;
}

/* Armed and disarmed in C, right before and after the call: Python code for that might itself allocate memory. */
extern void *PyObject_CallNoArgs(void *) __attribute__((weak));

void *faults_call(void *callable, long k, int from_then_on, int which, int error)
{
    first_to_fail = k;
    for_ever = from_then_on;
    thread_error = error;
    n_seen = n_failed = 0;
    is_caller = 1;
    domains = which;
    void *result = PyObject_CallNoArgs(callable);
    domains = 0;
    is_caller = 0;
    return result;
}

long faults_seen(void) { return n_seen; }
long faults_failed(void) { return n_failed; }

/* ---- Live blocks: a table of backprop's blocks, and of NumPy's blocks of arrays, except cached ones ---- */

#define NUMPY_KEEPS 1024  /* bytes: NumPy caches smaller blocks */
#define SLOTS (1u << 16)
static struct { void *block; size_t bytes; } table[SLOTS];
static atomic_flag lock = ATOMIC_FLAG_INIT;
static long n_alive, bytes_alive, n_entries;

static unsigned slot_of(void *block) { return (unsigned)((uintptr_t)block * 0x9E3779B97F4A7C15u >> 48) % SLOTS; }
static void take_lock(void) { while (atomic_flag_test_and_set(&lock)); }
static void give_lock(void) { atomic_flag_clear(&lock); }

static void *enter(void *block, size_t bytes, int who)
{
    if (!block || !(who == OURS || (who == NUMPY && bytes >= NUMPY_KEEPS)))
        return block;
    take_lock();
    if (n_entries < SLOTS / 2) {  /* a full table would look like blocks that are never freed */
        unsigned i = slot_of(block);
        while (table[i].block)
            i = (i + 1) % SLOTS;
        table[i].block = block;
        table[i].bytes = bytes;
        n_entries++;
    }
    n_alive++;
    bytes_alive += (long)bytes;
    give_lock();
    return block;
}

static void leave(void *block)
{
    if (!block || !n_entries)
        return;
    take_lock();
    unsigned i = slot_of(block);
    while (table[i].block && table[i].block != block)
        i = (i + 1) % SLOTS;
    if (table[i].block) {
        n_alive--;
        bytes_alive -= (long)table[i].bytes;
        n_entries--;
        for (unsigned j = (i + 1) % SLOTS; table[j].block; j = (j + 1) % SLOTS)  /* move later entries up */
            if ((j - slot_of(table[j].block)) % SLOTS >= (j - i) % SLOTS) {
                table[i] = table[j];
                i = j;
            }
        table[i].block = NULL;
    }
    give_lock();
}

long faults_alive(void) { return n_alive; }
long faults_bytes(void) { return bytes_alive; }

/* ---- What stands in front of the C library ---- */

static void *none(void) { errno = ENOMEM; return NULL; }

void *malloc(size_t n)
{
    int who = who_is(__builtin_return_address(0));
    return fails(who) ? none() : enter(__libc_malloc(n), n, who);
}

void *calloc(size_t n, size_t size)
{
    int who = who_is(__builtin_return_address(0));
    return fails(who) ? none() : enter(__libc_calloc(n, size), n * size, who);
}

void *realloc(void *block, size_t n)
{
    int who = who_is(__builtin_return_address(0));
    if (fails(who))
        return none();
    leave(block);
    return enter(__libc_realloc(block, n), n, who);
}

void free(void *block)
{
    leave(block);
    __libc_free(block);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    int who = who_is(__builtin_return_address(0));
    return fails(who) ? none() : enter(__libc_memalign(alignment, n), n, who);
}

void *memalign(size_t alignment, size_t n)
{
    int who = who_is(__builtin_return_address(0));
    return fails(who) ? none() : enter(__libc_memalign(alignment, n), n, who);
}

int posix_memalign(void **block, size_t alignment, size_t n)
{
    int who = who_is(__builtin_return_address(0));
    if (fails(who))
        return ENOMEM;
    *block = enter(__libc_memalign(alignment, n), n, who);
    return *block ? 0 : ENOMEM;
}

void *mmap(void *address, size_t n, int protection, int flags, int file, off_t offset)
{
    if (fails(who_is(__builtin_return_address(0)))) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, address, n, protection, flags, file, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real)
        real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    if (who_is(__builtin_return_address(0)) == OURS && fails(THREADS))
        return thread_error;
    return real(thread, attributes, start, argument);
}

int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void *module)  /* pthread_atfork */
{
    static int (*real)(void (*)(void), void (*)(void), void (*)(void), void *);
    if (!real)
        real = (int (*)(void (*)(void), void (*)(void), void (*)(void), void *))dlsym(RTLD_NEXT, "__register_atfork");
    return fails(who_is(__builtin_return_address(0))) ? ENOMEM : real(prepare, parent, child, module);
}

/* ---- What stands in front of Python's allocators ---- */

typedef struct {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} allocator;  /* PyMemAllocatorEx */

extern void PyMem_GetAllocator(int domain, allocator *) __attribute__((weak));
extern void PyMem_SetAllocator(int domain, allocator *) __attribute__((weak));

static allocator pythons[3];  /* of its three domains */

static void *python_malloc(void *own, size_t n)
{
    allocator *a = own;
    return fails(INTERPRETER) ? NULL : a->malloc(a->context, n);
}

static void *python_calloc(void *own, size_t n, size_t size)
{
    allocator *a = own;
    return fails(INTERPRETER) ? NULL : a->calloc(a->context, n, size);
}

static void *python_realloc(void *own, void *block, size_t n)
{
    allocator *a = own;
    return fails(INTERPRETER) ? NULL : a->realloc(a->context, block, n);
}

static void python_free(void *own, void *block)
{
    allocator *a = own;
    a->free(a->context, block);
}

void faults_hook_python(void)
{
    Dl_info info;
    ElfW(Sym) *symbol;
    eval_start = (uintptr_t)dlsym(RTLD_DEFAULT, "_PyEval_EvalFrameDefault");
    if (eval_start && dladdr1((void *)eval_start, &info, (void **)&symbol, RTLD_DL_SYMENT))
        eval_end = eval_start + symbol->st_size;
    for (int domain = 0; domain < 3; domain++) {
        PyMem_GetAllocator(domain, &pythons[domain]);
        allocator ours = {&pythons[domain], python_malloc, python_calloc, python_realloc, python_free};
        PyMem_SetAllocator(domain, &ours);
    }
}
