"""`anyloom doctor`: what a crash left in the store is found and mended. The work is storage's."""

from __future__ import annotations

from dataclasses import asdict

import click

from .console import Screen
from .opening import opened_store


@click.command()
@click.option("--check", is_flag=True, help="Only look, mend nothing.")
@click.option("--fast", is_flag=True, help="Do not read every medium again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(check: bool, fast: bool, as_json: bool) -> int:
    """Look at every turn and medium of the store, and mend what a crash left."""
    from ..storage.doctor import examine

    screen = Screen(as_json)
    with opened_store() as store, screen.waiting(f"Looking at {store.name} …"):
        report = examine(store, mend=not check, deep=not fast)
        name = store.name
    screen.line(f"{name}: {report.turns} turns and {report.media} media looked at.")
    for finding in report.findings:
        screen.line(f"{'mended' if finding.mended else 'found'} {finding.subject[:19]}: {finding.detail}")
    screen.line("Everything is in order." if report.clean else "Done." if report.healthy else "Some of it needs you.")
    if as_json:
        screen.json({**asdict(report), "store": name, "clean": report.clean, "healthy": report.healthy})
    return 0 if report.healthy else 1
