"""What a step frees is there for the next one, and nothing else grows with the steps."""

import platform
import resource
import sys

import pytest
import torch
from support.training import make_batch, make_stepper

from tbps_cli.engine.kept_memory import freed_memory_kept
from tbps_cli.types import Step

BYTES = 96 << 20
glibc = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="the C library is another one"
)


def pages_of_a_second_block(kept: bool) -> int:
    """Pages that the system had to clear for a block as large as one that was just freed."""
    with freed_memory_kept(kept):
        torch.empty(BYTES, dtype=torch.uint8).fill_(1)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(BYTES, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc
def test_freed_memory_is_used_again_while_training_and_given_back_afterwards() -> None:
    first = pages_of_a_second_block(False)
    assert pages_of_a_second_block(True) < first / 10
    assert pages_of_a_second_block(False) > first / 2


def test_steps_leave_nothing_behind_in_the_lists_of_devices_that_are_not_there(tmp_path) -> None:
    made = make_stepper(tmp_path)
    made([make_batch()], Step())
    queues = [torch.cuda._queued_calls, torch.xpu._queued_calls, torch.mtia._queued_calls]
    before = [len(queue) for queue in queues]
    made([make_batch()], Step())
    assert [len(queue) for queue in queues] == before
