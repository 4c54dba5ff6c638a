# ruff: noqa: E501 - strategies in the shape of the file they make
"""Laws of the models: what is written is read back, and no input ends in anything but an object or sentences."""

import json
from typing import Any

import yaml
from autoresearch_operator.api.load import InvalidResource, dump_run, load_run
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.yamltree import Dumper, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts.filter(bool), inner, max_size=3),
    max_leaves=6,
)
durations = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 300), st.sampled_from(["s", "m"]))
sizes = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 999), st.sampled_from(["Mi", "Gi", "M", "G"]))
floats = st.floats(1e-9, 1e5, allow_nan=False)
paths = st.lists(labels, min_size=1, max_size=3).map("/".join).filter(lambda path: path != "prepare.py")
budgets = st.one_of(
    floats.map(lambda x: {"seconds": x}),
    floats.map(lambda x: {"cpuSeconds": x}),
    st.integers(1, 10**6).map(lambda n: {"steps": n}),
)
tiers = st.fixed_dictionaries(
    {"name": labels, "pricePerGPUHour": floats},
    optional={
        "gpus": st.integers(0, 16),
        "budget": budgets,
        "maxParallel": st.integers(0, 100),
        "maxVRAM": sizes,
        "product": labels,
        "nodeSelector": st.dictionaries(labels, st.sampled_from(["", "a", "yes", "1e3", "0x1"]), max_size=3),
        "affinity": st.dictionaries(st.sampled_from(["nodeAffinity", "podAffinity"]), json_values, max_size=2),
        "tolerations": st.just([{"key": "gpu", "operator": "Exists"}]),
    },
)
searches = st.fixed_dictionaries({"search": st.sampled_from([{}, {"sampler": "grid"}])})
models = st.fixed_dictionaries(
    {
        "openai": st.fixed_dictionaries(
            {
                "baseURL": st.just("http://m.example/v1"),
                "model": texts.filter(bool),
                "pricePerMillionTokens": st.fixed_dictionaries({"input": floats, "output": floats}),
            },
            optional={"parameters": st.dictionaries(st.sampled_from(["temperature", "stop", "on"]), json_values)},
        )
    },
    optional={"weight": st.integers(1, 1000)},
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "source": st.fixed_dictionaries(
            {"url": st.just("git@h.example:a/b")},
            optional={"ref": labels, "branch": labels.map("x/{}".format), "editablePaths": st.lists(paths, min_size=1, max_size=3, unique=True)},
        ),
        "proposers": st.lists(searches | models, min_size=1, max_size=3),
        "trainer": st.fixed_dictionaries(
            {},
            optional={
                "env": st.lists(st.fixed_dictionaries({"name": st.just("A"), "value": texts}), max_size=1),
                "command": st.lists(texts.filter(bool), min_size=1, max_size=3),
                "startup": durations,
                "resources": st.fixed_dictionaries({}, optional={"cpu": st.integers(1, 64), "memory": sizes}),
            },
        ),
        "tiers": st.lists(tiers, min_size=1, max_size=3, unique_by=lambda tier: tier["name"]),
        "acceptance": st.fixed_dictionaries({}, optional={"significance": st.floats(0.001, 0.2), "minImprovement": floats.map(lambda x: min(x, 10.0))}),
        "limits": st.fixed_dictionaries({}, optional={"experiments": st.integers(1, 1000), "duration": durations, "dollars": floats}),
        "suspend": st.booleans(),
    },
)  # fmt: skip


def document(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "autoresearch.dev/v1alpha1",
        "kind": "ResearchRun",
        "metadata": {"name": "first"},
        "spec": spec,
    }


@relaxed
@given(specs)
def test_a_run_written_as_yaml_is_read_back_the_same(spec: dict[str, Any]) -> None:
    try:
        run = load_run(yaml.dump(document(spec), Dumper=Dumper), filename="f", local=False)
    except InvalidResource as error:
        assert "needs every price" in str(error), spec  # the default tier has none
        return
    again = load_run(dump_run(run), filename="f", local=False)
    assert again == run
    assert dump_run(again) == dump_run(run)
    assert ResearchRun.model_validate_json(run.model_dump_json()) == run
    # A reader of YAML 1.1, as kubectl has, must see the same values.
    assert ResearchRun.model_validate(yaml.safe_load(dump_run(run)), by_alias=True, by_name=False) == run


@relaxed
@given(specs, st.data())
def test_any_value_anywhere_gives_a_run_or_sentences(spec: dict[str, Any], data: st.DataObject) -> None:
    tree: Any = document(spec)
    node, place = tree, ()
    while isinstance(node, dict | list) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        place = (node, key)
        node = node[key]
        if data.draw(st.booleans()):
            break
    place[0][place[1]] = data.draw(json_values)
    try:
        load_run(yaml.dump(tree, Dumper=Dumper), filename="f", local=data.draw(st.booleans()))
    except InvalidResource as error:
        assert all(problem.sentence for problem in error.problems)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["a", "spec", ": ", ":", "\n", "  ", "- ", "[", "]", "{", "}", ",", "'", '"', "&a ", "*a", "!t ", "|", ">", "\t",
             "---\n", "#", "? ", "<<: ", "1e5", "%YAML 1.2\n", "\\", "\x00", "\u2028", "é", "\ufeff", "kind: ResearchRun\n"]
        ),
        max_size=25,
    ).map("".join)
    | st.text(max_size=60)
)  # fmt: skip
def test_any_text_gives_a_run_or_sentences(text: str) -> None:
    try:
        load_run(text, filename="f", local=True)
    except InvalidResource as error:
        assert error.problems


def test_strings_that_yaml_would_bend_are_read_back_the_same() -> None:
    for text in (
        "\x85",
        "a\u2028b",
        " x ",
        "yes",
        "1e3",
        "1:30",
        "0o7",
        "~",
        "",
        "a: b #c",
        "\ufeff",
        "é\n\n",
        "- x",
        "2026-01-01",
    ):
        written = yaml.dump({"a": text}, Dumper=Dumper, allow_unicode=True)
        assert read(written).value == yaml.safe_load(written) == {"a": text}


def test_files_of_other_editors_are_read() -> None:
    head = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"
    plain = load_run(head, filename="f", local=False)
    for text in (
        "\ufeff" + head,
        head.replace("\n", "\r\n"),
        "---\n" + head + "...\n",
        "%YAML 1.2\n---\n" + head,
        head + "---\n",
    ):
        assert load_run(text, filename="f", local=False) == plain


def test_a_string_that_is_no_text_gets_a_sentence() -> None:
    head = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\n"
    for spec in (
        '{trainer: {env: [{name: A, value: "\\ud800"}]}}',
        '{tiers: [{name: a, nodeSelector: {"\\ud800": b}}]}',
    ):
        try:
            load_run(head + f"spec: {spec}\n", filename="f", local=False)
        except InvalidResource as error:
            str(error).encode()
        else:
            raise AssertionError(spec)


@relaxed
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_what_json_escapes_is_read_as_the_characters_it_stands_for(value: str) -> None:
    body = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": "r"}}
    text = json.dumps(body | {"spec": {"trainer": {"env": [{"name": "A", "value": f"\U0001f600{value}"}]}}})
    assert load_run(text, filename="f.json", local=False).spec.trainer.env[0].value == f"\U0001f600{value}"
