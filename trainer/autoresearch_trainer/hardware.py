"""What a trial runs on, and how much of a GPU's memory is in use as the driver sees it.

NVML is asked by NVIDIA's own binding; where that or the driver's library is missing nothing is known, which is no
error. On a GPU that is cut up (MIG) only the parts that this container was given are visible, and they are what counts.
"""

import importlib.metadata
import platform
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_ASK_TORCH = "import torch; print(torch.cuda.get_device_name(0) if torch.cuda.is_available() else '')"


GPU_USED_BYTES = 1 << 30
"""More than this in use before the candidate starts means that somebody else is on the GPU: a driver's own share and
an idle context stay below it."""
GPU_SAMPLE_SECONDS = 0.25


class GPUs:
    """The GPUs of this container; empty where there is no driver."""

    def __init__(self, visible: str | None = None) -> None:
        """visible: only these, named as in CUDA_VISIBLE_DEVICES (numbers in the driver's order, or UUIDs)."""
        self._nvml = _nvml()
        self._handles: list[Any] = []
        if self._nvml is not None:
            self._handles = list(_handles(self._nvml) if visible is None else _named(self._nvml, visible))

    def __len__(self) -> int:
        return len(self._handles)

    def close(self) -> None:
        """Forgets the driver. A process that is forked afterwards can ask it anew; with what it inherited it could
        not."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._nvml, self._handles = None, []

    def used_bytes(self) -> list[int]:
        """Memory in use on each GPU, by whatever process; as nvidia-smi shows it."""
        used = []
        for handle in self._handles:
            with suppress(self._nvml.NVMLError):  # type: ignore[union-attr]  # there are handles, so there is NVML
                used.append(int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used))  # type: ignore[union-attr]  # as above
        return used

    def describe(self) -> dict[str, str]:
        """{"product", "driver"}, as far as the driver says."""
        found: dict[str, str] = {}
        if self._nvml is not None and self._handles:
            with suppress(self._nvml.NVMLError):
                found["product"] = _text(self._nvml.nvmlDeviceGetName(self._handles[0]))
                found["driver"] = _text(self._nvml.nvmlSystemGetDriverVersion())
        return found


def _nvml() -> ModuleType | None:
    try:
        import pynvml  # type: ignore[import-untyped,unused-ignore]  # the binding has no types
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    module: ModuleType = pynvml
    return module


def _handles(nvml: ModuleType) -> Any:
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            cut_up = nvml.nvmlDeviceGetMigMode(device)[0]
        except nvml.NVMLError:
            cut_up = 0
        if not cut_up:
            yield device
            continue
        for part in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
            with suppress(nvml.NVMLError):  # a place that holds no part, or another container's
                yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, part)


def _named(nvml: ModuleType, visible: str) -> Any:
    for name in filter(None, (part.strip() for part in visible.split(","))):
        with suppress(nvml.NVMLError):
            by_number = nvml.nvmlDeviceGetHandleByIndex
            yield by_number(int(name)) if name.isdigit() else nvml.nvmlDeviceGetHandleByUUID(name)


def used_by_others(gpus: GPUs) -> str | None:
    """A sentence when somebody else is on one of gpus; to be asked before the candidate starts."""
    for number, used in enumerate(gpus.used_bytes()):
        if used > GPU_USED_BYTES:
            return f"{used >> 20} MiB of GPU {number} were in use before the candidate started: somebody shares it."
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def versions() -> dict[str, str]:
    """{"torch", "python"}, without importing torch."""
    found = {"python": platform.python_version()}
    with suppress(importlib.metadata.PackageNotFoundError):
        found["torch"] = importlib.metadata.version("torch")
    return found


def describe(device: str, gpus: GPUs) -> dict[str, str]:
    """{"product", "driver", "torch", "python"} of a trial on device (cpu or cuda…); no driver on a CPU."""
    if not device.startswith("cuda"):
        return {"product": processor(), **versions()}
    found = gpus.describe()
    if "product" not in found:
        # In a process of its own: asking CUDA costs half a gigabyte that the caller would keep.
        asked = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, check=False)
        found["product"] = asked.stdout.strip() or "unknown"
    return {**found, **versions()}
