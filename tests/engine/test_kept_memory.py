"""What a step frees is there for the next one, and nothing else grows with the steps."""

import platform
import subprocess
import sys

import pytest
import torch
from support.training import make_batch, make_stepper

from tbps_cli.types import Step

glibc = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="the C library is another one"
)


MEASURE = """
import resource, torch
from tbps_cli.engine.kept_memory import freed_memory_kept

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.empty(size << 20, dtype=torch.uint8).fill_(1) for size in range(8, 18)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(pages())
with freed_memory_kept(True):
    print([pages() for _ in range(5)][-1])
print(pages())
"""
"""Pages that the system had to clear for some blocks as a step has them, which are then freed."""


@glibc
def test_freed_memory_is_used_again_while_training_and_given_back_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=120)
    first, kept, after = map(int, done.stdout.split())  # in a process of its own: others have heaps of other shapes
    assert kept < first / 10
    assert after > first / 2


def test_steps_leave_nothing_behind_in_the_lists_of_devices_that_are_not_there(tmp_path) -> None:
    made = make_stepper(tmp_path)
    made([make_batch()], Step())
    queues = [torch.cuda._queued_calls, torch.xpu._queued_calls, torch.mtia._queued_calls]
    before = [len(queue) for queue in queues]
    made([make_batch()], Step())
    assert [len(queue) for queue in queues] == before
