# ruff: noqa: E501 - one case a line reads better than one case in five lines
"""The refusals of the API's page that need no older version of the object, each with its sentence."""

from collections.abc import Callable

import pytest
from autoresearch_operator.api.load import load_run

HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"
FORMS = "https://, ssh:// or git@host:path"
NAME = 'a name of at most 40 characters: a-z, 0-9 and "-", with a letter or digit first and last'

Problems = Callable[[str], list[str]]

PATH_HINT = "give the path from the top of the repository or claim"
APART = "the gate would serve what the judge scores; keep the two folders apart"
REFUSALS = [
    ("source: {url: 'https://me:pw@git.example/x'}", "spec.source.url: the URL holds a password: put credentials in secretName"),
    ("source: {url: 'ssh://me:pw@git.example/x'}", "spec.source.url: the URL holds a password: put credentials in secretName"),
    ("source: {url: 'me:pw@git.example:x'}", "spec.source.url: the URL holds a password: put credentials in secretName"),
    ("source: {url: 'https://token@git.example/x'}", "spec.source.url: the URL holds a user name or a token: put credentials in secretName"),
    ("source: {url: 'https://git.example/x?token=1'}", "spec.source.url: the URL goes on after the repository's path (\"?\" or \"#\"): put credentials in secretName"),
    ("source: {url: 'http://git.example/x'}", f"spec.source.url: got the scheme http://, want {FORMS}; put credentials in secretName"),
    ("source: {url: 'git://git.example/x'}", f"spec.source.url: got the scheme git://, want {FORMS}; put credentials in secretName"),
    ("source: {url: 'file:///srv/x'}", f"spec.source.url: got the scheme file://, want {FORMS}; put credentials in secretName"),
    ("source: {url: 'ext::sh -c id'}", f"spec.source.url: the URL has a blank in it: want {FORMS}"),
    ("source: {url: 'ext::sh'}", f"spec.source.url: the URL has a form that is not taken: want {FORMS}; put credentials in secretName"),
    ("source: {url: '--upload-pack=x'}", f"spec.source.url: the URL starts with a dash or holds a control character: want {FORMS}"),
    ("source: {url: 'ssh://-oProxyCommand=x/y'}", "spec.source.url: the URL names no host that can be used"),
    ("source: {url: 'ssh://-l@host/y'}", "spec.source.url: the URL names no host that can be used"),
    ("source: {url: 'git.example/a/b'}", 'spec.source.url: "git.example/a/b" has no scheme: write https://git.example/a/b'),
    ("source: {url: 'https://git.example'}", "spec.source.url: the URL names no repository after the host"),
    ("source: {url: 'https://git.example:x/a'}", "spec.source.url: the URL cannot be read: Port could not be cast to integer value as 'x'"),
    ("source: {url: ./here}", f'spec.source.url: "./here" is a local path, which only local mode can read: want {FORMS}'),
    ("source: {url: 'https://a.example/b', template: tiny-gpt}", "spec.source.template: is set beside url: keep one of them"),
    ("source: {ref: main}", "spec.source.ref: is set without url: a built-in template has one version; remove it, or set url"),
    (
        "source: {url: 'https://a.example/b', ref: main, branch: main}",
        "spec.source.branch: is the same as ref: accepted edits go to a branch of their own; choose another name",
    ),
    (
        "source: {url: 'https://a.example/b', ref: refs/heads/main, branch: main}",
        "spec.source.branch: is the same as ref: accepted edits go to a branch of their own; choose another name",
    ),
    (
        "source: {url: 'https://a.example/b', ref: autoresearch/default-first}",
        'spec.source.ref: is "autoresearch/default-first", this run\'s own branch: accepted edits go to a branch of '
        "their own; choose another metadata.name or set spec.source.branch",
    ),
    ("source: {branch: refs/heads/x}", 'spec.source.branch: "refs/heads/x" is a full ref: write the branch\'s name alone'),
    ("source: {branch: a..b}", 'spec.source.branch: "a..b" is not a name that git takes ("..")'),
    ("source: {branch: -x}", 'spec.source.branch: "-x" is not a name that git takes ("-")'),
    ("source: {branch: x.lock}", 'spec.source.branch: "x.lock" is not a name that git takes (".lock")'),
    ("source: {editablePaths: [/etc/passwd]}", f'spec.source.editablePaths[0]: "/etc/passwd" is absolute: {PATH_HINT}'),
    ("source: {editablePaths: [a/../b.py]}", 'spec.source.editablePaths[0]: "a/../b.py" has "..": give a path that stays inside'),
    ("source: {editablePaths: [prepare.py]}", "spec.source.editablePaths[0]: prepare.py belongs to the judge and cannot be edited: take it off the list"),
    ("source: {editablePaths: [./prepare.py]}", "spec.source.editablePaths[0]: prepare.py belongs to the judge and cannot be edited: take it off the list"),
    ("source: {editablePaths: [.git/config]}", 'spec.source.editablePaths[0]: ".git/config" is git\'s own: take it off the list'),
    ("source: {editablePaths: [a//b.py]}", 'spec.source.editablePaths[0]: "a//b.py" is not the shortest spelling: write it without ".", "\\", "//" or a last "/"'),
    ("source: {editablePaths: [a.py, a.py]}", "spec.source.editablePaths: names a file twice: keep each once"),
    ("source: {program: ../p.md}", 'spec.source.program: "../p.md" has "..": give a path that stays inside'),
    ("proposers: [{weight: 2}]", "spec.proposers[0]: want exactly one of search and openai, and neither is set; the built-in search is `search: {}`"),
    ("proposers: [{search: }]", "spec.proposers[0]: want exactly one of search and openai, and neither is set; the built-in search is `search: {}`"),
    (
        "proposers: [{search: {}, openai: {baseURL: 'http://a/v1', model: m}}]",
        "spec.proposers[0]: want exactly one of search and openai, and both are set; the built-in search is `search: {}`",
    ),
    ("proposers: [{openai: {baseURL: 'https://k:s@a/v1', model: m}}]", "spec.proposers[0].openai.baseURL: the URL holds a password: put credentials in secretName"),
    ("proposers: [{openai: {baseURL: 'ftp://a/v1', model: m}}]", 'spec.proposers[0].openai.baseURL: "ftp://a/v1" is not a URL that starts with http:// or https://'),
    (
        "proposers: [{openai: {baseURL: 'http://a/v1', model: m, parameters: {messages: []}}}]",
        "spec.proposers[0].openai.parameters: messages is set by the operator: take it out",
    ),
    ("trainer: {data: {claimName: c, trainPath: d, valPath: d}}", f"spec.trainer.data.valPath: is the same folder as trainPath: {APART}"),
    ("trainer: {data: {claimName: c, trainPath: d, valPath: d/val}}", f"spec.trainer.data.valPath: lies inside trainPath: {APART}"),
    ("trainer: {data: {claimName: c, trainPath: d/x/train, valPath: d}}", f"spec.trainer.data.trainPath: lies inside valPath: {APART}"),
    (
        "trainer: {image: mine:1}",
        "spec.trainer.data: is missing: only the chart's own image holds the demo corpus; set data, or evaluation: SelfReported",
    ),
    *(
        (f"trainer: {{env: [{{name: {name}, value: '1'}}]}}", f'spec.trainer.env[0].name: "{name}" is the trial\'s own: names that start with AUTORESEARCH_, LD_ or PYTHON cannot be set')
        for name in ("AUTORESEARCH_GATE_FD", "LD_PRELOAD", "PYTHONPATH")
    ),
    (
        "trainer: {env: [" + ", ".join(f"{{name: V{i}, value: {'x' * 4094}}}" for i in range(17)) + "]}",
        "spec.trainer.env: has more than 65536 bytes of names and values: put large values in a file of the source",
    ),
    ("trainer: {env: [{name: A, value: x}, {name: A, value: y}]}", 'spec.trainer.env[1].name: "A" is set twice: keep one'),
    ("tiers: [{name: a}, {name: a}]", 'spec.tiers[1].name: "a" is the name of another tier: choose a new one'),
    ("tiers: [{name: a, budget: {}}]", "spec.tiers[0].budget: want exactly one of seconds, cpuSeconds and steps, and none is set"),
    ("tiers: [{name: a, budget: {seconds: 3, steps: 3}}]", "spec.tiers[0].budget: want exactly one of seconds, cpuSeconds and steps, and 2 are set"),
    (
        "tiers: [{name: a, resourceName: nvidia.com/gpu.shared}]",
        'spec.tiers[0].resourceName: "nvidia.com/gpu.shared" is a shared GPU, and a neighbour would move the scores: want a whole GPU or MIG',
    ),
    ("limits: {dollars: 5}", "spec.limits.dollars: needs every price: set spec.tiers[0].pricePerGPUHour (0 for GPUs you own)"),
    (
        "{limits: {dollars: 5}, tiers: [{name: c, gpus: 0}, {name: a, pricePerGPUHour: 0}, {name: b}],"
        " proposers: [{openai: {baseURL: 'http://a/v1', model: m}}]}",
        "spec.limits.dollars: needs every price: set spec.tiers[2].pricePerGPUHour and "
        "spec.proposers[0].openai.pricePerMillionTokens (0 for GPUs you own)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "sentence"), REFUSALS, ids=[spec[:200] for spec, _ in REFUSALS])
def test_each_refusal_has_its_sentence(spec: str, sentence: str, problems: Problems) -> None:
    body = f" {spec}" if spec.startswith("{limits") else f"\n  {spec}"
    assert problems(f"{HEAD}spec:{body}\n") == [sentence]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("First Run", f'metadata.name: got "First Run", want {NAME}; write first-run'),
        ("a.b", f'metadata.name: got "a.b", want {NAME}; write a-b'),
        ("-a", f'metadata.name: got "-a", want {NAME}; write a'),
        ("'___'", f'metadata.name: got "___", want {NAME}; choose another name'),
        ("17", f'metadata.name: got 17, want {NAME}; quote it: "17"'),
        (
            "a" * 41,
            f'metadata.name: "{"a" * 41}" has 41 characters, want at most 40, because Job names derived from it must '
            "fit in 63",
        ),
        ("a" * 70, f"metadata.name: got 70 characters, want {NAME}"),
    ],
)
def test_a_name_from_which_job_names_cannot_be_made_is_refused(name: str, sentence: str, problems: Problems) -> None:
    assert problems(HEAD.replace("first", name)) == [sentence]


def test_a_name_of_40_characters_is_taken() -> None:
    assert load_run(HEAD.replace("first", "a" * 40), filename="f", local=False).metadata.name == "a" * 40


def test_a_password_is_never_shown(problems: Problems) -> None:
    for url in (
        "https://me:hunter2@x/y",
        "me:hunter2@x:y",
        "http://me:hunter2@x/y",
        "foo:hunter2",
        "ssh://a:hunter2@/",
    ):
        assert "hunter2" not in problems(f"{HEAD}spec: {{source: {{url: '{url}'}}}}")[0]
