"""Curves over epochs, points, scores and dials: frames in, `Figure` out; siblings ``*_alt`` tell what is in them."""

import pandas as pd
import seaborn.objects as so
from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from desam_lite.study.report import style
from desam_lite.study.report.sentences import count

_DASHES = {True: "-", False: "--"}  # in domain, out of domain
_LOSS_NAMES = {"train_loss": "training", "val_loss": "validation"}
_COLUMNS = 3  # panels side by side
_RC = (
    "axes",
    "figure",
    "font",
    "grid",
    "lines",
    "patch",
    "xtick",
    "ytick",
)  # what seaborn takes from our style


def start_plot(frame: pd.DataFrame, x: str, y: str, **variables: str) -> so.Plot:
    """Start a plot in our style: a colour per ``label``; marks may take markers from ``label`` and filling from ``face``."""
    inside = frame["in_domain"].astype(bool) if "in_domain" in frame else pd.Series(True, frame.index)
    face = frame["label"].map(style.method_color).where(inside, "white")
    frame = frame.assign(face=face, curve=frame["label"] + inside.astype(str))
    colors = {label: style.method_color(label) for label in frame["label"]}
    markers = {label: style.method_marker(label) for label in frame["label"]}
    theme = {name: value for name, value in rcParams.items() if name.startswith(_RC)}
    plot = so.Plot(frame, x=x, y=y, color="label", group="curve", **variables).theme(theme)
    return plot.scale(color=colors, marker=markers, fillcolor=None)


def _draw_means(summary: pd.DataFrame, x: str, **variables: str) -> so.Plot:
    """Return curves of means in percent, in bands of their 95 % intervals."""
    percent = summary.assign(**{name: summary[name] * 100 for name in ("mean", "low", "high")})
    plot = start_plot(percent, x, "mean", **variables).label(y="Dice (%)").limit(y=(0, 100))
    plot = plot.add(so.Band(alpha=0.13, edgewidth=0), ymin="low", ymax="high", legend=False)
    return plot.add(so.Line(linewidth=1.8, pointsize=4.5), marker="label", fillcolor="face", legend=False)


