"""Real Debian hosts with a running systemd, for tests: systemd-nspawn on overlays over a debootstrap root.

Enforced there: sandbox directives, capabilities, system call filters, sockets, watchdog, timers, journal. What needs
cgroup controllers (MemoryMax, TasksMax, CPUQuota, AllowedCPUs) may have no effect there: assert the setting.
No route leads out.
"""

from tests.support.hosts.base import BOOKWORM, TRIXIE, Suite, base_root
from tests.support.hosts.host import CommandFailed, Host
from tests.support.hosts.lab import Lab, open_lab
from tests.support.hosts.machine import HostsUnavailable, cache_directory, why_not

__all__ = [
    "BOOKWORM",
    "TRIXIE",
    "CommandFailed",
    "Host",
    "HostsUnavailable",
    "Lab",
    "Suite",
    "base_root",
    "cache_directory",
    "open_lab",
    "why_not",
]
