"""Two processes of one world on this machine."""

import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable

import torch

SECONDS = 300
"""after which two processes are taken to wait for each other for good"""


def run_in_two_ranks(work: Callable[..., None], *arguments: object) -> None:
    """`work(*arguments)` as ranks 0 and 1, of one thread each; both must end well.

    On Linux the processes are forks of this one, which has imported everything already: what two
    ranks learn in a test takes a fraction of the time of importing torch twice.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    problems = context.SimpleQueue()
    processes = [
        context.Process(target=_as_rank, args=(rank, port, problems, work, arguments))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(SECONDS)
        ends = [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert ends == [0, 0], "\n".join(
        [
            f"exit codes {ends} (None: still running)",
            *([] if problems.empty() else [problems.get()]),
        ]
    )


def _as_rank(rank: int, port: int, problems, work: Callable[..., None], arguments: tuple) -> None:
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # a fork has one thread of its parent's pool only: a second would be waited for in vain
    torch.set_num_threads(1)
    try:
        work(*arguments)
    except BaseException:
        problems.put(traceback.format_exc())
        raise
