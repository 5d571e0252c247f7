"""Which machine a figure comes from, in general terms."""

from __future__ import annotations

import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Parts of device names -> dense bf16 operations a second, by the data sheets; the more special name first."""


def processor() -> str:
    """The processor's model, where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def processor_seconds() -> float:
    """Processor time that this process and its worker processes have used so far (Linux; else its own)."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def peak_flops() -> float | None:
    """What the GPU's makers say it computes in dense bf16, per second; None where we do not know."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((figure for part, figure in PEAKS.items() if part in name), None)


def product_rate() -> float:
    """What this process gets out of the CPU in float32, operations a second: the best of some large products."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        left @ right
        took.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(took)


def wait(device: torch.device) -> None:
    """Until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def most_bytes(device: torch.device, work: Callable[[], object], standing: Sequence[torch.Tensor]) -> int:
    """Most bytes of tensors while `work` runs: what stands before, and all that is allocated, as it happens."""
    before = sum(tensor.numel() * tensor.element_size() for tensor in standing)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        return before + int(torch.cuda.max_memory_allocated(device)) - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    most = held = 0
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most + before


def flops(work: Callable[[], object]) -> float:
    """What the work's products take, multiplications and additions counted apart."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def rate(value: float) -> str:
    """So many a second, with three digits where it is slow."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line(device: str = "cpu") -> str:
    """One line: device, processors, threads, load, versions."""
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    gpu = f"{torch.cuda.get_device_name()}, " if device.startswith("cuda") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    return f"{gpu}{processor()}, {cores} cores ({threads} threads), load {load}; torch {torch.__version__}"
