"""One self-contained HTML page: a template of `cli/pages` filled with values, and plots as SVG inside it.

Every value is escaped: names come from strangers' models. A page loads nothing, runs nothing and says so in its
Content-Security-Policy. jinja2 and matplotlib are imported only when a page is asked for. Knows no job.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from registry.signing.small_files import replace_file

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes

#: What plots are drawn with. The page's own colours take their place, so that a plot fits light, dark and paper.
INK: Final = "#010203"
LIMIT: Final = "#040506"
SERIES: Final = ("#100001", "#100002", "#100003", "#100004", "#100005", "#100006", "#100007", "#100008")
_OURS = {INK: "currentColor", LIMIT: "var(--yes)", **{one: f"var(--series-{n})" for n, one in enumerate(SERIES, 1)}}


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template and write the page in one step; a page of that name is replaced."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cli", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = environment.get_template(template).render(version=version("weightmark"), written_at=now, **values)
    replace_file(path, page.encode("utf-8"))


def plot(draw: Callable[[Axes], None], *, height: float, says: str) -> Markup:
    """Let `draw` draw into axes of 9 by `height` inches and give the SVG; `says` is read out in its place."""
    import matplotlib as mpl
    from markupsafe import Markup, escape
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "font.size": 11, "text.color": INK, "svg.hashsalt": "weightmark"}):
        figure = Figure(figsize=(9, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.tick_params(colors=INK)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in {"left", "bottom"})
            spine.set_color(INK)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(says)}"', 1)
    for drawn_in, ours in _OURS.items():
        svg = svg.replace(drawn_in, ours)
    return Markup(svg)  # noqa: S704 - matplotlib escapes the text that it sets


def literal(text: str) -> str:
    """Text as it is, where matplotlib would read formulas between dollar signs."""
    return text.replace("$", r"\$")
