"""What a person who writes next to nothing gets, and the names that the rest of the operator reads."""

import json

import pytest
from autoresearch_operator.api.base import Bytes, Cores, Duration, Quantity, camel_case
from autoresearch_operator.api.experiment import Experiment
from autoresearch_operator.api.fields import by_alias, documented, every_field
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.proposers import Feedback, Sampler
from autoresearch_operator.api.run import ResearchRun, ResearchRunSpec
from autoresearch_operator.api.tiers import Budget, Tier
from autoresearch_operator.api.trainer import Evaluation, TrainerSpec
from pydantic import TypeAdapter, ValidationError

HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"


def load(spec: str, *, local: bool = False) -> ResearchRun:
    return load_run(f"{HEAD}spec: {spec}\n", filename="f", local=local)


def test_an_empty_spec_is_the_builtin_template_and_search_on_one_gpu_for_five_minutes_and_100_experiments() -> None:
    run = load("{}")
    assert run.spec.source.template_name == "tiny-gpt"
    assert run.spec.source.editable_paths == ("train.py",)
    assert run.spec.source.program == "program.md"
    assert run.spec.source.ref == "HEAD"
    assert run.branch == "autoresearch/default-first"
    (proposer,) = run.spec.proposers
    assert (proposer.name, proposer.weight) == ("search", 1)
    assert proposer.search is not None and proposer.search.sampler is Sampler.TPE
    (tier,) = run.spec.tiers
    assert (tier.name, tier.gpus, tier.max_parallel) == ("gpu", 1, None)
    assert (tier.budget.kind, tier.budget.amount) == ("seconds", 300.0)
    assert tier.resource_name == "nvidia.com/gpu"
    assert run.spec.trainer.command == ("python", "train.py")
    assert run.spec.trainer.script == "train.py"
    assert run.spec.trainer.startup_seconds == 180.0
    assert run.spec.trainer.evaluation is Evaluation.VERIFIED
    acceptance = run.spec.acceptance
    assert (acceptance.looks, acceptance.significance, acceptance.min_improvement) == ((2, 4, 8), 0.01, 0.0)
    limits = run.spec.limits
    assert (limits.experiments, limits.consecutive_failures) == (100, 12)
    assert (limits.duration_seconds, limits.gpu_hours, limits.dollars, limits.target_bpb) == (None, None, None, None)
    assert run.spec.suspend is False
    assert run.spec == ResearchRunSpec()


def test_a_missing_spec_is_an_empty_one() -> None:
    assert load_run(HEAD, filename="f", local=False).spec == ResearchRunSpec()


def test_everything_that_the_api_page_shows_loads() -> None:
    run = load("""
  source: {url: "git@git.lab.example:ml/autoresearch.git", ref: main, branch: autoresearch/h100, secretName: lab-git,
           editablePaths: [train.py], program: program.md}
  proposers:
  - {weight: 7, search: {sampler: tpe}}
  - weight: 3
    openai:
      baseURL: http://vllm.ml.svc:8000/v1
      model: qwen3-coder
      secretName: llm-key
      parameters: {temperature: 0.8, max_tokens: 8192}
      pricePerMillionTokens: {input: 0.3, cachedInput: 0.03, output: 1.2}
      feedback: Rounded
  trainer:
    image: reg.lab.example/trainer@sha256:0123
    imagePullSecrets: [{name: reg}]
    command: [python, train.py]
    env: [{name: OMP_NUM_THREADS, value: "8"}]
    evaluation: Verified
    startup: 3m
    data: {claimName: climbmix, trainPath: train, valPath: val}
    resources: {cpu: 8, memory: 64Gi, ephemeralStorage: 40Gi}
  tiers:
  - name: h100
    gpus: 1
    resourceName: nvidia.com/gpu
    product: NVIDIA-H100-80GB-HBM3
    budget: {seconds: 300}
    maxParallel: 13
    maxVRAM: 76Gi
    pricePerGPUHour: 2.2
    runtimeClassName: nvidia
    nodeSelector: {zone: a}
    affinity: {nodeAffinity: {}}
    tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
    priorityClassName: low
  - {name: h200, product: NVIDIA-H200, maxParallel: 3, pricePerGPUHour: 3.1}
  acceptance: {minImprovement: 0, significance: 0.01, looks: [2, 4, 8]}
  limits: {experiments: 900, duration: 8h, gpuHours: 128, dollars: 320, consecutiveFailures: 12, targetBPB: 0.97}
  queueName: research
  suspend: false
""")
    assert run.branch == "autoresearch/h100"
    assert run.spec.source.template_name is None
    resources = run.spec.trainer.resources
    assert (resources.cpu_cores, resources.memory_bytes) == (8.0, 64 * 2**30)
    assert resources.ephemeral_storage_bytes == 40 * 2**30
    assert run.spec.tiers[0].max_vram_bytes == 76 * 2**30
    assert run.spec.limits.duration_seconds == 8 * 3600.0
    openai = run.spec.proposers[1].openai
    assert openai is not None and openai.feedback is Feedback.ROUNDED
    assert openai.parameters == {"temperature": 0.8, "max_tokens": 8192}


def test_a_cpu_tier_is_budgeted_in_cpu_seconds_unless_it_says_otherwise() -> None:
    assert load("{tiers: [{name: cpu, gpus: 0}]}").spec.tiers[0].budget == Budget(cpu_seconds=300.0)
    steps = load("{tiers: [{name: cpu, gpus: 0, budget: {steps: 30}}]}").spec.tiers[0].budget
    assert (steps.kind, steps.amount) == ("steps", 30)


