/* The identity as an activation; some of its next values take a second, during which no signal is polled. */

#include <stdatomic.h>
#include <unistd.h>

static atomic_int n_slow;

void slow_next(int n) { n_slow = n; }

int slow_left(void) { return n_slow; }

double slow_value(double a)
{
    if (n_slow > 0 && n_slow-- > 0)
        sleep(1);
    return a;
}

double slow_one(double a) { return (void)a, 1.0; }
