# Which build of the kernels this process uses: one per instruction set and dtype, chosen when the module is imported.
# Needs: kernels/table. Gives: kernel_table, and to Python supported_simd and simd.

cdef extern from *:
    """
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


simd, _kernel_modules = _load_kernels()
_float32_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[0].table, "backprop.KernelTable")
_float64_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[1].table, "backprop.KernelTable")


cdef inline const KernelTable* kernel_table(Py_ssize_t itemsize) noexcept:
    """The kernels for reals of 4 or 8 bytes."""
    return _float32_kernels if itemsize == 4 else _float64_kernels
