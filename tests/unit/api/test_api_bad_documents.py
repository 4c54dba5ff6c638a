# ruff: noqa: E501 - one case a line reads better than one case in five lines
"""What is wrong in a file is said in sentences that name the place in the file's own spelling; never a traceback."""

from collections.abc import Callable

import pytest
from autoresearch_operator.api.load import MAX_PROBLEMS, InvalidResource, load_run

HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"
NAME = 'a name of at most 40 characters: a-z, 0-9 and "-", with a letter or digit first and last'
TIER_NAME = 'a name of at most 20 characters: a-z, 0-9 and "-", with a letter or digit first and last'
GPUS = "a whole number of GPUs (0 = CPU)"
BYTES = "a quantity of bytes such as 64Gi"
DURATION = "a duration such as 8h or 1h30m"

Problems = Callable[[str], list[str]]


BAD_SPECS = [
    # Numbers are numbers.
    ("tiers: [{name: a, gpus: one}]", f'spec.tiers[0].gpus: got "one", want {GPUS}'),
    ("tiers: [{name: a, gpus: true}]", f"spec.tiers[0].gpus: got true, want {GPUS}"),
    ("tiers: [{name: a, gpus: '2'}]", f'spec.tiers[0].gpus: got "2", want {GPUS}; write 2 without quotes'),
    ("tiers: [{name: a, gpus: 2.0}]", f"spec.tiers[0].gpus: got 2.0, want {GPUS}; write 2"),
    ("tiers: [{name: a, gpus: 2.5}]", f"spec.tiers[0].gpus: got 2.5, want {GPUS}"),
    ("tiers: [{name: a, gpus: -1}]", f"spec.tiers[0].gpus: got -1, want {GPUS}"),
    ("tiers: [{name: a, gpus: 0x10}]", f'spec.tiers[0].gpus: got "0x10", want {GPUS}'),
    ("tiers: [{name: a, gpus: 1:30}]", f'spec.tiers[0].gpus: got "1:30", want {GPUS}'),
    ("tiers: [{name: a, gpus: [1]}]", f"spec.tiers[0].gpus: got a list, want {GPUS}"),
    (
        "limits: {experiments: 1_000}",
        'spec.limits.experiments: got "1_000", want a whole number of candidates from 1 to 100000; write 1000',
    ),
    (
        "limits: {experiments: 99999999999999999999999999999999}",
        "spec.limits.experiments: got 99999999999999999999999999999999, "
        "want a whole number of candidates from 1 to 100000",
    ),
    (
        "limits: {experiments: many}",
        'spec.limits.experiments: got "many", want a whole number of candidates from 1 to 100000',
    ),
    ("limits: {gpuHours: 8h}", 'spec.limits.gpuHours: got "8h", want a number of GPU-hours above 0; write the number alone: 8'),
    ("limits: {dollars: $50}", 'spec.limits.dollars: got "$50", want a number of dollars above 0'),
    ("limits: {gpuHours: 0}", "spec.limits.gpuHours: got 0, want a number of GPU-hours above 0"),
    ("limits: {gpuHours: .inf}", 'spec.limits.gpuHours: got ".inf", want a number of GPU-hours above 0'),
    ("limits: {gpuHours: 1e999}", "spec.limits.gpuHours: got 1e999, want a number of GPU-hours above 0"),
    ("limits: {gpuHours: }", "spec.limits.gpuHours: has no value: want a number of GPU-hours above 0, or leave the line out"),
    (
        "acceptance: {significance: 1 %}",
        'spec.acceptance.significance: got "1 %", want a share above 0 and at most 0.2, such as 0.01; write 0.01',
    ),
    ("acceptance: {significance: 5}", "spec.acceptance.significance: got 5, want a share above 0 and at most 0.2, such as 0.01"),
    ("acceptance: {minImprovement: .nan}", 'spec.acceptance.minImprovement: got ".nan", want a number of bits per byte, 0 or more'),
    (
        "acceptance: {looks: [2, 2]}",
        "spec.acceptance.looks: [2, 2] does not grow: each look needs more runs than the one before",
    ),
    ("acceptance: {looks: 2}", "spec.acceptance.looks: got 2, want a list of 1 to 4 whole numbers that grow, such as [2, 4, 8]"),
    (
        "acceptance: {looks: []}",
        "spec.acceptance.looks: got 0 entries, want a list of 1 to 4 whole numbers that grow, such as [2, 4, 8]",
    ),
    ("acceptance: {looks: [1, 99]}", "spec.acceptance.looks[1]: got 99, want a whole number of runs from 1 to 32"),
    ("suspend: 'yes'", 'spec.suspend: got "yes", want true or false; write true without quotes'),
    ("suspend: 1", "spec.suspend: got 1, want true or false; write true without quotes"),
    # Units.
    ("limits: {duration: 5 min}", f'spec.limits.duration: got "5 min", want {DURATION}; write 5m'),
    ("limits: {duration: 8 hours}", f'spec.limits.duration: got "8 hours", want {DURATION}; write 8h'),
    ("limits: {duration: 1d}", f'spec.limits.duration: got "1d", want {DURATION}; days are not a unit: write 24h'),
    ("limits: {duration: 90}", f"spec.limits.duration: got 90, want {DURATION}; write 90s"),
    ("limits: {duration: 1:30}", f'spec.limits.duration: got "1:30", want {DURATION}; units are h, m, s and ms'),
    ("limits: {duration: -1h}", f'spec.limits.duration: got "-1h", want {DURATION}; a duration is not negative'),
    ("limits: {duration: 0s}", 'spec.limits.duration: got "0s", want a duration between 1s and 8760h'),
    ("trainer: {startup: 0s}", 'spec.trainer.startup: got "0s", want a duration such as 3m or 1h30m; between 1s and 6h'),
    ("trainer: {resources: {memory: 64GB}}", f'spec.trainer.resources.memory: got "64GB", want {BYTES}; use 64Gi or 64G'),
    ("trainer: {resources: {memory: 64 Gi}}", f'spec.trainer.resources.memory: got "64 Gi", want {BYTES}; use 64Gi or 64G'),
    ("trainer: {resources: {memory: 512mb}}", f'spec.trainer.resources.memory: got "512mb", want {BYTES}; use 512Mi or 512M'),
    ("trainer: {resources: {memory: 64}}", f"spec.trainer.resources.memory: got 64, want {BYTES}; 64 is 64 bytes: write 64Gi"),
    ("trainer: {resources: {memory: lots}}", f'spec.trainer.resources.memory: got "lots", want {BYTES}; units are those of Kubernetes'),
    (
        "trainer: {resources: {cpu: 8 cores}}",
        'spec.trainer.resources.cpu: got "8 cores", want a number of CPU cores such as 8 or 500m; write 8',
    ),
    ("tiers: [{name: a, maxVRAM: 80 %}]", f'spec.tiers[0].maxVRAM: got "80 %", want {BYTES}; a share is not taken'),
    (
        "tiers: [{name: a, budget: {seconds: 5m}}]",
        'spec.tiers[0].budget.seconds: got "5m", want a number of seconds above 0; write 300',
    ),
    ("tiers: [{name: a, budget: 300}]", "spec.tiers[0].budget: got 300, want a map such as {seconds: 300}"),
    ("tiers: [{name: a, budget: {steps: 0}}]", "spec.tiers[0].budget.steps: got 0, want a whole number of batches, 1 or more"),
    # Unknown fields.
    ("limit: {}", "spec.limit: is an unknown field: did you mean limits?"),
    ("tiers: [{name: a, max_parallel: 3}]", "spec.tiers[0].max_parallel: is an unknown field: did you mean maxParallel?"),
    ("tiers: [{name: a, maxVram: 8Gi}]", "spec.tiers[0].maxVram: is an unknown field: did you mean maxVRAM?"),
    ("gpus: 2", "spec.gpus: is an unknown field here: did you mean spec.tiers[].gpus?"),
    (
        "acceptance: {alpha: 2}",
        "spec.acceptance.alpha: is an unknown field: the fields here are minImprovement, significance, looks",
    ),
    (
        "trainer: {env: [{name: KEY, valueFrom: {secretKeyRef: {}}}]}",
        "spec.trainer.env[0].valueFrom: is not taken: plain values only, so that no Secret can get into a trial",
    ),
    # Shapes.
    (
        "proposers: {search: {}}",
        'spec.proposers: got a map, want a list of 1 to 8 proposers such as [{search: {}}]; start each entry with a dash ("- ")',
    ),
    ("proposers: []", "spec.proposers: got 0 entries, want a list of 1 to 8 proposers such as [{search: {}}]"),
    ("tiers: []", "spec.tiers: got 0 entries, want a list of 1 to 8 tiers such as [{name: gpu, gpus: 1}]"),
    (
        "limits: [{experiments: 3}]",
        "spec.limits: got a list, want a map with experiments, duration, gpuHours, dollars, consecutiveFailures, "
        'targetBPB; take the dash ("- ") away',
    ),
    (
        "limits: 3",
        "spec.limits: got 3, want a map with experiments, duration, gpuHours, dollars, consecutiveFailures, targetBPB",
    ),
    ("source: {editablePaths: train.py}", 'spec.source.editablePaths: got "train.py", want a list of 1 to 64 paths such as [train.py]; write [train.py]'),
    ("trainer: {env: [{name: A, value: 8}]}", 'spec.trainer.env[0].value: got 8, want a string of at most 4096 characters; quote it: "8"'),
    ("trainer: {env: [{name: A, value: yes}]}", 'spec.trainer.env[0].value: got yes, want a string of at most 4096 characters; quote it: "yes"'),
    ("trainer: {env: [{name: 1A, value: x}]}", 'spec.trainer.env[0].name: got "1A", want a variable\'s name: letters, digits and _'),
    ("trainer: {evaluation: verified}", 'spec.trainer.evaluation: got "verified", want one of Verified, SelfReported; did you mean Verified?'),
    ("proposers: [{search: {sampler: bayes}}]", 'spec.proposers[0].search.sampler: got "bayes", want one of tpe, grid, random'),
    ("source: {template: tiny}", 'spec.source.template: got "tiny", want the name of a built-in template: tiny-gpt; did you mean tiny-gpt?'),
    ("tiers: [{gpus: 1}]", f"spec.tiers[0].name: is missing: want {TIER_NAME}"),
    ("tiers: [{name: A b}]", f'spec.tiers[0].name: got "A b", want {TIER_NAME}'),
    ("proposers: [{openai: {model: m}}]", "spec.proposers[0].openai.baseURL: is missing: want a URL that starts with http:// or https://"),
    ("queueName: a b", 'spec.queueName: got "a b", want a label value: letters, digits, "-", "_" and ".", at most 63 characters'),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "sentence"), BAD_SPECS, ids=[spec for spec, _ in BAD_SPECS])
