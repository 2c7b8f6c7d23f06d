"""Figures of the lesson on the small promptable model: data in, `Figure` out, each with its words (``*_alt``)."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from desam_lite.study.chapters.click_lesson import MEASURES, Answer, Scene
from desam_lite.study.report.style import WIDTH, styled

_DPI = 110
_OBJECT, _ANSWER = "white", "#e69f00"
_CURVES = {
    "box": ("#0072b2", "o"),
    "best_of_three": ("#009e73", "s"),
    "clicks_3": ("#cc79a7", "^"),
    "clicks_8": ("#d55e00", "D"),
}


def scenes(shown: Sequence[Scene], contrasts: int) -> Figure:
    """Draw scenes, a column each, their contrasts below one another, the object outlined.

    Args:
        shown: Of `click_lesson.held_out_scenes`, each scene ``contrasts`` times.
        contrasts: Rows.
    """
    columns = len(shown) // contrasts
    with styled():
        figure = Figure((WIDTH, contrasts * WIDTH / columns + 0.3), dpi=_DPI, layout="constrained")
        axes = figure.subplots(contrasts, columns, squeeze=False)
        for number, scene in enumerate(shown):
            ax = axes[number % contrasts, number // contrasts]
            _picture(ax, scene)
            _outline(ax, scene.mask.numpy(), _ANSWER, "solid")
            if number % contrasts == 0:
                ax.set_title(scene.title.replace("synthetic ", ""), pad=3)
    return figure


def scenes_alt(shown: Sequence[Scene], contrasts: int) -> str:
    """Say what `scenes` shows."""
    areas = [f"{100 * float(scene.mask.float().mean()):.0f}" for scene in shown[::contrasts]]
    return (
        f"{len(areas)} synthetic scenes of random regions, each under {contrasts} unrelated contrasts, with one outlined object "
        f"that covers {', '.join(areas)} % of the picture."
    )


def answers(rows: Sequence[tuple[Scene, Sequence[Answer]]]) -> Figure:
    """Draw what a model answers: a scene per row, a prompt per column."""
    columns = len(rows[0][1])
    with styled():
        height = len(rows) * (WIDTH / columns + 0.38) + 0.1
        figure = Figure((WIDTH, height), dpi=_DPI, layout="constrained")
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for line, (scene, given) in zip(axes, rows, strict=True):
            for ax, answer in zip(line, given, strict=True):
                _picture(ax, scene)
                _outline(ax, answer.mask, _ANSWER, "solid")
                _outline(ax, scene.mask.numpy(), _OBJECT, (0, (2, 1.5)))
                for (x, y), inside in zip(answer.clicks, answer.inside, strict=True):
                    ax.plot(
                        x,
                        y,
                        "P" if inside else "X",
                        ms=6,
                        mfc="#56b4e9" if inside else "#d55e00",
                        mec="white",
                        mew=0.7,
                    )
                ax.set_title(answer.prompt, pad=3)
                ax.set_xlabel(f"IoU {answer.iou:.2f}", fontsize=8.5, color="#444444")
            line[0].set_ylabel(scene.title, fontsize=8.5)
    return figure


def answers_alt(rows: Sequence[tuple[Scene, Sequence[Answer]]]) -> str:
    """Say what `answers` shows."""
    said = [
        f"{scene.title}: {', '.join(f'{answer.prompt} {answer.iou:.2f}' for answer in given)}"
        for scene, given in rows
    ]
    return f"Pictures with the object (dashed white), the answer (solid) and the clicks; IoU per prompt. {'; '.join(said)}."


def curve(seen: pd.DataFrame, aims: Mapping[str, float]) -> Figure:
    """Draw how IoU on held-out pictures grew with the pictures seen, and what was aimed at (dotted).

    Args:
        seen: Of `click_lesson.curve`.
        aims: Measure to IoU.
    """
    with styled():
        figure = Figure((WIDTH, 3.0), layout="constrained")
        ax = figure.subplots()
        for name, (color, marker) in _CURVES.items():
            if name in seen:
                ax.plot(
                    seen["pictures"],
                    seen[name],
                    marker=marker,
                    ms=4,
                    lw=1.5,
                    color=color,
                    label=MEASURES[name],
                )
        for name, aim in aims.items():
            ax.axhline(aim, color=_CURVES[name][0], ls=":", lw=1.2)
        if "filled_box" in seen:
            level = seen["filled_box"].mean()
            ax.axhline(level, color="#767676", lw=1, ls="--", label=MEASURES["filled_box"])
        ax.set(xlabel="pictures seen", ylabel="IoU, held-out pictures", ylim=(0, 1))
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.grid(axis="y")
        figure.legend(loc="outside upper center", ncols=2, fontsize=8.5)
    return figure


def curve_alt(seen: pd.DataFrame, aims: Mapping[str, float]) -> str:
    """Say what `curve` shows."""
    first, last = seen.iloc[0], seen.iloc[-1]
    parts = [
        f"{MEASURES[name]} from {first[name]:.2f} to {last[name]:.2f}" for name in _CURVES if name in seen
    ]
    wanted = ", ".join(f"{MEASURES[name]} {aim:.2f}" for name, aim in aims.items())
    return (
        f"Curves of mean IoU between {first['pictures']:,.0f} and {last['pictures']:,.0f} pictures: {', '.join(parts)}. "
        f"Dotted: aims, {wanted}."
    )


def losses(history: pd.DataFrame) -> Figure:
    """Draw the losses of a short training over its steps, smoothed over a tenth of them."""
    named = {
        "first": "first answers",
        "second": "answers after clicks",
        "contrast": "features under two contrasts",
        "dense": "borders",
    }
    with styled():
        figure = Figure((WIDTH, 2.2), layout="constrained")
        axes = figure.subplots(1, len(named))
        for ax, (name, title) in zip(axes, named.items(), strict=True):
            smooth = history[name].rolling(max(1, len(history) // 10), min_periods=1).mean()
            ax.plot(history["step"], history[name], color="#bbbbbb", lw=0.6)
            ax.plot(history["step"], smooth, color="#0072b2", lw=1.6)
            ax.set_title(title.replace(" ", "\n", 1), fontsize=8.5)
            ax.set_xlabel("step", fontsize=8.5)
            ax.tick_params(labelsize=8)
    return figure


def losses_alt(history: pd.DataFrame) -> str:
    """Say what `losses` shows."""
    tenth = max(1, len(history) // 10)
    ends = [
        f"{name} from {history[name][:tenth].mean():.2f} to {history[name][-tenth:].mean():.2f}"
        for name in ("first", "second", "contrast", "dense")
    ]
    return f"Four losses over {len(history)} steps, means of the first and last tenth: {', '.join(ends)}."


def _picture(ax: Axes, scene: Scene) -> None:
    side = scene.picture.shape[-1]
    ax.imshow(
        scene.picture.numpy(),
        cmap="gray",
        vmin=0,
        vmax=255,
        extent=(0, side, side, 0),
        interpolation="nearest",
    )
    ax.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    ax.spines[:].set_visible(False)


def _outline(ax: Axes, mask: npt.NDArray[np.bool_], color: str, line: object) -> None:
    if not mask.any():
        return
    side = ax.get_xlim()[1]
    drawn = ax.contour(
        mask.astype(float), levels=[0.5], colors=[color], linestyles=[line], linewidths=1.4, origin="upper",
        extent=(0, side, side, 0),
    )  # fmt: skip
    drawn.set_path_effects([withStroke(linewidth=2.4, foreground=(0, 0, 0, 0.55))])