def draw_training(history: pd.DataFrame) -> Figure:
    """Draw the losses of `Run.history`, a panel and a scale per method: thin lines are runs, thick ones their median."""
    if history.empty:
        return style.empty_figure()
    losses = history.melt(["label", "source", "seed", "epoch"], list(_LOSS_NAMES), "part", "loss")
    losses["run"] = losses["source"] + losses["seed"].astype(str)
    panels = history["label"].nunique()
    columns = min(_COLUMNS, panels)
    median = so.Line(linewidth=2, marker="o" if history["epoch"].nunique() == 1 else "")
    epochs = so.Continuous().tick(MaxNLocator(5, integer=True, min_n_ticks=1))
    with style.styled():
        figure = Figure((style.WIDTH, 2.1 * -(-panels // columns) + 0.45), layout="constrained")
        plot = (
            start_plot(losses, "epoch", "loss", linestyle="part").facet("label", wrap=columns).share(y=False)
        )
        plot = plot.add(so.Lines(linewidth=0.6, alpha=0.3), group="run", legend=False)
        plot = plot.add(median, so.Agg("median"), legend=False)
        plot.scale(linestyle={"train_loss": "-", "val_loss": "--"}, x=epochs).on(figure).plot()
        for ax in figure.axes:
            ax.set_title(ax.get_title(), color=style.method_color(ax.get_title()), fontweight="bold")
            ax.set_ylim(0, 1.05 * ax.dataLim.ymax)
            ax.grid(axis="y")
        parts = [style.grey_handle("training"), style.grey_handle("validation (source)", ls="--")]
        style.add_legend(figure, parts)
    return figure


def draw_training_alt(history: pd.DataFrame) -> str:
    """Tell what `draw_training` shows: where the median losses start and end."""
    if history.empty:
        return style.EMPTY_ALT
    parts = []
    for label, rows in history.rename(columns=_LOSS_NAMES).groupby("label", sort=False):
        ends = rows.groupby("epoch")[list(_LOSS_NAMES.values())].median().iloc[[0, -1]]
        moves = [f"{name} loss from {ends[name].iloc[0]:.2f} to {ends[name].iloc[1]:.2f}" for name in ends]
        runs = count(len(rows[["source", "seed"]].drop_duplicates()), "run")
        parts.append(f"{label} ({runs}) median {', '.join(moves)}")
    return f"Training curves over {count(history['epoch'].nunique(), 'epoch')}: {'; '.join(parts)}."


def draw_grid_curves(dice: pd.DataFrame, seconds: pd.DataFrame) -> Figure:
    """Draw means by label, in_domain and points, and seconds per slice by label and points, over the number of points."""
    if dice.empty:
        return style.empty_figure()
    ticks = sorted(set(dice["points"].astype(int)))
    with style.styled():
        figure = Figure((style.WIDTH, 3.3), layout="constrained")
        axes = figure.subplots(1, 2, width_ratios=(1.35, 1))
        means = _draw_means(dice, "points", linestyle="in_domain").scale(linestyle=_DASHES)
        cost = start_plot(seconds, "points", "seconds").label(y="seconds per slice").limit(y=(0, None))
        cost = cost.add(so.Line(linewidth=1.8, pointsize=5), marker="label", legend=False)
        for ax, plot in zip(axes, (means, cost), strict=True):
            plot.scale(x="log").label(x="points per slice").on(ax).plot()
            ax.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8, rotation=45)
            ax.minorticks_off()
            ax.grid(axis="y")
        methods = style.method_handles(dice["label"], lines=True)
        style.add_legend(figure, [*methods, *style.domain_handles(lines=True)])
    return figure


def draw_grid_curves_alt(dice: pd.DataFrame, seconds: pd.DataFrame) -> str:
    """Tell what `draw_grid_curves` shows: each curve's first, best and last value, and the cost at both ends."""
    if dice.empty:
        return style.EMPTY_ALT
    parts = []
    for (label, inside), rows in dice.groupby(["label", "in_domain"], sort=False):
        means = rows.set_index("points")["mean"]
        told, best = (means * 100).map("{:.0f}".format), int(means.fillna(-1).to_numpy().argmax())
        parts.append(
            f"{label} {'in' if inside else 'out of'} domain {told.iloc[0]} with {told.index[0]}, "
            f"{told.iloc[best]} at best with {told.index[best]}, {told.iloc[-1]} with {told.index[-1]}"
        )
    for label, rows in seconds.sort_values("points").groupby("label", sort=False):
        ends = [
            f"{row['seconds']:.3f} s per slice with {row['points']}"
            for row in rows.iloc[[0, -1]].to_dict("records")
        ]
        parts.append(f"{label!s} {' and '.join(ends)}")
    return f"Curves of Dice (%) and cost over the number of points: {'; '.join(parts)}."


def draw_calibration(table: pd.DataFrame) -> Figure:
    """Draw bins of the predicted IoU (`prompt_maps.calibration`), a panel per label; the larger a marker, the more prompts."""
    if table.empty:
        return style.empty_figure()
    panels = table["label"].nunique()
    shares = table.melt(["label", "score", "prompts"], ["inside", "iou"], "in_domain", "share")
    shares["in_domain"] = shares["in_domain"] == "inside"  # the share in the organ is filled, the IoU open
    with style.styled():
        figure = Figure((style.WIDTH, 3.2 if panels > 1 else 3.8), layout="constrained")
        plot = start_plot(shares, "score", "share").facet("label").add(so.Line(linewidth=1.2), legend=False)
        dots = so.Dots(marker="o", stroke=1.6, fillalpha=1)
        plot = plot.add(dots, pointsize="prompts", fillcolor="face", legend=False).scale(pointsize=(4, 10))
        plot.label(x="predicted IoU", y="what is so").limit(x=(-0.03, 1.03), y=(-0.03, 1.03)).on(
            figure
        ).plot()
        for ax in figure.axes:
            ax.plot([0, 1], [0, 1], color="#999999", lw=1, ls="--", zorder=0)
            ax.set_aspect("equal")
            ax.set_title(ax.get_title(), color=style.method_color(ax.get_title()), fontweight="bold")
        style.add_legend(figure, style.domain_handles("share of prompts in the organ", "IoU of their masks"))
    return figure


def draw_calibration_alt(table: pd.DataFrame) -> str:
    """Tell what `draw_calibration` shows: the lowest and the highest bin of each label."""
    if table.empty:
        return style.EMPTY_ALT
    parts = []
    for label, rows in table.groupby("label", sort=False):
        ends = [
            f"at predicted {row['score']:.2f} ({row['prompts']:.0f} prompts) {row['inside']:.0%} lie in the organ and "
            f"the masks have IoU {row['iou']:.2f}"
            for row in rows.iloc[[0, -1]].drop_duplicates().to_dict("records")
        ]
        parts.append(f"{label}: {', '.join(ends)}")
    return f"Calibration of the IoU head: {'; '.join(parts)}."


def draw_dial_curves(summary: pd.DataFrame) -> Figure:
    """Draw means by label, dial and position over the position, a panel per dial."""
    if summary.empty:
        return style.empty_figure()
    rows = -(-summary["dial"].nunique() // _COLUMNS)
    named = summary.assign(dial=summary["dial"].str.replace("_", " "))
    with style.styled():
        figure = Figure((style.WIDTH, 1.75 * rows + 0.6), layout="constrained")
        plot = _draw_means(named, "position").facet("dial", wrap=_COLUMNS).label(x="")
        plot.scale(x=so.Continuous().tick(at=[0, 0.5, 1])).limit(x=(-0.05, 1.05)).on(figure).plot()
        for ax in figure.axes:
            ax.grid(axis="y")
        figure.supxlabel("position of the dial", fontsize=9.5)
        style.add_legend(figure, style.method_handles(summary["label"], lines=True))
    return figure


def draw_dial_curves_alt(summary: pd.DataFrame) -> str:
    """Tell what `draw_dial_curves` shows: where each curve starts and ends."""
    if summary.empty:
        return style.EMPTY_ALT
    parts = []
    for dial, rows in summary.groupby("dial", sort=False):
        means = (rows["mean"] * 100).map("{:.0f}".format).groupby(rows["label"], sort=False)
        moves = [f"{label} {own.iloc[0]} to {own.iloc[-1]}" for label, own in means]
        parts.append(f"{str(dial).replace('_', ' ')}: {', '.join(moves)}")
    return f"Curves of Dice (%) from dial position 0 to the last: {'; '.join(parts)}."
