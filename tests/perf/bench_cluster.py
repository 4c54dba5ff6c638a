"""The operator under load: `python tests/perf/bench_cluster.py [replace|one|many|all] [--short] [--json]`.

replace  16 GPUs, 2 s trials, ideas never run out: from a pod's end to its replacement's binding, and whose time it is.
one      64 GPUs, 1,000 experiments, one run: memory, CPU seconds a trial, writes an idea, lists, bytes in etcd.
many     50 runs of 4 slots each: the same.

Nodes and trials are simulated; API server, scheduler, controllers, git and the operator's process are real. `--short`
makes it a tenth, for CI. Exits with 1 when a bar is missed; bars on seconds, and the strict one on CPU time, count
only with `--strict`, on a machine at rest.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "perf"), str(TESTS / "cluster"), str(TESTS)]

import machine  # noqa: E402
from clusterlab.measure import stored  # noqa: E402
from operatorbench import Lab, Processor, Sampler, lab, memory_mib, moment, quantile  # noqa: E402

RSS_MIB = 200.0
CPU_MS_A_TRIAL = 25.0
"""A quarter of a core at ten trial ends a second."""
CPU_MS_ON_A_BUSY_MACHINE = 150.0
"""A CPU second is worth a half to a third beside busy neighbours; what this bar finds is a program gone wrong."""
WRITES_AN_IDEA = 6.0
ETCD_BYTES = 8192.0
OPERATOR_P50_MS, OPERATOR_P99_MS = 300.0, 1000.0
KEPT = 200
"""Rejected experiments that stay in the cluster (`Options.keep_experiments`)."""
BASELINE_TRIALS = 5
AGENT = "autoresearch-operator"


def spec(experiments: int, slots: int, sampler: str = "tpe") -> dict[str, Any]:
    """Nothing is good enough, so that each idea is one trial and one verdict. With `random` an idea costs next to
    nothing, as an LLM's would: what is left is the cost of everything else."""
    return {
        "tiers": [{"name": "sim", "gpus": 1, "budget": {"steps": 10}, "maxParallel": slots}],
        "limits": {"experiments": experiments},
        "acceptance": {"minImprovement": 5},
        "proposers": [{"search": {"sampler": sampler}}],
    }


def requests_of(lab: Lab, mark: int) -> Counter[tuple[str, str]]:
    """(verb, resource) of the operator's requests."""
    found: Counter[tuple[str, str]] = Counter()
    for event in lab.plane.audit_events(mark):
        about = event.get("objectRef")
        if about and event.get("userAgent", "") == AGENT:
            what = about["resource"] + (f"/{about['subresource']}" if about.get("subresource") else "")
            found[event["verb"], what] += 1
    return found


