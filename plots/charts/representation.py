"""The study of piecewise linear functions as ReLU networks."""

from __future__ import annotations

import math

from plots.chart import StudyTables, brief, study_figure
from plots.panels import Panel, PanelsChart, Series, line_of
from studies import find_study
from studies.study import column, where


@study_figure(81, "representation")
def chart_of(tables: StudyTables) -> PanelsChart:
    rows = tables["representation"]
    panels = []
    for row in rows:
        own, points = (where(tables[f"representation-{part}"], function=row["function"]) for part in ("curves", "points"))
        lines = [line_of("network", own, "x", "y"), line_of("its J", own, "x", "slope")]
        if points:
            at = tuple(column(points, "x"))
            lines.append(line_of("published weights", points, "x", "published_network"))
            lines.append(Series("points", at, (math.nan,) * len(at), tuple(column(points, "y"))))
        panels.append(Panel(f"{row['function']}: {float(row['units']):g} units, {float(row['kinks']):g} kinks", "x", tuple(lines)))
    worst = max(float(row["value_error"]) for row in rows)
    values = f"Values within {worst:.1e} of the functions'" if worst else "Values are the functions'"
    fitted = [row for row in rows if float(row["points"])]
    met, points = (sum(float(row[name]) for row in fitted) for name in ("published_met", "points"))
    return PanelsChart(
        stem="representation",
        title=f"{values}, and J is their slope; the published weights meet {met:g} of {points:g} points",
        topic="Piecewise linear functions as ReLU networks with the fewest units",
        caption=brief(find_study("representation").conclude(tables)),
        panels=tuple(panels),
    )
