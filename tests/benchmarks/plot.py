"""Draws `build/bench.json` as `ratios.svg` beside this file, for the README.

    python -m tests.benchmarks.plot

Bars on a logarithmic axis from 1x, so that 1.3x and 30x are both readable; it has a ground of its own and follows the
reader's light or dark mode.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from tests.benchmarks.results import Figure, read_figures

RESULT = PROJECT_ROOT / "build" / "bench.json"
PICTURE = Path(__file__).with_name("ratios.svg")
WIDTH, ROW, LEFT, RIGHT, TOP = 760, 30, 270, 70, 44
RATIOS = {
    "ratio_bare_loop": "bare loop, no state kept",
    "ratio_beam": "Apache Beam, in memory",
    "ratio_quix": "Quix Streams, exactly once",
    "ratio_per_record_thread": "PyFlink per record, thread",
    "ratio_per_record_process": "PyFlink per record, process",
}
LATENCIES = {
    "latency_p50_ms": "at least once, p50",
    "latency_p99_ms": "at least once, p99",
    "latency_exactly_once_p50_ms": "exactly once, p50",
    "latency_exactly_once_p99_ms": "exactly once, p99",
}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 } .ground { fill: #ffffff; stroke: #d1d9e0 }
  .title { font-weight: 600 } .bar { fill: #1f6feb } .grid { stroke: #d1d9e0 } .axis { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ground { fill: #0d1117; stroke: #3d444d }
    .bar { fill: #58a6ff } .grid { stroke: #3d444d } .axis { fill: #9198a1 }
  }
"""


def ticks(largest: float) -> list[float]:
    """1, 3, 10, 30, … up to the first that is not below the largest value."""
    found = [1.0]
    while found[-1] < largest:
        found.append(found[-1] * (3 if len(found) % 2 else 10 / 3))
    return [float(f"{tick:.3g}") for tick in found]


def chart(title: str, bars: Sequence[tuple[str, float]], unit: str, top: int) -> list[str]:
    """SVG elements of one chart, its upper edge at `top`; a value below 1 has no bar but its number."""
    marks = ticks(max((value for _, value in bars), default=1.0))
    scale = (WIDTH - LEFT - RIGHT) / math.log(max(marks[-1], 3.0))
    bottom = top + TOP + ROW * len(bars)
    lines = [f'<text class="title" x="20" y="{top + 26}">{escape(title)}</text>']
    for mark in marks:
        x = LEFT + scale * math.log(mark)
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="{top + TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        lines.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{mark:g}{unit}</text>')
    for number, (label, value) in enumerate(bars):
        y = top + TOP + ROW * number
        length = scale * max(0.0, math.log(value)) if value > 0 else 0.0
        lines.append(f'<text x="{LEFT - 12}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        lines.append(f'<rect class="bar" x="{LEFT}" y="{y + 3}" width="{length:.1f}" height="{ROW - 10}" rx="3"/>')
        lines.append(f'<text x="{LEFT + length + 8:.1f}" y="{y + 17}">{value:,.3g}{unit}</text>')
    return lines


def svg(figures: Mapping[str, Figure]) -> str:
    """The picture: the ratios, and the latencies if they were measured."""
    lines, top = [], 0
    for title, labels, unit in (
        (f"Events per second: Millrace is so many times as fast as ({_machine(figures)})", RATIOS, "x"),
        ("Latency of Millrace, produced to visible, at 5,000 events/s", LATENCIES, " ms"),
    ):
        bars = [(label, float(figures[key])) for key, label in labels.items() if key in figures]
        if bars:
            lines += chart(title, bars, unit, top)
            top += TOP + ROW * len(bars) + 30
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{top - 1}" rx="6"/>'
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    body = "\n".join([f"<style>{STYLE}</style>", ground, *lines])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n{body}\n</svg>\n'


def _machine(figures: Mapping[str, Figure]) -> str:
    return f"{figures.get('cores', '?')} cores"


def main() -> None:
    figures = read_figures(RESULT)
    if not figures.keys() & (RATIOS.keys() | LATENCIES.keys()):
        raise SystemExit(f"nothing to draw in {RESULT.relative_to(PROJECT_ROOT)}: run `make bench` first")
    PICTURE.write_text(svg(figures), "utf-8")
    print(f"drawn: {PICTURE.relative_to(PROJECT_ROOT)}")


if __name__ == "__main__":
    main()
