"""``python -m ...workflow.kernel -f FILE``: a notebook's kernel as a copy of the warm process, which has imported everything.

Jupyter starts it, watches it and ends it as any kernel: what it sees is this small process, and the copy ends with it.
"""

import os
import signal
import sys

from jupyter_client.manager import AsyncKernelManager

from desam_lite.study.workflow.job import WARM, ask_warm


class WarmKernelManager(AsyncKernelManager):
    """Starts kernels through this module instead of as new processes."""

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Return the command that starts a kernel."""
        return [
            sys.executable,
            "-m",
            "desam_lite.study.workflow.kernel",
            "-f",
            self.connection_file,
            *(extra_arguments or []),
        ]


def main() -> int:
    """Ask for a kernel and wait until it has ended; return its exit status. Without a warm process, become one."""
    try:
        poll = ask_warm(os.environ[WARM], "kernel", sys.argv[1:])
    except OSError as error:
        print(f"the warm process does not answer ({error}): a new one is started", file=sys.stderr)
        os.execv(sys.executable, [sys.executable, "-m", "ipykernel_launcher", *sys.argv[1:]])
    while (status := poll(60.0)) is None:
        pass
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it, and with it the copy
    sys.exit(main())
