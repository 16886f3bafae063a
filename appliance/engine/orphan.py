"""A child that must not outlive its parent, however that one ends. Knows one system call of Linux."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PARENT_PID = "APPLIANCE_PARENT_PID"  # environment: who started the child, for a parent that ends before the child asks


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent ends; end now where the parent has already gone.

    The parent is the process that the environment's PARENT_PID names, else the one there is. Raises OSError where the
    kernel refuses.
    """
    parent = int(os.environ.get(PARENT_PID) or os.getppid())
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)