def test_models_cannot_be_changed_after_they_are_made() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Tier(name="a").gpus = 2  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("max_vram", "maxVRAM"),
        ("price_per_gpu_hour", "pricePerGPUHour"),
        ("gpu_hours", "gpuHours"),
        ("base_url", "baseURL"),
        ("target_bpb", "targetBPB"),
        ("peak_vram_bytes", "peakVRAMBytes"),
        ("pod_uid", "podUID"),
        ("val_bpb", "valBPB"),
        ("price_per_million_tokens", "pricePerMillionTokens"),
        ("cpu_seconds", "cpuSeconds"),
    ],
)
def test_fields_are_spelled_as_the_api_page_spells_them(name: str, spelled: str) -> None:
    assert camel_case(name) == spelled


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3m", 180), ("8h", 28_800), ("300ms", 0.3), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("1h1m1s", 3661)],
)
def test_durations_are_kubernetes_strings_and_seconds(text: str, seconds: float) -> None:
    duration = TypeAdapter(Duration).validate_python(text)
    assert duration == text
    assert duration.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "m", "5", "5 m", "-3m", "3m\n", "1d", "3M", "1h 30m", "1e3s", "٣m", "3m" * 17])
def test_other_spellings_of_durations_are_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)


@pytest.mark.parametrize(
    ("written", "number"),
    [("64Gi", 64 * 2**30), ("500m", 0.5), ("8", 8), (8, 8), (1.5, 1.5), ("2k", 2000), ("1Ti", 2**40), ("1.5G", 1.5e9)],
)
def test_quantities_are_kubernetes_quantities_and_numbers(written: object, number: float) -> None:
    assert TypeAdapter(Quantity).validate_python(written).value == number


@pytest.mark.parametrize("written", ["64GB", "64 Gi", "64gi", "-1", "", "Gi", "1e3", "8\n", True, None, [], 1e300])
def test_other_spellings_of_quantities_are_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(written)


def test_quantities_have_sensible_sizes() -> None:
    for wrong in ("64", "500m", "2Pi"):
        with pytest.raises(ValidationError):
            TypeAdapter(Bytes).validate_python(wrong)
    for wrong in ("0", "2000", "1m"):
        with pytest.raises(ValidationError):
            TypeAdapter(Cores).validate_python(wrong)


@pytest.mark.parametrize(
    ("command", "script"),
    [
        (("python", "train.py"), "train.py"),
        (("/usr/bin/python3.12", "src/train.py"), "src/train.py"),
        (("python", "-m", "train"), None),
        (("torchrun", "train.py"), None),
        (("bash", "run.sh"), None),
    ],
)
def test_the_script_of_a_plain_python_command_is_known(command: tuple[str, ...], script: str | None) -> None:
    assert TrainerSpec(command=command).script == script


def test_a_local_path_is_a_source_in_local_mode_only() -> None:
    for path in ("/srv/git/x", "./x", "../x", "~/x", "."):
        assert load(f'{{source: {{url: "{path}"}}}}', local=True).spec.source.is_local
    assert not load("{source: {url: 'https://git.example/a/b'}}", local=True).spec.source.is_local


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/a/b.git",
        "https://git.example:8443/a/b",
        "https://[2001:db8::1]/a/b",
        "ssh://git@git.example:2222/a/b.git",
        "ssh://git.example/a",
        "git@git.example:a/b.git",
        "git@git.example:/srv/a.git",
    ],
)
def test_https_ssh_and_scp_urls_are_taken(url: str) -> None:
    assert load(f'{{source: {{url: "{url}"}}}}').spec.source.url == url


def test_every_field_says_what_it_is_and_every_field_of_a_spec_whether_it_may_change() -> None:
    for kind in (ResearchRun, Experiment):
        for path, field in every_field(kind):
            meaning, change = documented(field)
            assert meaning, f"{kind.__name__}: {path} has no docstring"
            if path.startswith(("spec.", "metadata.")):
                assert change, f"{kind.__name__}: {path} does not say whether it may change"


def test_every_optional_field_says_what_unset_means() -> None:
    for path, field in every_field(ResearchRun):
        if path.startswith("spec.") and not field.is_required() and field.default is None:
            assert "Unset" in (field.description or ""), path


def test_every_list_map_and_string_is_bounded() -> None:
    """CEL's cost limit refuses a CRD with one that is not."""

    def walk(schema: dict[str, object], path: str) -> None:
        if schema.get("type") == "string" and "enum" not in schema and "const" not in schema:
            assert "maxLength" in schema, path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
        if schema.get("type") == "object" and "additionalProperties" in schema and "properties" not in schema:
            assert "maxProperties" in schema or "ownerReferences" in path or "managedFields" in path, path
        if schema.get("x-kubernetes-int-or-string"):
            assert "maxLength" in schema, path
            return
        for key, part in schema.items():
            if isinstance(part, dict):
                walk(part, f"{path}/{key}")
            elif isinstance(part, list):
                for index, entry in enumerate(part):
                    if isinstance(entry, dict):
                        walk(entry, f"{path}/{key}/{index}")

    for kind in (ResearchRun, Experiment):
        schema = kind.model_json_schema(by_alias=True)
        json.dumps(schema)
        walk(schema, kind.__name__)


def test_no_model_takes_unknown_fields() -> None:
    assert by_alias(ResearchRun).keys() == {"apiVersion", "kind", "metadata", "spec", "status"}
    with pytest.raises(ValidationError, match="extra"):
        Tier.model_validate({"name": "a", "gpu": 1})