def test_a_bad_field_gets_one_sentence_with_its_path(spec: str, sentence: str, problems: Problems) -> None:
    assert problems(f"{HEAD}spec:\n  {spec}\n") == [sentence]


DOCUMENTS = [
    ("", "is empty: `autoresearch init` writes a file to begin with"),
    ("  \n\n", "is empty: `autoresearch init` writes a file to begin with"),
    ("# nothing\n", "holds comments only: `autoresearch init` writes a file to begin with"),
    ("---\n---\n", "holds comments only: `autoresearch init` writes a file to begin with"),
    ("hello", 'got "hello", want a ResearchRun: a map with apiVersion, kind, metadata and spec'),
    ("- a\n", "got a list, want a ResearchRun: a map with apiVersion, kind, metadata and spec"),
    ("null", "got nothing, want a ResearchRun: a map with apiVersion, kind, metadata and spec"),
    (
        f"{HEAD}---\n{HEAD}",
        "holds 2 documents (the second begins at line 5), want one ResearchRun: put each in a file of its own",
    ),
    (HEAD.replace("ResearchRun", "Experiment"), 'kind: got "Experiment", want ResearchRun; Experiments are created by the operator'),
    (HEAD.replace("ResearchRun", "Job"), 'kind: got "Job", want ResearchRun'),
    (HEAD.replace("v1alpha1", "v1"), 'apiVersion: got "autoresearch.dev/v1", want autoresearch.dev/v1alpha1'),
    ("kind: ResearchRun\n", "apiVersion: is missing: write apiVersion: autoresearch.dev/v1alpha1"),
    (HEAD.replace("metadata: {name: first}", ""), "metadata: is missing"),
    (HEAD.replace("{name: first}", "{}"), f"metadata.name: is missing: want {NAME}"),
    (HEAD.replace("{name: first}", "{name: }"), f"metadata.name: has no value: want {NAME}, or leave the line out"),
    (HEAD + "spec: 3\n", "spec: got 3, want a map with source, proposers, trainer, tiers, acceptance, limits, …"),
    (HEAD + "Spec: {}\n", "Spec: is an unknown field: did you mean spec?"),
    (HEAD + "spec:\n\tlimits: {}\n", "line 5, column 1: a tab: YAML is indented with blanks only"),
    (HEAD + "spec: {a: b\n", "line 5, column 1: not valid YAML: expected ',' or '}', but got '<stream end>' (while parsing a flow mapping)"),
    (HEAD + "spec:\n  a: b\n c: d\n", "line 6, column 2: not valid YAML: expected <block end>, but found '<block mapping start>' (while parsing a block mapping)"),
    (HEAD + 'spec: "open\n', "line 5, column 1: not valid YAML: found unexpected end of stream (while scanning a quoted scalar)"),
    (HEAD + "spec: \x07\n", "line 4, column 7: the character U+0007 is not allowed in YAML"),
    (HEAD + "spec: @x\n", "line 4, column 7: not valid YAML: found character '@' that cannot start any token (while scanning for the next token)"),
    (HEAD + "spec: {}\nspec: {}\n", "spec: is set twice, at lines 4 and 5: keep one"),
    (HEAD + "spec:\n  tiers: [{name: a, gpus: 1, gpus: 2}]\n", "spec.tiers[0].gpus: is set twice, at lines 5 and 5: keep one"),
    (HEAD + "spec:\n  ? [a]\n  : b\n", "spec: has a map or a list as a key: keys are plain words"),
    (HEAD + "spec: &a {}\nstatus: *a\n", "line 5: the alias *a is not read: write the value out"),
    (HEAD + "spec: !!python/object/apply:os.system [id]\n", "line 4: the tag tag:yaml.org,2002:python/object/apply:os.system is not read: write a plain value"),
    (HEAD + "spec: !!binary aGk=\n", "line 4: the tag tag:yaml.org,2002:binary is not read: write a plain value"),
    (HEAD + "spec: " + "[" * 5000 + "\n", "line 4: maps and lists are nested more than 32 deep"),
    (HEAD + "spec: " + "{a: " * 5000 + "\n", "line 4: maps and lists are nested more than 32 deep"),
    ("x" * 300_001, "has 300,001 characters, want at most 300,000"),
    ("[" + "1," * 30_000 + "1]", "line 1: more than 5,000 values: this is not a ResearchRun"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), DOCUMENTS, ids=range(len(DOCUMENTS)))