def load(gpus: int, runs: int, slots: int, experiments: int, seconds: float, sampler: str) -> dict[str, Any]:
    """One shape of load: `runs` of `slots` each, `experiments` in each run."""
    with lab(gpus, seconds) as one:
        mark = one.plane.audit_size()
        empty = {kind: stored(one.plane, "", kind).bytes for kind in ("configmaps", "jobs", "pods")}
        with Sampler(one.pid) as memory:
            for number in range(runs):
                one.apply(f"r{number}", spec(experiments, slots, sampler))
            # The first tenth is warming up: modules that the first proposal needs, the baselines.
            one.trainer.wait_for(runs * (BASELINE_TRIALS + experiments // 10), 120 + 2.0 * runs * experiments)
            cpu, began, before = Processor.of(one.pid), time.monotonic(), len(one.trainer.ended)
            one.wait_complete(60 + 4.0 * runs * experiments)
        took, spent = time.monotonic() - began, Processor.of(one.pid) - cpu
        time.sleep(3)  # the garbage collector's, and the audit log's
        trials, ideas = len(one.trainer.ended) - before, runs * experiments
        asked = requests_of(one, mark)
        kinds = ("experiments", "experiments/status", "configmaps", "jobs")
        writes = {
            (verb, what): times
            for (verb, what), times in asked.items()
            if verb in ("create", "update", "patch", "delete")
        }
        own = sum(times for (_, what), times in writes.items() if what in kinds)
        # The baseline's: an Experiment, a ConfigMap, five trials, each with a Job, its deletion and a status.
        own -= runs * (2 + 3 * BASELINE_TRIALS)
        lists = {f"{verb} {what}": times for (verb, what), times in asked.items() if verb in ("list", "watch")}
        objects = stored(one.plane, "autoresearch.dev", "experiments")
        beside = {kind: stored(one.plane, "", kind).bytes - empty[kind] for kind in ("configmaps",)}
        return {
            "trials": trials,
            "seconds": round(took, 1),
            "trial_ends_per_second": round(trials / took, 2),
            "rss_mib_max": round(memory_mib(one.pid, "VmHWM"), 1),
            "rss_mib_end": round(memory_mib(one.pid), 1),
            "cpu_ms_per_trial_end": round(1000 * spent.total / trials, 1),
            "cpu_ms_per_trial_end_of_git": round(1000 * spent.children / trials, 1),
            "cores": round(spent.total / took, 3),
            "writes_per_rejected_idea": round(own / ideas, 2),
            "writes": {f"{verb} {what}": times for (verb, what), times in sorted(writes.items())},
            "lists": lists,
            "experiments_in_etcd": objects.objects,
            "etcd_bytes_per_experiment": round(objects.bytes / max(1, objects.objects)),
            "etcd_bytes_per_experiment_with_source": round(
                (objects.bytes + sum(beside.values())) / max(1, objects.objects)
            ),
            "memory_by_second": [round(value) for value in memory.mib[:: max(1, len(memory.mib) // 20)]],
        }


def replace(gpus: int, experiments: int, seconds: float) -> dict[str, Any]:
    """From a pod's last status to the binding of the pod that takes its place."""
    with lab(gpus, seconds) as one:
        mark = one.plane.audit_size()
        one.apply("r0", spec(experiments, gpus, "random"))
        one.wait_complete(120 + experiments * (seconds / gpus + 4))
        time.sleep(2)
        created: dict[str, tuple[float, float]] = {}
        bound: dict[str, float] = {}
        for event in one.plane.audit_events(mark):
            about = event.get("objectRef") or {}
            if event.get("responseStatus", {}).get("code", 0) >= 300 or event["verb"] != "create":
                continue
            received, done = moment(event["requestReceivedTimestamp"]), moment(event["stageTimestamp"])
            if about.get("resource") == "jobs" and event.get("userAgent") == AGENT:
                created[about["name"]] = received, done
            elif about.get("resource") == "pods" and about.get("subresource") == "binding":
                bound[re.sub(r"-[a-z0-9]{5}$", "", about["name"])] = done
        baseline = re.compile(r"^r0-0-s")
        jobs = sorted((times, name) for name, times in created.items() if not baseline.match(name))[gpus:]
        ends = sorted(end.at for end in one.trainer.ended if end.pod.identity["experiment"] != 0)
        # The n-th end frees the slot that the n-th start after the first `gpus` takes.
        pairs = [(end, times, bound[name]) for end, (times, name) in zip(ends, jobs, strict=False) if name in bound]
        shares = {
            "total": [binding - end for end, _, binding in pairs],
            "operator": [times[0] - end for end, times, _ in pairs],
            "api_server": [times[1] - times[0] for _, times, _ in pairs],
            "controllers": [binding - times[1] for _, times, binding in pairs],
        }
        figures: dict[str, Any] = {"replacements": len(pairs)}
        for name, values in shares.items():
            for part in (0.5, 0.99):
                figures[f"{name}_p{round(100 * part)}_ms"] = round(1000 * quantile(values, part))
        return figures


def missed(name: str, figures: dict[str, Any], strict: bool) -> list[str]:
    """Sentences about the bars that were missed."""
    bars: dict[str, float] = {}
    if name == "replace":
        if strict:
            bars = {"operator_p50_ms": OPERATOR_P50_MS, "operator_p99_ms": OPERATOR_P99_MS}
    else:
        bars = {
            "rss_mib_max": RSS_MIB,
            "writes_per_rejected_idea": WRITES_AN_IDEA,
            "etcd_bytes_per_experiment": ETCD_BYTES,
            "cpu_ms_per_trial_end": CPU_MS_A_TRIAL if strict else CPU_MS_ON_A_BUSY_MACHINE,
        }
    return [f"{name}: {what} is {figures[what]}, at most {bar:g}" for what, bar in bars.items() if figures[what] > bar]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("replace", "one", "many", "all"), default="all")
    parser.add_argument("--short", action="store_true", help="a tenth of the size")
    parser.add_argument("--experiments", type=int, help="in each run")
    parser.add_argument("--sampler", default="tpe", help="how ideas are made: tpe, random; replace always takes random")
    parser.add_argument("--strict", action="store_true", help="bars on seconds count too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    tenth = 10 if options.short else 1
    shapes = {
        "replace": lambda: replace(16, options.experiments or 400 // tenth * (2 if options.short else 1), 2.0),
        "one": lambda: load(64, 1, 64, options.experiments or 1000 // tenth, 1.0, options.sampler),
        "many": lambda: load(200 // tenth, 50 // tenth, 4, options.experiments or 20, 1.0, options.sampler),
    }
    wrong: list[str] = []
    for name, measure in shapes.items():
        if options.what not in (name, "all"):
            continue
        figures = measure()
        wrong += missed(name, figures, options.strict)
        if options.json:
            print(json.dumps({"what": name, "load": os.getloadavg()[0], **figures}), flush=True)
            continue
        print(f"-- {name}: {machine.describe()}")
        for key, value in figures.items():
            print(f"{key:40} {value}", flush=True)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
