"""Charts of the study: curves, rows of dots, heat maps. Frames go in, a described figure comes out.

One convention throughout: a colour and a marker per method, filled and solid in domain, open and dashed out of domain.
"""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
import seaborn.objects as so
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from desam_lite.study.report import style
from desam_lite.study.report.sentences import format_interval, say_range
from desam_lite.study.report.style import DescribedFigure

_COLUMNS = 3  # panels side by side
_FEW = 20  # points of a curve that are marked
_APART = 0.28  # of a row: between the marks of a row
_MOST_VECTORS = 1000  # more dots than this in a figure are an image in it: each takes 200 bytes of a page that has a limit
_CROWD = 50  # dots of a row are spread up and down at random
_NAME = 16  # characters of a row's name on one line, so that the axis keeps its room
_RC = (
    "axes",
    "figure",
    "font",
    "grid",
    "lines",
    "patch",
    "xtick",
    "ytick",
)  # what seaborn takes of our style
FACES = ("in domain", "out of domain")


def in_unit(frame: pd.DataFrame, metric: str = "dice") -> pd.DataFrame:
    """Return means and intervals in the unit of the metric's axis."""
    columns = [name for name in ("mean", "low", "high") if name in frame]
    return frame.assign(**{name: frame[name] * style.UNITS[metric].factor for name in columns})


