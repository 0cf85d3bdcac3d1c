# Which build of the kernels this process uses: one per instruction set and dtype, chosen when the module is imported;
# and the L2 cache for which products are cut into blocks.
# Needs: kernels/table. Gives: kernel_table, and to Python supported_simd, simd and l2_bytes.

cdef extern from *:
    """
    #ifdef __APPLE__
    #include <sys/sysctl.h>
    #elif !defined(_WIN32)
    #include <unistd.h>
    #endif
    /* The L2 cache of a core as the system reports it, or 0. */
    static long bp_l2_of_system(void)
    {
    #ifdef __APPLE__
        int64_t n_bytes = 0;
        size_t size = sizeof n_bytes;
        return sysctlbyname("hw.l2cachesize", &n_bytes, &size, NULL, 0) ? 0 : (long)n_bytes;
    #elif defined(_SC_LEVEL2_CACHE_SIZE)
        const long n_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
        return n_bytes > 0 ? n_bytes : 0; /* -1 if it has no such number */
    #else
        return 0;
    #endif
    }
    #if defined(__x86_64__)
    #include <cpuid.h>
    /* By hand: __builtin_cpu_supports needs a library of the compiler's that clang-cl does not link. */
    static int bp_cpu_level(void)
    {
        unsigned a, b, c, d, state;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX) || !(c & bit_FMA))
            return 2;
        __asm__("xgetbv" : "=a"(state), "=d"(d) : "c"(0)); /* what the system saves of a thread's registers */
        if ((state & 0x6) != 0x6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || !(b & bit_BMI2))
            return 2;
        if ((state & 0xe6) != 0xe6 || !(b & bit_AVX512F) || !(b & bit_AVX512VL) || !(b & bit_AVX512BW) ||
            !(b & bit_AVX512DQ) || !(b & bit_AVX512CD))
            return 3;
        return 4;
    }
    #else
    static int bp_cpu_level(void) { return 0; }
    #endif
    """
    int bp_cpu_level() nogil
    long bp_l2_of_system() nogil

cdef const KernelTable* _float32_kernels = NULL

cdef const KernelTable* _float64_kernels = NULL

cdef object _kernel_modules  # keeps the capsules alive


def supported_simd():
    """The instruction sets that this CPU has, the best one last: "v2", "v3", "v4" on x86-64, else "generic"."""
    return [f"v{level}" for level in range(2, bp_cpu_level() + 1)] or ["generic"]


def _load_kernels():
    """The instruction set to use and its two modules: the one that BACKPROP_SIMD names, else the best that is built."""
    supported = supported_simd()
    wanted = os.environ.get("BACKPROP_SIMD", "")
    if wanted and wanted not in supported:
        raise ImportError(
            f"BACKPROP_SIMD: expected one of {', '.join(supported)}, which this CPU supports, got {wanted!r}"
        )
    for name in [wanted] if wanted else reversed(supported):
        try:
            return name, [importlib.import_module(f"backprop._kernels_{name}_{dtype}") for dtype in ("f4", "f8")]
        except ModuleNotFoundError:  # BACKPROP_BUILD_SIMD left it out
            pass
    raise ImportError(
        f"expected kernels for {wanted or ' or '.join(supported)}, but this copy of backprop was built without them; "
        "build it again without BACKPROP_BUILD_SIMD"
    )


def _find_l2_bytes():
    """The L2 cache to cut products for: what BACKPROP_L2_KIB says, else that of a core, from 256 KiB to 2 MiB.

    Cores may share a larger one. If the system reports none, 512 KiB is right for most, and costs little on others.
    """
    wanted = os.environ.get("BACKPROP_L2_KIB", "")
    if not wanted:
        return min(max(bp_l2_of_system() or 512 * 1024, 256 * 1024), 2048 * 1024)
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 6 and 64 <= int(wanted) <= 65536):
        raise ImportError(f"BACKPROP_L2_KIB: expected a number of KiB from 64 to 65536, got {wanted!r}")
    return int(wanted) * 1024


simd, _kernel_modules = _load_kernels()
l2_bytes = _find_l2_bytes()
_float32_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[0].table, "backprop.KernelTable")
_float64_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[1].table, "backprop.KernelTable")
_float32_kernels.set_l2_bytes(l2_bytes)
_float64_kernels.set_l2_bytes(l2_bytes)


cdef inline const KernelTable* kernel_table(Py_ssize_t itemsize) noexcept nogil:
    """The kernels for reals of 4 or 8 bytes."""
    return _float32_kernels if itemsize == 4 else _float64_kernels
