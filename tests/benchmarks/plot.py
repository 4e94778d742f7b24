"""Draws `build/bench.json` as `ratios.svg` beside this file, for the README.

    python -m tests.benchmarks.plot

Ratios are on a logarithmic axis from 1x, so that 1.3x and 30x are both readable: one below 1 has a number and no bar.
The picture has a ground of its own and follows the reader's light or dark mode.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from flink_jobs.environment import PROJECT_ROOT
from tests.benchmarks.results import Figure, read_figures

RESULT = PROJECT_ROOT / "build" / "bench.json"
PICTURE = Path(__file__).with_name("ratios.svg")
WIDTH, ROW, LEFT, RIGHT, TOP = 760, 30, 270, 70, 44
RATIOS = {
    "ratio_bare_loop": "bare loop, no state kept",
    "ratio_beam": "Apache Beam, one process",
    "ratio_beam_workers": "Apache Beam, a worker a core",
    "ratio_quix_per_core": "Quix Streams, a process a core",
    "ratio_quix": "Quix Streams, one process",
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


@dataclass(frozen=True)
class Axis:
    """Marks from the left to the right end, and how many of a bar's pixels a value gets between them."""

    marks: tuple[float, ...]
    unit: str
    logarithmic: bool

    def x(self, value: float) -> float:
        """Pixels from the left end; a value to the left of it has none."""
        low, high = self.marks[0], self.marks[-1]
        if value <= low:
            return 0.0
        share = math.log(value / low) / math.log(high / low) if self.logarithmic else (value - low) / (high - low)
        return (WIDTH - LEFT - RIGHT) * share


def ratio_axis(largest: float) -> Axis:
    """1, 3, 10, 30, … up to the first that is not below the largest value."""
    marks = [1.0, 3.0]
    while marks[-1] < largest:
        marks.append(marks[-2] * 10)
    return Axis(tuple(marks), "x", logarithmic=True)


def latency_axis(largest: float) -> Axis:
    """From 0 in four to eight round steps."""
    step = 10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0
    step = next(part for part in (step, step / 2, step / 4, step / 5) if largest / part >= 4 or part == step / 5)
    return Axis(tuple(step * number for number in range(math.ceil(largest / step) + 1)), " ms", logarithmic=False)


def chart(title: str, bars: Sequence[tuple[str, float]], axis: Axis, top: int) -> list[str]:
    """SVG elements of one chart, its upper edge at `top`."""
    bottom = top + TOP + ROW * len(bars)
    lines = [f'<text class="title" x="20" y="{top + 26}">{escape(title)}</text>']
    for mark in axis.marks:
        x = LEFT + axis.x(mark)
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="{top + TOP - 6}" x2="{x:.1f}" y2="{bottom}"/>')
        label = f"{mark:,g}{axis.unit}"
        lines.append(f'<text class="axis" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{label}</text>')
    for number, (label, value) in enumerate(bars):
        y, length = top + TOP + ROW * number, axis.x(value)
        lines.append(f'<text x="{LEFT - 12}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        lines.append(f'<rect class="bar" x="{LEFT}" y="{y + 3}" width="{length:.1f}" height="{ROW - 10}" rx="3"/>')
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        lines.append(f'<text x="{LEFT + length + 8:.1f}" y="{y + 17}">{shown}{axis.unit}</text>')
    return lines


def svg(figures: Mapping[str, Figure]) -> str:
    """The picture: the ratios, and the latencies if they were measured."""
    lines, top = [], 0
    for title, labels, axis_of in (
        (f"Events a second on {figures.get('cores', '?')} cores: Millrace as a multiple of", RATIOS, ratio_axis),
        ("Latency of Millrace at 5,000 events/s, from produced to visible", LATENCIES, latency_axis),
    ):
        bars = [(label, float(figures[key])) for key, label in labels.items() if key in figures]
        if bars:
            lines += chart(title, bars, axis_of(max(value for _, value in bars)), top)
            top += TOP + ROW * len(bars) + 30
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{WIDTH - 1}" height="{top - 1}" rx="6"/>'
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    body = "\n".join([f"<style>{STYLE}</style>", ground, *lines])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n{body}\n</svg>\n'


def main() -> None:
    figures = read_figures(RESULT)
    if not figures.keys() & (RATIOS.keys() | LATENCIES.keys()):
        raise SystemExit(f"nothing to draw in {RESULT.relative_to(PROJECT_ROOT)}: run `make bench` first")
    PICTURE.write_text(svg(figures), "utf-8")
    print(f"drawn: {PICTURE.relative_to(PROJECT_ROOT)}")


if __name__ == "__main__":
    main()
