"""`train.deterministic`: the same numbers from the same run, also on a GPU.

On a CPU training repeats itself to the last bit anyway. On CUDA sums that several threads add to come in any order, and
cuDNN takes the fastest kernel of the moment; with this key PyTorch takes forms that give the same bits each time, and
refuses operations that have none. cuBLAS needs a workspace of fixed size for it, told before its first product.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.backends import cudnn

from tbps_cli.errors import TbpsError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""cuBLAS reads it when it starts; `:4096:8` takes 32 MB of each GPU."""


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Only algorithms that repeat themselves within the block; afterwards everything is as it was.

    Raises TbpsError where an operation has no such form.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).split(" does not have ")[0]
        raise TbpsError(
            f"train.deterministic: PyTorch has no deterministic form of {operation} on this device.",
            "Leave it out: --set train.deterministic=false",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = kernels
