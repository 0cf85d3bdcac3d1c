# cython: language_level=3, cdivision=True, boundscheck=False, wraparound=False, initializedcheck=False
# The GIL, taken inside a call by the caller's thread: for signal handlers and for NumPy functions.
# Needs: nothing. Gives: take_gil, give_gil, check_signals, raise_pending.

cdef extern from *:
    """
    /* Not PyGILState_Ensure, which is what Cython's `with gil` calls: if the process exits while a daemon thread is
       inside a call, it finds the interpreter gone and crashes. This thread has a state already, and
       PyEval_RestoreThread takes one at any time; but up to Python 3.13 it ends the thread if the interpreter is ending
       or has ended. That would free the stack of this call, in which workers still read and write. So the thread waits
       here for the end of the process instead, as Python 3.14 lets it do. */
    #ifdef _WIN32
    #define bp_take_gil() PyEval_RestoreThread(PyGILState_GetThisThreadState())
    #else
    #include <pthread.h>
    #include <unistd.h>
    static void bp_wait_for_exit(void *unused)
    {
        (void)unused;
        for (;;)
            pause();
    }
    static void bp_take_gil(void)
    {
        PyThreadState *state = PyGILState_GetThisThreadState();
        if (state == NULL)
            bp_wait_for_exit(NULL);
        pthread_cleanup_push(bp_wait_for_exit, NULL);
        PyEval_RestoreThread(state);
        pthread_cleanup_pop(0);
    }
    #endif
    static void bp_give_gil(void) { PyEval_SaveThread(); }
    static int bp_raise_pending(void) { return -1; }
    """
    void take_gil "bp_take_gil"() noexcept nogil
    void give_gil "bp_give_gil"() noexcept nogil
    int check_signals "PyErr_CheckSignals"() noexcept nogil  # with the GIL; what a handler raised is left pending
    int raise_pending "bp_raise_pending"() except -1
