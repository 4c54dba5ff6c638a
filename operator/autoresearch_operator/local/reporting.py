"""Writes what a person opens when a run is over: the report, the chart, the table."""

from __future__ import annotations

from pathlib import Path

from autoresearch_operator.local.answers import facts_now, keep_results
from autoresearch_operator.local.durable import write_durable
from autoresearch_operator.local.session import Session, summary_of
from autoresearch_operator.observe.chart import progress_png
from autoresearch_operator.observe.report import write_report
from autoresearch_operator.observe.tables import results_tsv, results_view


def write_reports(session: Session) -> list[Path]:
    """Writes report.html, progress.png and results.tsv into the run's folder and gives their paths."""
    made_from = facts_now(session.workdir)
    summary = summary_of(session)
    experiments = session.store.load().experiments
    page, chart, table = (session.workdir / name for name in ("report.html", "progress.png", "results.tsv"))
    diffs = {record.number: session.sources.diff(record, experiments) for record in experiments}
    write_report(summary, diffs, page)
    progress_png(summary, chart)
    write_durable(table, results_tsv(summary).encode("utf-8"))
    keep_results(session.workdir, results_view(summary), made_from)
    return [page, chart, table]
