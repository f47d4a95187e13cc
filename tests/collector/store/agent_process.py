"""Forks an agent for each line of its input, which holds the arguments of `agent`."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from collector.catalogue import ENERGY, POWER, Scope
from collector.sample import Reading, Sample
from collector.store import Store
from collector.store.compaction import sweep
from collector.store.segments import Segment

DEVICES = 4


def agent(root: str, side: str, first: str, start: str, rate: str, grace_s: str, pause_s: str, run_s: str) -> None:
    """
    Seal numbered rows without end, merging and deleting as it goes; the side file gets the numbers after each rename.

    The clock runs *rate* times as fast as the wall's, so that hours of merging happen in seconds.
    """
    store = Store.create(root)
    begun = time.monotonic_ns()
    log = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def clock_ns() -> int:
        return int(start) + int((time.monotonic_ns() - begun) * float(rate))

    pending: list[int] = []

    def sealed(segment: Segment) -> None:
        os.write(log, b"".join(b"%d\n" % number for number in pending))
        pending.clear()

    writer = store.writer("agent", background=False, clock_ns=clock_ns, on_sealed=sealed)
    number = int(first)
    while time.monotonic_ns() - begun < float(run_s) * 1e9:
        at = clock_ns()
        for device in range(DEVICES):
            values = {ENERGY: float(number), POWER: 300.0}
            sample = Sample(scope=Scope.DEVICE, subject=f"GPU-{device}", host="h", time_ns=at + device, values=values)
            writer.take([Reading(source="test", samples=[sample])])
            pending.append(number)
            number += 1
        assert writer.seal(), writer.status
        writer.compact()
        assert not writer.status.errors, writer.status
        sweep(store.files, store.root, grace_s=float(grace_s))
        store.publish()
        time.sleep(float(pause_s))
    writer.close()


def main() -> None:
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                agent(*line.split())
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(pid, flush=True)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            sys.exit(1)


if __name__ == "__main__":
    main()
