"""A trial on a GPU is scored, measured and told apart when it fails, as on a processor."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import autoresearch_trainer
import pytest
import torch
from autoresearch_trainer import artifact, hardware
from autoresearch_trainer.judge import score_artifact
from autoresearch_trainer.judge.audit import TOLERANCE
from autoresearch_trainer.pod import train
from warmdriver import WarmProcess

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

TEMPLATE = (Path(autoresearch_trainer.__file__).parent / "templates" / "tiny-gpt" / "train.py").read_text()
LIMITS = {
    "memoryBytes": 16 << 30,
    "diskBytes": 4 << 30,
    "processes": 64,
    "stdoutBytes": 1 << 20,
    "artifactBytes": 1 << 30,
}
TRIAL: dict[str, Any] = {
    "budget": {"seconds": 10},
    "startupSeconds": 300,
    "device": "cuda:0",
    "cpus": None,
    "threads": 4,
    "limits": LIMITS,
    "auditPairs": 128,
    "evalTokens": 65_536,
}
SCORE_DIFFERENCE = {"bfloat16": 2e-3, "float32": 1e-5}
"""Between the GPU's and the processor's score of one model, as a share: bfloat16 has 8 bits, and the two add up in
different orders, so that single logits differ by up to 2^-8 of themselves (float32: 2^-23, some hundred times)."""
MODEL = """
import torch
from torch import nn
import torch.nn.functional as F
from autoresearch_trainer import client
gate = client.connect()
DTYPE = torch.{dtype}
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(gate.vocab_size, 256)
        self.qkv = nn.Linear(256, 768, bias=False)
        self.up, self.down = nn.Linear(256, 1024), nn.Linear(1024, 256)
        self.head = nn.Linear(256, gate.vocab_size, bias=False)
    def forward(self, tokens):
        x = self.table(tokens).to(DTYPE)
        parts = F.linear(x, self.qkv.weight.to(DTYPE)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (4, 64)).transpose(1, 2) for part in parts)
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        h = F.gelu(F.linear(x, self.up.weight.to(DTYPE), self.up.bias.to(DTYPE)))
        x = x + F.linear(h, self.down.weight.to(DTYPE), self.down.bias.to(DTYPE))
        return F.linear(F.rms_norm(x, (256,)), self.head.weight.to(DTYPE)).float()
model = Model().cuda()
gate.trace(model)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
for number, (x, y) in enumerate(gate.batches(16, 256)):
    loss = F.cross_entropy(model(x.cuda()).flatten(0, 1), y.cuda().flatten())
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    gate.log(number, loss.item())
gate.submit(model)
"""


@contextmanager
def peak_of_nvidia_smi() -> Iterator[list[int]]:
    """[most MiB in use on GPU 0 while this lasts], as nvidia-smi shows them ten times a second."""
    peak, over = [0], threading.Event()
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]

    def sample() -> None:
        while not over.wait(0.1):
            peak[0] = max(peak[0], int(subprocess.run(query, capture_output=True, text=True, check=True).stdout))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def test_the_template_is_scored_and_its_memory_is_the_drivers(warm: WarmProcess) -> None:
    spec = warm.spec(TEMPLATE, **TRIAL, name="template")
    with peak_of_nvidia_smi() as peak:
        warm.send({"command": "run", "trial": spec})
        result = warm.result(spec["name"], timeout=400)
    assert result["outcome"] == "Scored", (result, (Path(spec["workDir"]) / "output.log").read_text()[-2000:])
    print(
        f"\n{result['hardware']} {result['tokensPerSecond']:.0f} tokens/s, val_bpb {result['valBPB']:.4f}, peak ",
        end="",
    )
    print(f"{result['peakVRAMBytes'] >> 20} MiB (nvidia-smi, judge included: {peak[0]} MiB)")
    assert result["hardware"]["product"] and result["hardware"]["driver"]
    assert result["tokensPerSecond"] > 0 and 10 <= result["trainSeconds"] <= 11
    assert result["audit"]["mismatches"] == 0
    assert result["peakVRAMBytes"] > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_audit_finds_no_difference_and_the_memory_is_what_the_driver_shows(warm: WarmProcess, dtype: str) -> None:
    held = (
        "held = torch.empty(4 << 30, dtype=torch.uint8, device='cuda')\n"  # so that training, not judging, is the peak
    )
    with peak_of_nvidia_smi() as peak:
        result = warm.run(MODEL.format(dtype=dtype).replace("gate.trace", held + "gate.trace"), **TRIAL, name=dtype)
    assert result["outcome"] == "Scored", result
    audit, used = result["audit"], result["peakVRAMBytes"]
    print(f"\n{dtype}: largest difference in the audit {audit['maxDifference']:g}; peak {used >> 20} of {peak[0]} MiB")
    assert audit["pairs"] >= 128 and audit["mismatches"] == 0 and audit["maxDifference"] <= TOLERANCE["cuda"]
    assert abs(used / (peak[0] << 20) - 1) <= 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_gpu_and_the_processor_give_one_model_the_same_score(
    gpu: str, data_dir: Path, tmp_path: Path, dtype: str
) -> None:
    model = torch.nn.Sequential(
        torch.nn.Embedding(300, 256), torch.nn.Linear(256, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 300)
    )
    receiver = artifact.Receiver(tmp_path)
    artifact.trace(model.to(getattr(torch, dtype)), 16, 256, 300).write(receiver)
    receiver.close()
    cpu, cuda = (
        score_artifact(tmp_path, data_dir, "val", audit_pairs=64, eval_tokens=65_536, seed=1, device=device)
        for device in ("cpu", gpu)
    )
    difference = abs(cuda["valBPB"] / cpu["valBPB"] - 1)
    print(f"\n{dtype}: {cpu['valBPB']:.6f} on the processor, {cuda['valBPB']:.6f} on the GPU, {difference:.2e} apart")
    assert cuda["tokens"] == cpu["tokens"] and cuda["audit"]["mismatches"] == 0
    assert difference <= SCORE_DIFFERENCE[dtype]


def test_a_batch_that_does_not_fit_is_out_of_the_gpus_memory(warm: WarmProcess) -> None:
    result = warm.run("import torch\ntorch.empty(1 << 42, dtype=torch.uint8, device='cuda')\n", **TRIAL, name="oom")
    assert (result["outcome"], result["reason"]) == ("Invalid", "CUDAOutOfMemory"), result


def test_a_gpu_that_somebody_uses_is_no_fault_of_the_candidates(warm: WarmProcess) -> None:
    line = "import sys, torch; x = torch.ones(2 << 30, dtype=torch.uint8, device='cuda'); print(flush=True); "
    with subprocess.Popen(
        [sys.executable, "-c", line + "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout and other.stdout.readline()
        result = warm.run("pass\n", **TRIAL, name="shared")
        other.kill()
    assert (result["outcome"], result["detail"]) == ("Lost", "GPUShared"), result


def test_two_ranks_of_a_pod_are_not_started_on_one_gpu(gpu: str) -> None:
    gpus = hardware.GPUs()
    with pytest.raises(train._Refused, match="GPUs are visible"):
        train._check_gpus(gpus, len(gpus) + 1)
    gpus.close()
