# Which build of the kernels this process uses: one per instruction set and dtype, chosen when the module is imported.

cdef extern from *:
    """
    #if defined(__x86_64__) && defined(__GNUC__)
    static int bp_cpu_level(void)
    {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("bmi2"))
            return 4;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
            return 3;
        return 2;
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


def _choose_simd():
    supported = supported_simd()
    wanted = os.environ.get("BACKPROP_SIMD", "")
    if not wanted:
        return supported[len(supported) - 1]
    if wanted not in supported:
        raise ImportError(
            f"BACKPROP_SIMD: expected one of {', '.join(supported)}, which this CPU supports, got {wanted!r}"
        )
    return wanted


simd = _choose_simd()
_kernel_modules = [importlib.import_module(f"backprop._kernels_{simd}_{dtype}") for dtype in ("f4", "f8")]
_float32_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[0].table, "backprop.KernelTable")
_float64_kernels = <const KernelTable*>PyCapsule_GetPointer(_kernel_modules[1].table, "backprop.KernelTable")


cdef inline const KernelTable* kernel_table(Py_ssize_t itemsize) noexcept:
    """The kernels for reals of 4 or 8 bytes."""
    return _float32_kernels if itemsize == 4 else _float64_kernels
