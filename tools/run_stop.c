/* The first signal asks for a clean stop; a second one ends the process. */
#include "tools/run.h"

#include <signal.h>
#include <stdatomic.h>

static atomic_int stop_requested; /* lock-free: threads read it too */

static void on_signal(int number)
{
    if (stop_requested) {
        signal(number, SIG_DFL);
        raise(number); /* delivered when the handler returns */
    }
    stop_requested = 1;
}

void run_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int run_stopped(void *unused)
{
    (void)unused;
    return stop_requested != 0;
}

ccq_code run_check_stop(ccq_error *err)
{
    if (!stop_requested)
        return CCQ_OK;
    return ccq_fail(err, CCQ_INTERRUPTED, "interrupted: no file was written");
}
