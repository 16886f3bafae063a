"""Runs a command as systemd does for a socket unit: python activate.py FD,FD… COMMAND. Descriptors begin at 3."""

import fcntl
import os
import sys

FIRST = 3


def main() -> None:
    handed = [int(number) for number in sys.argv[1].split(",")]
    aside = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, FIRST + len(handed)) for descriptor in handed]
    for descriptor in handed:
        os.close(descriptor)
    for place, descriptor in enumerate(aside):
        os.dup2(descriptor, FIRST + place, inheritable=True)
        os.close(descriptor)
    names = ":".join(f"web{place}" for place in range(len(handed)))
    given = {"LISTEN_FDS": str(len(handed)), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": names}
    os.execvpe(sys.argv[2], sys.argv[2:], os.environ | given)  # noqa: S606 # what it is for


if __name__ == "__main__":
    main()