def test_a_file_that_is_no_researchrun_gets_one_sentence(text: str, sentence: str, problems: Problems) -> None:
    assert problems(text) == [sentence]


def test_a_billion_laughs_are_refused_before_they_are_built(problems: Problems) -> None:
    lines = ["a0: &a0 [lol, lol]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    assert problems("\n".join(lines)) == ["line 2: the alias *a0 is not read: write the value out"]


def test_several_problems_come_at_once_in_the_order_of_the_file_with_their_lines() -> None:
    text = HEAD + "spec:\n  limit: 3\n  tiers:\n  - name: a\n    gpus: one\n    gpu: 1\n  suspend: maybe\n"
    with pytest.raises(InvalidResource) as caught:
        load_run(text, filename="run.yaml", local=False)
    assert str(caught.value).split("\n") == [
        "run.yaml:5: spec.limit: is an unknown field: did you mean limits?",
        f'run.yaml:8: spec.tiers[0].gpus: got "one", want {GPUS}',
        "run.yaml:9: spec.tiers[0].gpu: is an unknown field: did you mean gpus?",
        'run.yaml:10: spec.suspend: got "maybe", want true or false',
    ]
    first = caught.value.problems[0]
    assert (first.filename, first.path, first.line) == ("run.yaml", "spec.limit", 5)


def test_a_long_list_of_problems_is_cut(problems: Problems) -> None:
    text = HEAD + "spec:\n" + "".join(f"  unknown{n}: 1\n" for n in range(200))
    lines = problems(text)
    assert len(lines) == MAX_PROBLEMS + 1
    assert lines[-1] == f"and {200 - MAX_PROBLEMS} more problems"


def test_a_section_whose_lines_are_all_commented_out_is_a_section_left_out() -> None:
    run = load_run(HEAD + "spec:\n  limits:\n    # experiments: 3\n  tiers:\n  trainer:\n", filename="f", local=False)
    assert run.spec.limits.experiments == 100
    assert run.spec.tiers[0].name == "gpu"


def test_what_kubectl_prints_loads() -> None:
    text = HEAD.replace(
        "{name: first}",
        '{name: first, namespace: ml, uid: "1-2", resourceVersion: "7", generation: 2, '
        'creationTimestamp: "2026-01-01T00:00:00Z"}',
    )
    run = load_run(text + "spec: {}\nstatus: {phase: Searching, whatever: [1]}\n", filename="f", local=False)
    assert run.status is None
    assert run.branch == "autoresearch/ml-first"


def test_scalars_mean_what_they_mean_to_kubectl() -> None:
    text = HEAD + "spec: {acceptance: {significance: 1e-3}, suspend: on, tiers: [{name: '2026-01-01', product: 1.x}]}\n"
    spec = load_run(text, filename="f", local=False).spec
    assert (spec.acceptance.significance, spec.suspend, spec.tiers[0].name) == (0.001, True, "2026-01-01")
    assert load_run(HEAD.replace("first", "2026-01-01"), filename="f", local=False).metadata.name == "2026-01-01"


def test_json_is_yaml() -> None:
    text = '{"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": "a"}, "spec": {}}'
    assert load_run(text, filename="f", local=False).metadata.name == "a"
