"""The figures of concepts.md: ``python docs/figures.py [FOLDER]`` writes them as SVG, beside this file unless told.

Figures of numbers are measured here, on scikit-learn's handwritten digits: the 64 pixels of an image, scaled, are the features,
and a logistic regression is the head. Each figure brings its own background, so that it can be read on any page, light or dark.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from scipy.stats import beta

import subspect

WIDTH = 720
STYLE = """
:root { --paper: #fdfdfb; --ink: #1c1e21; --quiet: #6b7075; --line: #d5d8dc; --for: #1f6fb4; --against: #c25a00;
  --cell: #e9ecef }
@media (prefers-color-scheme: dark) {
  :root { --paper: #1b1e22; --ink: #eceef0; --quiet: #9aa2aa; --line: #3c4248; --for: #6cb2ee; --against: #f0a050;
    --cell: #2b3036 }
}
.paper { fill: var(--paper); stroke: var(--line) } .ink { fill: var(--ink) } .quiet { fill: var(--quiet) }
.for { fill: var(--for) } .against { fill: var(--against) } .cell { fill: var(--cell) }
.line { stroke: var(--line); fill: none }
.curve { stroke: var(--for); fill: none; stroke-width: 2 } .curve2 { stroke: var(--against); fill: none; stroke-width: 2 }
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif } .small { font-size: 11px }
.strong { font-weight: 600 } .end { text-anchor: end } .mid { text-anchor: middle }
"""


class Drawing:
    """An SVG of shapes, one after the other."""

    def __init__(self, height: int, title: str) -> None:
        self.height, self.title, self.parts = height, title, list[str]()

    def rect(self, x: float, y: float, w: float, h: float, kind: str, more: str = "") -> None:
        """Add a rectangle."""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" class="{kind}" {more}/>')

    def text(self, x: float, y: float, text: object, kind: str = "ink") -> None:
        """Add a text."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(str(text))}</text>')

    def path(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """Add a line through points."""
        self.parts.append(f'<path d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}" class="{kind}"/>')

    def save(self, path: Path) -> None:
        """Write the file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" role="img">'
        )
        body = f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{self.height - 1}" rx="6" class="paper"/>'
        lines = [head, f"<title>{escape(self.title)}</title><style>{STYLE}</style>", body, *self.parts, "</svg>", ""]
        path.write_text("\n".join(lines), encoding="utf-8")


def features() -> Drawing:
    """Draw a network as backbone and head, and the few places of a decomposed one."""
    drawing = Drawing(250, "An image goes through the backbone to features, and through the head to logits")
    drawing.rect(24, 95, 70, 60, "cell")
    drawing.text(59, 130, "image", "ink mid")
    drawing.text(112, 130, "→", "ink mid")
    drawing.rect(130, 70, 130, 110, "cell")
    drawing.text(195, 122, "backbone", "ink mid")
    drawing.text(195, 141, "runs once", "quiet small mid")
    drawing.text(278, 130, "→", "ink mid")
    drawing.text(346, 130, "→", "ink mid")
    for i in range(12):
        drawing.rect(300, 42 + 14 * i, 22, 12, "for" if i in (1, 6, 9) else "cell")
    drawing.text(311, 232, "features x", "ink mid")
    for left, chosen, name in ((370, None, "dense head W"), (560, True, "decomposed head")):
        for row in range(4):
            used = {(7 * row + 1) % 12, (5 * row + 4) % 12, (3 * row + 9) % 12}
            for column in range(12):
                on = chosen is None or column in used
                kind = ("for" if (row + column) % 3 else "against") if on else "cell"
                drawing.rect(left + 11 * column, 86 + 20 * row, 9, 16, kind)
        drawing.text(left + 65, 232, name, "ink mid")
        drawing.text(left + 65, 190, "a row for each class", "quiet small mid")
    drawing.text(520, 130, "→", "ink")
    drawing.text(24, 28, "Each class reads all d features …", "strong ink")
    drawing.text(560, 28, "… or only k of them", "strong ink")
    return drawing


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, subspect.Study, subspect.Decomposition]:
    """Return scaled pixels, labels and scale of the digits, a study of them, and its decomposition."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, labels = load_digits(return_X_y=True)
    x = (pixels / 16).astype(np.float32)
    head = LogisticRegression(max_iter=2000).fit(x, labels)
    study = subspect.from_features(
        x, head.coef_, head.intercept_, Path(tempfile.mkdtemp()) / "study", labels=labels, show_progress=False
    )
    return x, labels, head.coef_, study, study.decompose(k=5, draws=0, show_progress=False)


def contribution(x: np.ndarray, labels: np.ndarray, made: subspect.Decomposition) -> Drawing:
    """Draw what each feature adds to the logit of a 3."""
    drawing = Drawing(230, "What five features add to the logit of class 3 on one image")
    weight, bias = made.matrix()
    logits = x @ np.asarray(weight).T + np.asarray(bias)
    row = next(i for i in np.flatnonzero(labels == 3) if logits[i].argmax() == 3)
    drawing.text(24, 28, "logit of class 3 = bias + Σ W[3, i] · x[i]", "strong ink")
    picture(drawing, x[row], 24, 48, 18, made.supports[3].tolist())
    added = sorted(((float(weight[3, i] * x[row, i]), int(i)) for i in made.supports[3]), reverse=True)
    scale = 190 / max(abs(value) for value, _ in added)
    drawing.path([(450, 50), (450, 50 + 26 * len(added))], "line")
    for place, (value, feature) in enumerate(added):
        y = 52 + 26 * place
        drawing.rect(450 + min(0, value * scale), y, abs(value) * scale, 18, "for" if value > 0 else "against")
        drawing.text(
            240, y + 14, f"feature {feature}: {signed(weight[3, feature])} · {x[row, feature]:.2f}", "quiet small"
        )
        drawing.text(706, y + 14, signed(value), "ink end")
    drawing.text(
        240, 206, f"bias {signed(bias[3])}; together {signed(logits[row, 3])}, the largest of the ten logits", "ink"
    )
    return drawing


def signed(value: float) -> str:
    """Write a number with its sign, and none for zero."""
    return f"{float(value):+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def picture(drawing: Drawing, x: np.ndarray, left: float, top: float, size: float, marks: Iterable[int]) -> None:
    """Draw an image of 8 × 8 pixels, with some of them framed."""
    for i, value in enumerate(x):
        at = left + size * (i % 8), top + size * (i // 8)
        grey = round(250 - 220 * float(value))
        drawing.rect(*at, size, size, "", f'fill="rgb({grey},{grey},{grey})"')
    for i in marks:
        at = left + size * (i % 8) + 1.5, top + size * (i // 8) + 1.5
        drawing.rect(*at, size - 3, size - 3, "", 'fill="none" stroke="#e8590c" stroke-width="3"')


def pursuit(made: subspect.Decomposition, study: subspect.Study) -> Drawing:
    """Draw which features a class gets for each k, and what that costs with and without refit."""
    most = 10
    supports = [
        study.decompose(k=k, refit=False, draws=0, show_progress=False).supports[3].tolist() for k in range(1, most + 1)
    ]
    columns = list(dict.fromkeys(feature for support in supports for feature in support))
    drawing = Drawing(320, "Features of class 3 for k from 1 to 10, and fidelity against k")
    drawing.text(24, 28, "class 3: its features for each k", "strong ink")
    drawing.text(400, 28, "fidelity on images held out, %", "strong ink")
    step = min(24, 300 / len(columns))
    for row, support in enumerate(supports):
        drawing.text(44, 69 + 22 * row, row + 1, "quiet small end")
        for place, feature in enumerate(columns):
            new = row and feature in support and feature not in supports[row - 1]
            kind = ("against" if new else "for") if feature in support else "cell"
            drawing.rect(52 + step * place, 56 + 22 * row, step - 3, 17, kind)
    for place, feature in enumerate(columns):
        drawing.text(52 + step * place + step / 2 - 1, 292, feature, "quiet small mid")
    drawing.text(24, 292, "no.", "quiet small")
    drawing.text(24, 48, "k", "quiet small")
    curve = {
        refit: [(p.k, p.fidelity) for p in made.curve if p.refit is refit and p.k <= 20] for refit in (False, True)
    }
    plot(drawing, curve)
    return drawing


def plot(drawing: Drawing, curve: dict[bool, list[tuple[float, float]]]) -> None:
    """Draw fidelity against k, features chosen once and, where measured, refitted."""
    low = 10 * int(10 * min(share for points in curve.values() for _, share in points))

    def at(k: float, share: float) -> tuple[float, float]:
        return 430 + 260 * k / 20, 270 - 210 * (100 * share - low) / (100 - low)

    for mark in range(low, 101, 10 if 100 - low <= 60 else 20):
        x, y = at(0, mark / 100)
        drawing.path([(x, y), (690, y)], "line")
        drawing.text(x - 6, y + 4, mark, "quiet small end")
    for size in (1, 5, 10, 15, 20):
        drawing.text(at(size, 0)[0], 292, size, "quiet small mid")
    drawing.path([at(k, share) for k, share in curve[False]], "curve")
    for k, share in curve[True]:
        x, y = at(k, share)
        drawing.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="against"/>')
        drawing.text(x - 4, y - 26, f"{100 * share:.1f}, refitted", "ink small")
        drawing.path([(x, y - 5), (x, y - 22)], "line")


def promise() -> Drawing:
    """Draw what can be promised when 98 % of n images agree."""
    drawing = Drawing(260, "The lower bound on fidelity against the number of images")
    drawing.text(24, 28, "98 % of n new images agree: at 95 % confidence, fidelity is at least …", "strong ink")
    counts = np.unique(np.round(np.geomspace(50, 20000, 60) / 50).astype(int) * 50)
    bounds = [float(beta.ppf(0.05, round(0.98 * n), n - round(0.98 * n) + 1)) for n in counts]

    def at(n: float, share: float) -> tuple[float, float]:
        return 70 + 600 * float(np.log(n / 50) / np.log(400)), 215 - 165 * (share - 0.88) / 0.12

    for share in (0.88, 0.9, 0.92, 0.94, 0.96, 0.98, 1.0):
        x, y = at(50, share)
        drawing.path([(x, y), (670, y)], "line")
        drawing.text(x - 8, y + 4, f"{100 * share:.0f} %", "quiet small end")
    drawing.path([at(50, 0.98), at(20000, 0.98)], "curve2")
    drawing.path([at(n, bound) for n, bound in zip(counts, bounds, strict=True)], "curve")
    for n in (50, 200, 1000, 5000, 20000):
        bound = float(beta.ppf(0.05, round(0.98 * n), n - round(0.98 * n) + 1))
        x, y = at(n, bound)
        drawing.text(x, 236, f"{n:,}", "quiet small mid")
        drawing.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="for"/>')
        drawing.text(
            x + (6 if n < 20000 else -6), y + 17, f"{100 * bound:.1f}", "ink small" + (" end" if n == 20000 else "")
        )
    drawing.text(670, 252, "n", "quiet small end")
    return drawing


def cue(x: np.ndarray, labels: np.ndarray) -> Drawing:
    """Draw how a corner is swapped between images of two classes, one of which bears a mark."""
    drawing = Drawing(230, "A corner is swapped with that of an image of another class")
    first, second = x[np.flatnonzero(labels == 3)[0]].copy(), x[np.flatnonzero(labels == 7)[0]].copy()
    first[[0, 1, 8, 9]] = 1.0
    swapped, other = first.copy(), second.copy()
    swapped[[0, 1, 8, 9]], other[[0, 1, 8, 9]] = second[[0, 1, 8, 9]], first[[0, 1, 8, 9]]
    corner = (0, 1, 8, 9)
    told = ("a 3 with a mark", "a 7", "the 3, with its corner", "the 7, with its corner")
    for place, (image, name) in enumerate(zip((first, second, swapped, other), told, strict=True)):
        left = 24 + 172 * place + 8 * (place > 1)
        picture(drawing, image, left, 50, 17, corner if place > 1 else ())
        drawing.text(left, 206, name, "ink small")
    drawing.text(376, 220, "does it still say 3?", "quiet small")
    drawing.text(548, 220, "does it come nearer to 3?", "quiet small")
    drawing.text(24, 28, "two images …", "strong ink")
    drawing.text(376, 28, "… and their copies, the corner swapped", "strong ink")
    return drawing


def main(folder: Path) -> None:
    """Write all figures."""
    x, labels, _, study, made = digits()
    drawn = {
        "features": features(),
        "contribution": contribution(x, labels, made),
        "pursuit": pursuit(made, study),
        "promise": promise(),
        "cue": cue(x, labels),
    }
    for name, drawing in drawn.items():
        drawing.save(folder / f"concept-{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
