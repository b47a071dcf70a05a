"""Runs one command; prints its exit code, seconds and peak memory in kernel units.

It is a process of its own because the peak memory of a child includes that of its parent at the
fork: this one is as small as Python gets.
"""

import os
import sys
import time

log, *command = sys.argv[1:]
output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
redirect = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
began = time.perf_counter()
pid = os.posix_spawnp(command[0], command, os.environ, file_actions=redirect)
_, status, usage = os.wait4(pid, 0)
seconds = time.perf_counter() - began
print(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss)
