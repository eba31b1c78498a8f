"""The command line in forks of a process that has everything imported already.

For tests that start it dozens of times: an ordinary start goes by with importing torch. Reads a
JSON list of arguments per line, prints the process id of the fork, and its exit code when it ended.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

LOG = Path("forked.log")


def main() -> None:
    import torch

    import nasdeploy.pipeline.flow  # noqa: F401, what a run imports
    from nasdeploy.pipeline.cli import main as cli

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv = ["nasdeploy", *json.loads(line)]
            cli()
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
