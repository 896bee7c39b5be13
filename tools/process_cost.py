"""What processes cost, from /proc."""
import os

TICK = os.sysconf("SC_CLK_TCK")


def family(pid):
    """The process and all below it."""
    found, waiting = [], [pid]
    while waiting:
        p = waiting.pop()
        found.append(p)
        try:
            for task in os.listdir("/proc/%d/task" % p):
                with open("/proc/%d/task/%s/children" % (p, task)) as f:
                    waiting += [int(c) for c in f.read().split()]
        except OSError:
            pass
    return found


def cpu(pids):
    """User and system seconds, those of children that have ended included."""
    total = 0
    for pid in pids:
        try:
            with open("/proc/%d/stat" % pid) as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += sum(int(fields[i]) for i in (11, 12, 13, 14))
        except OSError:
            pass
    return total / TICK


def peak_mb(pids):
    most = 0
    for pid in pids:
        try:
            with open("/proc/%d/status" % pid) as f:
                most = max([most] + [int(line.split()[1]) / 1024 for line in f
                                     if line.startswith("VmHWM")])
        except OSError:
            pass
    return most
