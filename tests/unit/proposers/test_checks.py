"""Checks: an edit that touches the measurement is refused with a sentence before it costs a run."""

from __future__ import annotations

import pytest
from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.proposers.checks import Refusal, check

BASE = {
    "train.py": "import time\nimport torch\nfrom prepare import MAX_SEQ_LEN, Tokenizer, evaluate_bpb\n"
    "torch.manual_seed(42)\nDEPTH = 4  # search: int 1..8\n# require: DEPTH < 9\nstart = time.time()\n"
    "tokenizer = Tokenizer()\nvocab_size = tokenizer.size()\nmodel = DEPTH\nscore = evaluate_bpb(model)\n",
    "prepare.py": "MAX_SEQ_LEN = 128\n",
}


def refusals(text: str) -> list[Refusal]:
    return check(BASE, {**BASE, "train.py": text}, ["train.py"])


def test_what_the_base_does_already_is_allowed() -> None:
    assert refusals(BASE["train.py"].replace("DEPTH = 4", "DEPTH = 2") + "later = time.time()\n") == []


@pytest.mark.parametrize(
    ("added", "detail"),
    [
        ("torch.manual_seed(43)", "SeedChanged"),
        ("import torch as t\nt.cuda.manual_seed_all(1)", "SeedChanged"),
        ("from torch import manual_seed as m\nm(2)", "SeedChanged"),
        ("getattr(torch, 'manual_seed')(3)", "SeedChanged"),
        ("m = torch.manual_seed\nm(4)", "SeedChanged"),
        ("list(map(torch.manual_seed, [5]))", "SeedChanged"),
        ("import random\nrandom.seed(1)", "SeedChanged"),
        ("import numpy as np\nnp.random.seed(1)", "SeedChanged"),
        ("import numpy as np\nr = np.random.default_rng(1)", "SeedChanged"),
        ("g = torch.Generator()\ng.manual_seed(1)", "SeedChanged"),
        ("SEED = 7", "SeedChanged"),
        ("__import__('torch').manual_seed(1)", "SeedChanged"),
        ("class Tokenizer:\n    pass", "TokenizerChanged"),
        ("class Mine(Tokenizer):\n    pass", "TokenizerChanged"),
        ("Tokenizer.encode = None", "TokenizerChanged"),
        ("vocab_size = 10", "TokenizerChanged"),
        ("import tiktoken", "TokenizerChanged"),
        ("def evaluate_bpb(model):\n    return 0.0", "EvaluationChanged"),
        ("evaluate_bpb = lambda model: 0.0", "EvaluationChanged"),
        ("import prepare\nprepare.evaluate_bpb = None", "EvaluationChanged"),
        ("import prepare as p\nsetattr(p, 'MAX_SEQ_LEN', 1)", "EvaluationChanged"),
        ("import prepare\nvars(prepare)['x'] = 1", "EvaluationChanged"),
        ("import sys\nsys.modules['prepare'].x = 1", "EvaluationChanged"),
        ("import importlib\nimportlib.import_module('prepare').MAX_SEQ_LEN = 1", "EvaluationChanged"),
        ("MAX_SEQ_LEN = 64", "EvaluationChanged"),
        ("EVAL_BATCH = 1", "EvaluationChanged"),
        ("import autoresearch_trainer.client", "EvaluationChanged"),
        ("def (", "SyntaxError"),
        ("# only a comment", "NothingChanged"),
        ("X = 1  # search: lgo 1..2", "KnobComment"),
    ],
)
def test_an_edit_of_the_measurement_is_refused(added: str, detail: str) -> None:
    found = [refusal for refusal in refusals(f"{BASE['train.py']}{added}\n") if not refusal.warning]
    assert [refusal.detail for refusal in found] == [detail]
    wanted = VerdictReason.DUPLICATE if detail == "NothingChanged" else VerdictReason.CHECK_FAILED
    assert found[0].reason is wanted
    assert ": " in found[0].message


def test_taking_the_seed_out_is_refused_too() -> None:
    found = refusals(BASE["train.py"].replace("torch.manual_seed(42)\n", ""))
    assert [refusal.detail for refusal in found] == ["SeedChanged"]


def test_a_broken_condition_is_refused() -> None:
    found = refusals(BASE["train.py"].replace("DEPTH = 4", "DEPTH = 12"))
    assert [refusal.message for refusal in found] == [
        "train.py, line 6: DEPTH < 9 does not hold: choose values that meet it"
    ]


@pytest.mark.parametrize(
    "added", ["import requests", "from urllib import request", "open('/etc/passwd')", "time.perf_counter()"]
)
def test_network_paths_and_clocks_are_warnings_only(added: str) -> None:
    found = refusals(f"{BASE['train.py']}{added}\n")
    assert found
    assert all(refusal.warning for refusal in found)


@pytest.mark.parametrize(
    "path",
    ["prepare.py", "../x.py", "/x.py", "a//b.py", ".git/hooks/x", ".GIT/x", "Train.py", "C:x.py", "a\\..\\b", "x\n"],
)
def test_nothing_outside_the_editable_paths_is_written(path: str) -> None:
    found = check(BASE, {**BASE, path: "x = 1\n"}, ["train.py"])
    assert [refusal.detail for refusal in found] == ["PathNotAllowed"]


def test_a_case_twin_inside_an_editable_folder_is_refused() -> None:
    before = {"src/a.py": "x = 1\n"}
    assert check(before, {**before, "src/b.py": "y = 1\n"}, ["src"]) == []
    assert [found.detail for found in check(before, {**before, "src/A.py": ""}, ["src"])] == ["PathNotAllowed"]


def test_sources_that_no_cluster_could_carry_are_refused() -> None:
    found = refusals(BASE["train.py"] + "x = '" + "a" * 800_000 + "'\n")
    assert [refusal.detail for refusal in found] == ["SourceTooLarge"]
