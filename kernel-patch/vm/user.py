"""What the wheel does on a machine that has a /dev/kfd and no GPU. Prints TAP.

usage: user.py patched|stock
"""

import os
import sys
from typing import Callable

sys.path.insert(0, "/wheel")

number = 0
failures = 0


def check(good: bool, what: str, said: object = "") -> None:
    global number, failures
    number += 1
    failures += not good
    print(f"{'' if good else 'not '}ok {number} python: {what}", flush=True)
    if not good:
        print(f"# {said}", flush=True)


def leases() -> int:
    """How many leases this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}") == "anon_inode:[kfd-gpreempt]"
        except OSError:
            pass
    return count


import gpreempt  # noqa: E402


def no_gpu(call: Callable[[], object], what: str) -> None:
    try:
        check(False, what, call())
    except gpreempt.BackendUnavailableError as error:
        check("no GPU in the topology" in str(error), what, error)


def on_the_patched_driver() -> None:
    with gpreempt.Session() as session:
        check(leases() == 1, "a session holds one lease of the driver, so the tier is patched")
        check(session.cost_model is None, "its times are measured", session.cost_model)
        no_gpu(session.status, "it sees zero nodes, and says so where slots are asked for")
        check(session.queues() == [], "it finds no queue", session.queues())
        try:
            session.status(4711)
            check(False, "it knows no GPU by a made-up gpu_id")
        except gpreempt.QueueNotFoundError as error:
            check(True, "it knows no GPU by a made-up gpu_id", error)
    check(leases() == 0, "closing it closes the lease")

    scheduler = gpreempt.SmartQueueScheduler()
    check(scheduler.hqd_monitor.running, "a SmartQueueScheduler starts, and its monitor")
    check(scheduler.handle_online_request(lambda: 42) == 42, "it runs online work")
    check(scheduler.tripped() == [], "it has no GPU to leave alone", scheduler.tripped())
    scheduler.cleanup()
    check(not scheduler.hqd_monitor.running, "its cleanup stops the monitor")

    monitor = gpreempt.HQDResourceMonitor(interval=0.05)
    monitor.start()
    status = monitor.current_status
    check(monitor.running, "an HQDResourceMonitor runs")
    check(status is not None and (status.total, status.nodes) == (0, 0), "it reports no slot and zero nodes", status)
    monitor.stop()
    check(not monitor.running, "it stops")
    check(leases() == 1, "both used the default session, which stays open", leases())
    pid = os.fork()
    if pid == 0:
        os._exit(leases())
    check(os.waitpid(pid, 0)[1] == 0, "a forked child has no lease")
    gpreempt.default_session().close()
    check(leases() == 0, "closing that closes its lease, too", leases())


def on_the_stock_driver() -> None:
    for what in (gpreempt.Session, gpreempt.SmartQueueScheduler):
        try:
            what()
            check(False, f"{what.__name__} does not open a stock driver")
        except gpreempt.errors.UnsupportedError as error:
            check(True, f"{what.__name__} does not open a stock driver")
            check("it answers ENOTTY" in str(error), f"{what.__name__} says that the driver answers ENOTTY", error)
            check("kernel-patch/" in str(error), f"{what.__name__} names the remedy", error)
        except gpreempt.GpreemptError as error:
            check(False, f"{what.__name__} does not open a stock driver", repr(error))
    check(leases() == 0, "no file is left open")


check(gpreempt.__file__.startswith("/wheel/"), "import gpreempt", gpreempt.__file__)
on_the_patched_driver() if sys.argv[1] == "patched" else on_the_stock_driver()
sys.exit(failures != 0)