def draw_curves(
    frame: pd.DataFrame,
    x: str,
    y: str = "mean",
    *,
    axes: tuple[str, str],
    panel: str = "",
    runs: str = "",
    faces: tuple[str, str] = FACES,
    colors: Mapping[str, str] | None = None,
    aims: Mapping[str, float] | None = None,
    limit: tuple[float, float] | None = None,
    height: float = 2.1,
) -> DescribedFigure:
    """Draw a curve per ``label`` and ``in_domain``, with a band where the frame has ``low`` and ``high``.

    Args:
        frame: A row per point; where ``x`` is text, its places are equally far apart.
        x: Column.
        y: Column.
        axes: What the axes are called.
        panel: Column; each of its values has a panel.
        runs: Column; each of its values has a thin line, and the curve is their median.
        faces: What filled and open marks stand for.
        colors: Of labels that are no methods.
        aims: Dotted levels, in the colour of their label.
        limit: Of y; without it, each panel has a scale of its own.
        height: Of a row of panels, in inches.
    """
    if frame.empty:
        return style.empty_figure()
    frame = _with_faces(frame)
    groups = frame.groupby(panel or np.zeros(len(frame)), sort=False)
    columns = 2 if groups.ngroups == 4 else min(_COLUMNS, groups.ngroups)
    few = frame[x].nunique() <= _FEW
    with style.styled():
        size = (style.WIDTH, height * -(-groups.ngroups // columns) + 0.6)
        figure = Figure(size, layout="constrained")
        plot = _start_plot(frame, x, y, colors)
        if {"low", "high"} <= set(frame):
            plot = plot.add(so.Band(alpha=0.13, edgewidth=0), ymin="low", ymax="high", legend=False)
        if runs:
            plot = plot.add(so.Lines(linewidth=0.6, alpha=0.3), group=runs, legend=False)
        look: dict[str, Any] = {"linestyle": "inside", "marker": "label", "fillcolor": "face"}
        line = so.Line(linewidth=1.8, pointsize=4.5 if few else 0)
        plot = plot.add(line, so.Agg("median"), legend=False, **look)
        plot = plot.facet(panel, wrap=columns).share(y=limit is not None) if panel else plot
        plot.label(x="", y=axes[1]).on(figure).plot()
        for ax in figure.axes:
            _finish_curves(ax, aims or {}, colors or {})
            if panel == "label":
                ax.title.set_color(style.method_color(ax.get_title()))
            ax.set_ylim(limit or (0, 1.05 * ax.dataLim.ymax))
        figure.supxlabel(axes[0], fontsize=9.5)
        handles = [] if panel == "label" else style.label_handles(frame["label"], colors, lines=True)
        handles += style.domain_handles(*faces, lines=True) if frame["inside"].nunique() > 1 else []
        style.add_legend(figure, handles)
    parts = {str(name) if panel else "": _say_curves(own, x, y, faces) for name, own in groups}
    return DescribedFigure(figure, style.describe(f"Curves of {axes[1]} over {axes[0]}", parts))


def _with_faces(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``inside``: whether marks are filled; where all are in domain, or all out of it, all are."""
    frame = frame.reset_index(drop=True)
    both = "in_domain" in frame and frame["in_domain"].nunique() > 1
    inside = frame["in_domain"].astype(bool) if both else pd.Series(True, frame.index)
    return frame.assign(inside=inside)


def _start_plot(frame: pd.DataFrame, x: str, y: str, colors: Mapping[str, str] | None) -> so.Plot:
    """Start a plot in our style: a colour per ``label``; marks may take markers from ``label`` and filling from ``face``."""
    shades = {label: (colors or {}).get(label) or style.method_color(label) for label in frame["label"]}
    markers = {label: style.method_marker(label) for label in frame["label"]}
    face = frame["label"].map(shades).where(frame["inside"], "white")
    theme = {name: value for name, value in rcParams.items() if name.startswith(_RC)}
    curve = frame["label"] + frame["inside"].astype(str)
    plot = so.Plot(frame.assign(face=face, curve=curve), x=x, y=y, color="label", group="curve").theme(theme)
    dashes = {True: "-", False: "--"}
    return plot.scale(color=shades, marker=markers, fillcolor=None, linestyle=dashes)


def _finish_curves(ax: Axes, aims: Mapping[str, float], colors: Mapping[str, str]) -> None:
    ax.set_title(ax.get_title(), fontweight="bold", fontsize=9.5)
    ax.grid(axis="y")
    ax.tick_params(labelsize=8)
    for label, level in aims.items():
        ax.axhline(level, color=colors.get(label, "#666666"), ls=":", lw=1.2)


def _say_curves(own: pd.DataFrame, x: str, y: str, faces: tuple[str, str]) -> str:
    """Say where each curve starts and ends, and its highest point where that lies between."""
    parts = []
    for (label, inside), rows in own.groupby(["label", "inside"], sort=False):
        curve = rows.groupby(x, sort=False)[y].median().dropna()
        if len(curve):
            values = {place: f"{value:.3g}" for place, value in curve.items()}
            first, last, top = values[curve.index[0]], values[curve.index[-1]], curve.idxmax()
            best = "" if values[top] in (first, last) else f" (highest {values[top]} at {top})"
            face = f" {faces[not inside]}" if own["inside"].nunique() > 1 else ""
            parts.append(f"{label}{face} {first} to {last}{best}")
    return " ".join(", ".join(parts).split())


def draw_rows(
    summary: pd.DataFrame,
    dots: pd.DataFrame | None = None,
    *,
    axis: str,
    row: str = "label",
    panel: str = "",
    faces: tuple[str, str] = FACES,
    colors: Mapping[str, str] | None = None,
    limit: tuple[float | None, float | None] = (-2, 100),
) -> DescribedFigure:
    """Draw a mark for each ``mean`` of a summary, with a line from its ``low`` to its ``high``, in rows.

    Args:
        summary: Has ``label``, ``mean``, ``low``, ``high``; a ``note`` stands at the right, else the mean where rows are labels.
        dots: More values (``label``, ``mean`` and the row), drawn small.
        axis: What the axis is called.
        row: Column; each of its values has a row.
        panel: Column; each of its values has a panel.
        faces: What filled and open marks stand for.
        colors: Of labels that are no methods.
        limit: Of the axis.
    """
    if summary.empty:
        return style.empty_figure()
    summary = _with_faces(summary)
    names, panels = list(dict.fromkeys(summary[row])), list(dict.fromkeys(summary[panel])) if panel else [""]
    large = _in_rows(summary, row, names)
    small = None if dots is None else _in_rows(_with_faces(dots), row, names)
    labels = list(large.drop_duplicates([row, "label"])["label"])
    with style.styled():
        figure = Figure((style.WIDTH, 1.4 + 0.62 * len(names)), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, name in zip(axes, panels, strict=True):
            _draw_marks(ax, large[large[panel] == name] if panel else large, small, colors)
            ax.set(title=name, xlabel=axis, ylabel="", xlim=limit, ylim=(len(names) - 0.45, -0.6))
            ax.grid(axis="x")
            ax.axvline(0, color="#666666", lw=1)
            ax.spines["left"].set_visible(False)
            ax.tick_params(axis="y", length=0)
        wrapped = ["\n".join(textwrap.fill(line, _NAME) for line in name.splitlines()) for name in names]
        axes[0].set_yticks(range(len(names)), wrapped)
        if row == "label" or "note" in large:
            beyond = {"transform": axes[-1].get_yaxis_transform(), "va": "center"}
            for mark in large.to_dict("records"):
                note = mark.get("note", f"{mark['mean']:.0f}")
                axes[-1].text(1.01, mark["place"], note, color=_shade(mark["label"], colors), **beyond)
        handles = []
        if len(labels) == len(names) and not colors:
            for tick, label in zip(axes[0].get_yticklabels(), labels, strict=True):
                tick.set(color=_shade(label, colors), fontweight="bold")
        else:
            handles = style.label_handles(
                [*large["label"], *([] if small is None else small["label"])], colors
            )
        handles += style.domain_handles(*faces) if large["inside"].nunique() > 1 else []
        style.add_legend(figure, handles)
    return DescribedFigure(figure, _say_rows(large, small, axis, row, panel, faces))


def _in_rows(frame: pd.DataFrame, row: str, names: list[str]) -> pd.DataFrame:
    """Return a frame with the ``place`` of its values: several labels of a row, or else filled and open, lie apart."""
    frame = frame[frame[row].isin(names)]
    apart = frame["label"] if frame.groupby(row)["label"].nunique().max() > 1 else ~frame["inside"]
    keys = list(dict.fromkeys(apart)) if row != "label" else [False, True][: frame["inside"].nunique()]
    middle = (len(keys) - 1) / 2
    offset = (apart.map(keys.index) - middle).to_numpy(float) * min(_APART, 0.6 / len(keys))
    if frame.groupby(row).size().max() > _CROWD:
        offset = np.random.default_rng(0).uniform(-_APART, _APART, len(frame))
    return frame.assign(place=frame[row].map(names.index) + offset)


def _draw_marks(
    ax: Axes, large: pd.DataFrame, small: pd.DataFrame | None, colors: Mapping[str, str] | None
) -> None:
    look = {"marker": "label", "legend": False}
    if small is not None:
        dots = so.Dots(pointsize=3.2, stroke=0, fillalpha=0.28)
        _start_plot(small, "mean", "place", colors).add(dots, **look).on(ax).plot()
        for drawn in ax.collections if len(small) > _MOST_VECTORS else ():
            drawn.set_rasterized(True)
    plot = _start_plot(large, "mean", "place", colors)
    plot = plot.add(so.Range(linewidth=2.2), orient="y", xmin="low", xmax="high", legend=False)
    plot.add(so.Dots(pointsize=6.5, stroke=1.8, fillalpha=1), fillcolor="face", **look).on(ax).plot()
    for order, drawn in enumerate(ax.collections, start=2):
        drawn.set_zorder(order)  # marks over the lines of their intervals


def _shade(label: str, colors: Mapping[str, str] | None) -> str:
    return (colors or {}).get(label) or style.method_color(label)


def _say_rows(
    marks: pd.DataFrame, dots: pd.DataFrame | None, axis: str, row: str, panel: str, faces: tuple[str, str]
) -> str:
    """Say every mean with its interval, and the range of the dots."""
    parts: dict[str, str] = {}
    for mark in marks.to_dict("records"):
        name = " ".join(dict.fromkeys([str(mark.get(panel, "")), mark[row], mark["label"]])).strip()
        face = f" {faces[not mark['inside']]}" if marks["inside"].nunique() > 1 else ""
        note = f", {mark['note']}" if "note" in mark else ""
        told = f"{format_interval(mark, 1, '.0f')}{face}{note}"
        parts[name] = f"{parts[name]}, {told}" if name in parts else told
    for own_row, own in dots.groupby(row)["mean"] if dots is not None and row != "label" else ():
        parts[f"dots of {own_row}"] = f"{own.min():.0f} to {own.max():.0f}"
    return style.describe(f"Rows of dots, {axis}", parts)


def draw_averages(summary: pd.DataFrame, cells: pd.DataFrame, *, metric: str = "dice") -> DescribedFigure:
    """Draw averages by label and in_domain with 95 % intervals; small dots are cells, averages by source and target too."""
    title = style.UNITS[metric].title
    note = f"small dots: one source on one target{style.oracle_note(summary['label'])}"
    limit = (-2, 100 if metric == "dice" else None)
    axis = f"{title}: mean and 95 % interval\n{note}"
    return draw_rows(in_unit(summary, metric), in_unit(cells, metric), axis=axis, limit=limit)


def draw_training(history: pd.DataFrame) -> DescribedFigure:
    """Draw the losses of `Run.history`, a panel and a scale per method: thin lines are runs, thick ones their median."""
    if history.empty:
        return style.empty_figure()
    losses = history.melt(["label", "source", "seed", "epoch"], ["train_loss", "val_loss"], "part", "loss")
    run = losses["source"] + losses["seed"].astype(str) + losses["part"]
    losses = losses.assign(run=run, in_domain=losses["part"] == "train_loss")
    look: dict[str, Any] = {"panel": "label", "runs": "run", "faces": ("training", "validation (source)")}
    return draw_curves(losses, "epoch", "loss", axes=("epoch", "loss"), **look)


def draw_calibration(table: pd.DataFrame) -> DescribedFigure:
    """Draw the observed share of ``inside`` and ``iou`` over the predicted ``score``, and over it the number of ``prompts``."""
    if table.empty:
        return style.empty_figure()
    shares = table.melt(["label", "score", "prompts"], ["inside", "iou"], "in_domain", "share")
    shares = _with_faces(shares.assign(in_domain=shares["in_domain"] == "inside"))
    with style.styled():
        figure = Figure((style.WIDTH, 3.2 if table["label"].nunique() > 1 else 3.8), layout="constrained")
        plot = _start_plot(shares, "score", "share", None).facet("label")
        plot = plot.add(so.Line(linewidth=1.2), legend=False)
        dots = so.Dots(marker="o", stroke=1.6, fillalpha=1)
        plot = plot.add(dots, pointsize="prompts", fillcolor="face", legend=False).scale(pointsize=(4, 10))
        plot = plot.label(x="predicted IoU", y="observed").limit(x=(-0.03, 1.03), y=(-0.03, 1.2))
        plot.on(figure).plot()
        for ax in figure.axes:
            ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--", zorder=0)
            ax.set_aspect("equal")
            ax.set_yticks(np.linspace(0, 1, 6))
            for row in table[table["label"] == ax.get_title()].to_dict("records"):
                ax.text(row["score"], 1.06, f"{row['prompts']:.0f}", rotation=90, ha="center", fontsize=7)
            ax.set_title(ax.get_title(), color=style.method_color(ax.get_title()), fontweight="bold")
        style.add_legend(figure, style.domain_handles("share of prompts in the organ", "IoU of their masks"))
    rows = table.astype({"label": str}).to_dict("records")
    parts = {
        f"{row['label']}, predicted {row['score']:.2f}": f"{row['prompts']:.0f} prompts, {row['inside']:.0%} in the organ, "
        f"IoU of the masks {row['iou']:.2f}"
        for row in rows
    }
    return DescribedFigure(figure, style.describe("Calibration of the IoU head", parts))


def draw_heatmaps(matrices: Mapping[str, pd.DataFrame], *, metric: str = "dice") -> DescribedFigure:
    """Draw a matrix of `statistics.score_matrix` per method, all on one scale; in-domain cells are framed, missing ones grey."""
    if not matrices:
        return style.empty_figure()
    title, factor = style.UNITS[metric]
    largest = np.nanmax(pd.concat(matrices.values()).to_numpy(float) * factor, initial=0.0) or 1.0
    top, cmap = (100.0, "viridis") if metric == "dice" else (largest, "viridis_r")
    columns = min(2, len(matrices))
    rows = -(-len(matrices) // columns)
    n_sources, n_targets = next(iter(matrices.values())).shape
    with style.styled():
        side = (style.WIDTH - 1.1) / columns / max(n_targets, 3)
        figure = Figure((style.WIDTH, rows * (side * n_sources + 0.75) + 0.7), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for ax in axes.flat[len(matrices) :]:
            ax.set_axis_off()
        for ax, (label, matrix) in zip(axes.flat, matrices.items(), strict=False):
            look = {"vmin": 0, "vmax": top, "cmap": cmap, "annot_kws": {"size": 9.5}, "linewidths": 1}
            sns.heatmap(matrix * factor, ax=ax, annot=True, fmt=".0f", square=True, cbar=False, **look)
            _mark_cells(ax, matrix)
            ax.set_title(label, color=style.method_color(label), fontweight="bold")
            ax.set(xlabel="target (tested on)", ylabel="source (trained on)" if ax in axes[:, 0] else "")
        cells = axes[0, 0].collections[0]
        bar = figure.colorbar(cells, ax=axes, location="bottom", shrink=0.55, aspect=32, pad=0.02)
        bar.set_label(f"{title}; framed: in domain")
        bar.outline.set_visible(False)
    parts = {}
    for label, matrix in matrices.items():
        inside = np.array([[row == column for column in matrix.columns] for row in matrix.index])
        home, away = (say_range(matrix.to_numpy(float)[cells] * factor) for cells in (inside, ~inside))
        parts[label] = f"{home} in domain, {away} out of domain"
    what = f"Heat maps of {title}, one per method, rows are sources and columns targets"
    return DescribedFigure(figure, style.describe(what, parts))


def _mark_cells(ax: Axes, matrix: pd.DataFrame) -> None:
    """Frame the cells in domain and put a dash into those without a score."""
    ax.set_facecolor("#e6e6e6")
    ax.tick_params(length=0, labelrotation=0)
    missing = matrix.isna().to_numpy()
    for y, source in enumerate(matrix.index):
        for x, target in enumerate(matrix.columns):
            if missing[y, x]:
                ax.text(x + 0.5, y + 0.5, "-", ha="center", va="center")
            if source == target:
                frame = Rectangle((x + 0.09, y + 0.09), 0.82, 0.82, fill=False, ec="black", lw=1.2)
                frame.set_path_effects(
                    [withStroke(linewidth=3.6, foreground="white")]
                )  # for dark and light cells
                ax.add_patch(frame)
