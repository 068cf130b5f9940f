"""What the HTML pages have in common: their look, their plots, and that each is one file which needs nothing else."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

MONEY = StrMethodFormatter("{x:,g}")
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1d2433;max-width:1160px;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #d8dde6;padding-bottom:.2rem}
.lead{font-size:1.15rem}.synthetic{background:#b3261e;color:#fff;font-size:2.4rem;font-weight:800;letter-spacing:.12em;
text-align:center;padding:.6rem;margin:1rem 0}.note{color:#5a6478;font-size:.92rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.35rem .45rem;text-align:right;border-bottom:1px solid #e4e8ef;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal}td small,th small{display:block;color:#5a6478;font-weight:400;
font-size:.85em}.wide+.wide{margin-top:1.2rem}
.wide{overflow-x:auto}.good{color:#0b6e4f}.bad{color:#b3261e}img{max-width:100%}dl{display:grid;
grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;font-size:.92rem}dt{color:#5a6478}dd{margin:0;overflow-wrap:anywhere}
"""


def write_page(path: Path, title: str, heading: str, body: str) -> Path:
    """Write a page of a body that is HTML already, and give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{heading}</h1>{body}</body></html>"
    )
    return path


def join_sections(sections: Iterable[tuple[str, str, str]]) -> str:
    """Join sections (title, content, note) that have a content; all are HTML already."""
    return "".join(
        f"<h2>{title}</h2>{content}" + (f'<p class="note">{note}</p>' if note else "")
        for title, content, note in sections
        if content
    )


def fact_list(facts: dict[str, str]) -> str:
    """Make a list of names and what they stand for."""
    return "<dl>" + "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def make_axes(label: str, height: float = 4.0) -> tuple[Figure, Any]:
    """Make a figure as wide as the page with one plot; `label` is that of its y axis, `height` in inches."""
    figure = Figure(figsize=(10.5, height), layout="constrained")  # not pyplot: it keeps global state
    return figure, style_axis(figure.add_subplot(), label)


def style_axis(axis: Any, label: str) -> Any:
    """Give a plot the look of the pages and its y axis a label."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e4e8ef")
    axis.set_axisbelow(True)
    axis.set_ylabel(label)
    axis.yaxis.set_major_formatter(MONEY)
    return axis


def embed(figure: Figure, description: str) -> str:
    """Turn a figure into an image that is part of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
