"""`python tied.py COMMAND …` becomes COMMAND, which the kernel then ends with the process that started it."""

import os
import sys

from appliance.engine.orphan import end_with_parent

if __name__ == "__main__":
    end_with_parent()  # outlives exec
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 # the commands are this package's own
