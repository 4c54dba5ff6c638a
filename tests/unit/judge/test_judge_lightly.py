"""The judge's and the pod programs' processes load no more of torch than they use."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from autoresearch_trainer.judge import lightly
from judgemodels import GPT

JUDGE = """
import json, sys, time
from pathlib import Path
from autoresearch_trainer.judge import score_artifact
answer = score_artifact(Path(sys.argv[1]), Path(sys.argv[2]), "val", audit_pairs=16, eval_tokens=512, seed=1,
                        device="cpu")
print(json.dumps({"answer": answer, "compiler": "torch._dynamo" in sys.modules, "cpu": time.process_time()}))
"""


def judge_alone(folder: Path, data_dir: Path) -> dict[str, Any]:
    command = [sys.executable, "-P", "-c", JUDGE, str(folder), str(data_dir)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return told


def test_a_model_is_judged_without_torchs_compiler_and_gets_the_same_score(
    hand_over: Callable[[Any], Path], judged: Callable[..., dict[str, Any]], data_dir: Path
) -> None:
    folder = hand_over(GPT())
    told = judge_alone(folder, data_dir)
    assert told["compiler"] is False
    here = judged(folder, audit_pairs=16, eval_tokens=512)  # this process has traced a model: the compiler is loaded
    assert lightly.compiler_loaded()
    assert told["answer"]["valBPB"] == here["valBPB"] and told["answer"]["audit"] == here["audit"]


def test_a_refusal_is_given_with_the_real_compiler_only(
    hand_over: Callable[[Any], Path], judged: Callable[..., dict[str, Any]], data_dir: Path
) -> None:
    folder = hand_over(GPT())
    graph = json.loads((folder / "graph.json").read_text())
    graph["output"] = 0  # the tokens, which are no logits
    (folder / "graph.json").write_text(json.dumps(graph))
    told = judge_alone(folder, data_dir)
    assert told["answer"]["reason"] == "ArtifactRefused" and told["compiler"] is True
    assert told["answer"] == judged(folder)


@pytest.mark.parametrize("program", ["train", "gate"])
def test_the_programs_beside_the_candidate_do_not_load_torch(program: str) -> None:
    assert importlib.util.find_spec("torch")
    line = f"import sys; import autoresearch_trainer.pod.{program}; from autoresearch_trainer import preparation; "
    line += "assert preparation.reference_seconds(1) > 0; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-P", "-c", line], capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == "False"
