"""Pieces of HTML files that need nothing else: no scripts, no fonts, no addresses. All text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from orchestrator.simulator.figures import Figures
from orchestrator.simulator.plot import Plot, svg

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px;
       margin: 0 auto; padding: 24px; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p { margin: .3rem 0; } .kind { font-weight: 600; } .note { color: #444; font-size: .92em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 1rem 0; }
dt { color: #444; } dd { margin: 0; }
table { border-collapse: collapse; margin: .6rem 0 1rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 18px 3px 0; text-align: left; border-bottom: 1px solid #ddd; }
th { border-bottom: 1.5px solid #222; background: #fff; } tr > :not(:first-child) { text-align: right; }
.decisions tr > :not(:first-child) { text-align: left; }
figure { margin: .4rem 0 0; } svg { width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: #222; }
svg .name { paint-order: stroke; stroke: #fff; stroke-width: 3px; }
.line { fill: none; stroke-width: 1.8; stroke-linecap: round; stroke-linejoin: round; }
.grid { stroke: #e2e2e2; } .axis { stroke: #222; fill: none; }
summary { cursor: pointer; font-weight: 600; }
"""


def page(title: str, parts: Iterable[str], notes: Sequence[str] = ()) -> str:
    """Return a whole file of simulated figures; it says that they are.

    Args:
        title: As text.
        parts: HTML, one after another.
        notes: What was repaired in the traces, as text; after the first part.
    """
    first, *rest = parts
    title = escape(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n"
        '<p class="kind">Profile-driven simulation: no figure here was measured on a running service.</p>\n'
        f"{first}{''.join(note(text) for text in notes)}{''.join(rest)}</body></html>\n"
    )


def facts(texts: Mapping[str, str]) -> str:
    """Return names with what they stand for, one a line."""
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(text)}</dd>' for name, text in texts.items())}</dl>\n"


def note(text: str) -> str:
    """Return a remark."""
    return f'<p class="note">Note: {escape(text)}</p>\n'


def table(figures: Figures, css: str = "figures") -> str:
    """Return figures as a table of a CSS class."""
    head = _row("th", figures.columns)
    body = "\n".join(_row("td", row) for row in figures.rows)
    return f'<table class="{css}"><thead>{head}</thead><tbody>\n{body}\n</tbody></table>\n'


def _row(tag: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"


def section(title: str, text: str, plots: Iterable[Plot]) -> str:
    """Return plots under a heading, with a sentence before them."""
    figures = "".join(f"<figure>{svg(plot)}</figure>\n" for plot in plots)
    return f"<h2>{escape(title)}</h2>\n{f'<p>{escape(text)}</p>' if text else ''}{figures}"
