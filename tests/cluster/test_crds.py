"""The refusals of a ResearchRun, each tried against a real API server: on creation and on update, with its sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from apifixtures import installed, runs
from apiobjects import COMMIT, Object, Runs, condition, refused
from autoresearch_operator.api.load import InvalidResource, load_run
from clusterlab.api import ApiError
from clusterlab.cluster import Cluster

__all__ = ["installed", "runs"]

ROOT = Path(__file__).resolve().parents[2]
NEW_RUN = "apply a new ResearchRun with source.ref set to this run's branch"
WHY = "old and new ones would not compare"
DONE = {"phase": "Done", "verdict": "Rejected", "reason": "NotBetter", "valBPB": 0.9812, "delta": -0.002}

# --------------------------------------------------------------------------------------------------------------------
# What needs no older object: the API server says what the models say

MODEL = {"openai": {"baseURL": "http://vllm.ml.svc:8000/v1", "model": "m"}}
SOURCE = {"url": "https://git.example/a"}
DATA = {"claimName": "c"}
SAME_SENTENCE: list[tuple[str, Object]] = [
    *(
        ("2 url", {"source": {"url": url}})
        for url in (
            "https://me:pw@git.example/x",
            "ssh://me:pw@git.example/x",
            "me:pw@git.example:x",
            "https://token@git.example/x",
            "https://git.example/x?token=1",
            "http://git.example/x",
            "git://git.example/x",
            "file:///srv/x",
            "ext::sh -c id",
            "ext::sh",
            "--upload-pack=x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-l@host/y",
            "git.example/a/b",
            "https://git.example",
            "https://git.example/",
            "./here",
            "/srv/git/x",
        )
    ),
    ("4 branch is ref", {"source": {**SOURCE, "ref": "main", "branch": "main"}}),
    ("4 branch is ref", {"source": {**SOURCE, "ref": "refs/heads/main", "branch": "main"}}),
    ("4 full ref", {"source": {"branch": "refs/heads/x"}}),
    *(("4 ref", {"source": {"branch": branch}}) for branch in ("a..b", "-x", "x.lock", "a//b", "a~1", "@")),
    ("4 template", {"source": {**SOURCE, "template": "tiny-gpt"}}),
    ("4 template", {"source": {"ref": "main"}}),
    *(
        ("5 path", {"source": {"editablePaths": [path]}})
        for path in ("/etc/pass", "~/x", "C:x", "a/../b.py", "prepare.py", "./prepare.py", ".git/config", "a//b", "./a")
    ),
    ("5 path", {"source": {"editablePaths": ["a.py", "a.py"]}}),
    ("5 path", {"source": {"program": "../p.md"}}),
    ("6 proposer", {"proposers": [{"weight": 2}]}),
    ("6 proposer", {"proposers": [{"search": {}, **MODEL}]}),
    *(
        ("6 model", {"proposers": [{"openai": {"baseURL": url, "model": "m"}}]})
        for url in ("https://k:s@a/v1", "ftp://a/v1", "http://a/v1?key=1")
    ),
    ("8 data", {"trainer": {"data": {**DATA, "trainPath": "d", "valPath": "d"}}}),
    ("8 data", {"trainer": {"data": {**DATA, "trainPath": "d", "valPath": "d/val"}}}),
    ("8 data", {"trainer": {"data": {**DATA, "trainPath": "d/x/train", "valPath": "d"}}}),
    ("8 data", {"trainer": {"data": {**DATA, "trainPath": "/d"}}}),
    ("9 image", {"trainer": {"image": "mine:1"}}),
    *(
        ("9 env", {"trainer": {"env": [{"name": name, "value": "1"}]}})
        for name in ("AUTORESEARCH_GATE_FD", "LD_PRELOAD", "PYTHONPATH")
    ),
    ("9 env", {"trainer": {"env": [{"name": f"V{i:02}", "value": "ä" * 2047} for i in range(17)]}}),
    ("9 env", {"trainer": {"env": [{"name": "A", "value": "x\0y"}]}}),
    ("9 command", {"trainer": {"command": ["python", "a\0.py"]}}),
    ("10 budget", {"tiers": [{"name": "a", "budget": {}}]}),
    ("10 budget", {"tiers": [{"name": "a", "budget": {"seconds": 3, "steps": 3}}]}),
    ("10 resource", {"tiers": [{"name": "a", "resourceName": "nvidia.com/gpu.shared"}]}),
    ("12 prices", {"limits": {"dollars": 5}}),
    (
        "12 prices",
        {
            "limits": {"dollars": 5},
            "tiers": [{"name": "c", "gpus": 0}, {"name": "a", "pricePerGPUHour": 0}, {"name": "b"}],
            "proposers": [MODEL],
        },
    ),
]  # fmt: skip


def sentences_of_the_models(spec: Object) -> list[str]:
    document = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": "r"}}
    with pytest.raises(InvalidResource) as caught:
        load_run(yaml.safe_dump(document | {"spec": spec}), filename="f", local=False)
    return [f"{problem.path}: Forbidden: {problem.sentence}" for problem in caught.value.problems]


@pytest.mark.parametrize(("rule", "spec"), SAME_SENTENCE, ids=[f"{rule}-{spec}"[:70] for rule, spec in SAME_SENTENCE])
def test_the_api_server_refuses_with_the_sentence_of_the_models(rule: str, spec: Object, runs: Runs) -> None:
    with pytest.raises(ApiError) as error:
        runs.create(spec)
    for sentence in sentences_of_the_models(spec):
        assert sentence in refused(error)


def test_a_password_in_a_url_is_not_said_again(runs: Runs) -> None:
    for url in (
        "https://me:hunter2@x/y",
        "ssh://me:hunter2@x/y",
        "me:hunter2@x:y",
        "http://me:hunter2@x/y",
        "h:hunter2",
    ):
        with pytest.raises(ApiError) as error:
            runs.create({"source": {"url": url}})
        assert "hunter2" not in refused(error)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"trainer": {"startup": "5 min"}}, 'got "5 min", want a duration such as 3m or 1h30m; between 1s and 6h'),
        ({"trainer": {"startup": "7h"}}, 'got "7h", want a duration such as 3m or 1h30m; between 1s and 6h'),
        ({"limits": {"duration": "500ms"}}, 'got "500ms", want a duration such as 8h or 1h30m; between 1s and 8760h'),
        ({"trainer": {"resources": {"memory": "64GB"}}}, "got 64GB, want a quantity of bytes such as 64Gi"),
        ({"trainer": {"resources": {"memory": 64}}}, "got 64, want a quantity of bytes such as 64Gi; at least 1M"),
        ({"trainer": {"resources": {"cpu": 2000}}}, "want a number of CPU cores such as 8 or 500m; between 10m"),
        ({"tiers": [{"name": "a", "maxVRAM": "5"}]}, "spec.tiers[0].maxVRAM: Forbidden: got 5, want a quantity"),
        ({"acceptance": {"looks": [4, 2]}}, "does not grow: each look needs more runs than the one before"),
        ({"tiers": [{"name": "a"}, {"name": "a"}]}, 'spec.tiers[1]: Duplicate value: {"name":"a"}'),
        ({"trainer": {"env": [{"name": "A"}, {"name": "A"}]}}, 'spec.trainer.env[1]: Duplicate value: {"name":"A"}'),
        ({"tiers": [{"name": "a", "gpus": 17}]}, "spec.tiers[0].gpus in body should be less than or equal to 16"),
    ],
)  # fmt: skip
def test_amounts_out_of_bounds_are_refused(spec: Object, sentence: str, runs: Runs) -> None:
    with pytest.raises(ApiError) as error:
        runs.create(spec)
    assert sentence in refused(error)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a" * 41, f'metadata.name: Forbidden: "{"a" * 41}" is too long: want at most 40 characters, because'),
        ("a.b", 'metadata.name: Forbidden: "a.b" has a dot in it; write a-b'),
    ],
)  # fmt: skip
def test_1_names_from_which_job_names_cannot_be_made_are_refused(name: str, sentence: str, runs: Runs) -> None:
    with pytest.raises(ApiError) as error:
        runs.create(name=name)
    assert sentence in refused(error)


def test_1_a_name_of_40_characters_is_taken(runs: Runs) -> None:
    assert runs.create(name="a" * 40)


# --------------------------------------------------------------------------------------------------------------------
# What may not change

FULL_SOURCE = {"url": "https://git.example/a", "ref": "main", "branch": "autoresearch/x", "editablePaths": ["train.py"]}


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        (FULL_SOURCE, {"url": "https://git.example/b"}, "url"),
        ({}, {"url": "https://git.example/b"}, "url"),
        (FULL_SOURCE, {"ref": "dev"}, "ref"),
        (FULL_SOURCE, {"branch": "autoresearch/y"}, "branch"),
        (FULL_SOURCE, {"branch": None}, "branch"),
        ({}, {"branch": "mine"}, "branch"),
        (FULL_SOURCE, {"editablePaths": ["train.py", "model.py"]}, "editablePaths"),
        ({}, {"template": "tiny-gpt"}, "template"),
    ],
)
def test_3_the_source_stays(before: Object, after: Object, path: str, runs: Runs) -> None:
    name = runs.create({"source": before})
    with pytest.raises(ApiError) as error:
        runs.patch(name, {"source": after})
    assert f"spec.source.{path}: Forbidden: cannot change: {NEW_RUN}" in refused(error)


def test_3_taking_the_source_away_is_a_change_too(runs: Runs) -> None:
    name = runs.create({"source": FULL_SOURCE})
    with pytest.raises(ApiError) as error:
        runs.patch(name, {"source": None})
    assert f"spec.source.url: Forbidden: cannot change: {NEW_RUN}" in refused(error)


def test_3_secret_and_program_may_change(runs: Runs) -> None:
    name = runs.create({"source": FULL_SOURCE})
    runs.patch(name, {"source": {"secretName": "new", "program": "other.md"}})
    assert runs.get(name)["spec"]["source"]["secretName"] == "new"


def test_7_the_trainer_stays_once_there_are_scores(runs: Runs) -> None:
    name = runs.create()
    runs.patch(name, {"trainer": {"startup": "4m"}})
    scored = runs.scored()
    for change in ({"startup": "4m"}, {"evaluation": "SelfReported"}, {"env": [{"name": "A", "value": "1"}]}):
        with pytest.raises(ApiError) as error:
            runs.patch(scored, {"trainer": change})
        assert f"spec.trainer: Forbidden: cannot change while the run has scores, because {WHY}: {NEW_RUN}" in refused(
            error
        )
    runs.patch(scored, {"limits": {"experiments": 900}})


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"gpus": 2}, "gpus"),
        ({"resourceName": "amd.com/gpu"}, "resourceName"),
        ({"product": "NVIDIA-H200"}, "product"),
        ({"budget": {"seconds": 60}}, "budget"),
        ({"budget": {"steps": 300}}, "budget"),
    ],
)
def test_10_what_makes_a_tier_comparable_stays(change: Object, path: str, runs: Runs) -> None:
    name = runs.create({"tiers": [{"name": "gpu"}]})
    with pytest.raises(ApiError) as error:
        runs.patch(name, {"tiers": [{"name": "gpu", **change}]})
    assert f"spec.tiers[0].{path}: Forbidden: cannot change: add a tier with a new name" in refused(error)


def test_10_writing_out_the_default_budget_is_no_change(runs: Runs) -> None:
    name = runs.create({"tiers": [{"name": "gpu"}, {"name": "cpu", "gpus": 0}]})
    written = [{"name": "gpu", "budget": {"seconds": 300}}, {"name": "cpu", "gpus": 0, "budget": {"cpuSeconds": 300}}]
    runs.patch(name, {"tiers": written})
    with pytest.raises(ApiError):
        runs.patch(name, {"tiers": [written[0], {"name": "cpu", "gpus": 0, "budget": {"seconds": 300}}]})


def test_10_the_rest_of_a_tier_may_change(runs: Runs) -> None:
    name = runs.scored()
    mutable = {"maxParallel": 4, "maxVRAM": "8Gi", "pricePerGPUHour": 2.5, "nodeSelector": {"a": "b"}}
    runs.patch(name, {"tiers": [{"name": "gpu", **mutable, "tolerations": [{"key": "k", "operator": "Exists"}]}]})


def test_11_a_tier_that_holds_scores_is_retired_not_removed(runs: Runs) -> None:
    tiers = [{"name": "a"}, {"name": "b"}, {"name": "c"}]
    name = runs.scored({"tiers": tiers}, "a", "b")
    with pytest.raises(ApiError) as error:
        runs.patch(name, {"tiers": [tiers[0], tiers[2]]})
    assert "spec.tiers: Forbidden: a tier that holds scores cannot be removed: set its maxParallel to 0" in refused(
        error
    )
    for order in ([tiers[1], tiers[0]], [{"name": "new"}, *tiers]):
        with pytest.raises(ApiError) as error:
            runs.patch(name, {"tiers": order})
        assert "spec.tiers: Forbidden: a tier that holds scores keeps its place" in refused(error)
    runs.patch(name, {"tiers": [tiers[0], {"name": "b", "maxParallel": 0}, {"name": "new"}]})


def test_11_before_there_are_scores_tiers_may_go(runs: Runs) -> None:
    name = runs.create({"tiers": [{"name": "a"}, {"name": "b"}]})
    runs.patch(name, {"tiers": [{"name": "b"}]})


def test_12_a_price_cannot_be_taken_away_under_a_limit_of_dollars(runs: Runs) -> None:
    name = runs.create({"limits": {"dollars": 5}, "tiers": [{"name": "a", "pricePerGPUHour": 1}]})
    with pytest.raises(ApiError) as error:
        runs.patch(name, {"tiers": [{"name": "a"}]})
    assert (
        "spec.limits.dollars: Forbidden: needs every price: set spec.tiers[0].pricePerGPUHour (0 for GPUs you own)"
        in refused(error)
    )


def test_13_the_queue_changes_while_suspended_only(runs: Runs) -> None:
    name = runs.create({"queueName": "a"})
    for queue in ("b", None):
        with pytest.raises(ApiError) as error:
            runs.patch(name, {"queueName": queue})
        assert "spec.queueName: Forbidden: cannot change while the run goes on: set suspend: true" in refused(error)
    with pytest.raises(ApiError):
        runs.patch(name, {"queueName": "b", "suspend": True})
    runs.patch(name, {"suspend": True})
    runs.patch(name, {"queueName": "b"})
    runs.patch(name, {"suspend": False})


def test_updates_are_refused_as_creations_are(runs: Runs) -> None:
    name = runs.create()
    for spec in (
        {"proposers": [{"weight": 1}]},
        {"trainer": {"image": "mine:1"}},
        {"trainer": {"data": {**DATA, "trainPath": "d", "valPath": "d/val"}}},
        {"limits": {"dollars": 5}},
        {"acceptance": {"looks": [8, 2]}},
    ):
        with pytest.raises(ApiError) as error:
            runs.patch(name, spec)
        sentences = [s for s in sentences_of_the_models(spec) if "looks" not in s]
        assert all(sentence in refused(error) for sentence in sentences)


# --------------------------------------------------------------------------------------------------------------------
# What people see


def test_three_lines_are_a_run(runs: Runs) -> None:
    spec = runs.get(runs.create())["spec"]
    assert spec["tiers"] == [{"name": "gpu", "gpus": 1, "resourceName": "nvidia.com/gpu", "budget": {"seconds": 300}}]
    assert spec["proposers"] == [{"weight": 1, "search": {"sampler": "tpe"}}]
    assert spec["limits"]["experiments"] == 100


def examples() -> Iterator[Any]:
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document.get("kind") == "ResearchRun":
                yield pytest.param(document, id=f"{path.name}-{document['metadata']['name']}")


@pytest.mark.parametrize("document", list(examples()))
def test_the_api_server_takes_every_example_and_the_models_take_it_back(document: Object, runs: Runs) -> None:
    name = runs.create(document["spec"])
    load_run(yaml.safe_dump(runs.get(name)), filename="from the server", local=False)


def test_explain_tells_what_a_budget_is(installed: Cluster) -> None:
    text = " ".join(installed.kubectl("explain", "rr.spec.tiers.budget").split())
    assert "How much training one trial gets. Default {seconds: 300}, with gpus: 0 {cpuSeconds: 300}." in text
    assert re.search(r"seconds <number> Wall-clock seconds; the default of tiers with GPUs", text)


def test_get_reads_like_a_results_table(installed: Cluster, runs: Runs) -> None:
    name = runs.scored()
    status = {
        "phase": "Running",
        "reason": "Searching",
        "branch": "autoresearch/x",
        "counts": {"done": 7, "accepted": 2, "running": 1},
        "best": {"tier": "gpu", "commit": COMMIT, "valBPB": 1.184203, "experiment": 5},
        "gain": 0.0301,
        "spend": {"gpuHours": 1.25},
    }
    runs.patch_status(name, status)
    header, row = installed.kubectl("get", "rr", name, "-n", runs.namespace, "-o", "wide").splitlines()
    assert " ".join(header.split()) == "NAME PHASE BEST GAIN DONE ACCEPTED RUNNING GPU-H AGE BRANCH REASON"
    assert row.split()[:8] == [name, "Running", "1.184203", "0.0301", "7", "2", "1", "1.25"]
    assert row.split()[9:] == ["autoresearch/x", "Searching"]
    experiment = runs.experiment(DONE)
    header, row = installed.kubectl("get", "exp", experiment, "-n", runs.namespace).splitlines()
    assert " ".join(header.split()) == "NAME RUN NO PHASE VERDICT REASON BPB DELTA AGE"
    assert row.split()[1:8] == ["r", "17", "Done", "Rejected", "NotBetter", "0.9812", "-0.002"]
    assert {"researchrun", "experiment"} <= {
        line.split(".")[0]
        for line in installed.kubectl("get", "autoresearch", "-n", runs.namespace, "-o", "name").split()
    }


def test_waiting_for_a_condition_works(installed: Cluster, runs: Runs) -> None:
    name = runs.create()
    runs.patch_status(name, {"observedGeneration": 1, "conditions": [condition("Complete")]})
    installed.kubectl("wait", "--for=condition=Complete", f"rr/{name}", "-n", runs.namespace, "--timeout=10s")
