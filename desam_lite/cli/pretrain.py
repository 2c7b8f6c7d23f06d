"""``desam-lite pretrain``: train the small promptable model, go on with it, write its weights."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer


def pretrain(
    folder: Annotated[Path, typer.Argument(help="Folder of the run: checkpoint, log and weights.")],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps altogether.  [default: the recipe's]")
    ] = None,
    decay: Annotated[
        int | None, typer.Option(min=1, help="Last steps, over which the learning rate falls to 0.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Minutes of computing altogether, instead of steps; rate and sizes follow."
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Times the recipe's scenes per step: a GPU wants 16 or more.")
    ] = 1,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="[default: the recipe's]")] = None,
    contrast: Annotated[
        float | None, typer.Option(min=0, help="Weight of the loss across contrasts; 0 for the plain twin.")
    ] = None,
    dense: Annotated[
        float | None, typer.Option(min=0, help="Weight of the loss of borders; 0 for the plain twin.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Names initial weights and stream.")] = None,
    continue_from: Annotated[
        str | None,
        typer.Option(help="Weights to begin with: a file, or 'shipped'; give another --seed with it."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="[default: a GPU if there is one, else the CPU]")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the CPU.")] = 1,
    probe_every: Annotated[float, typer.Option(min=0, help="Minutes of computing between probes.")] = 5.0,
) -> None:
    """Train sam_tiny on synthetic scenes; called again with the same folder, goes on from the last checkpoint.

    Examples: desam-lite pretrain hour --minutes 60; its twin without the losses on features:
    desam-lite pretrain plain --minutes 60 --contrast 0 --dense 0
    """
    import torch

    from desam_lite.synthetic.pretraining.loop import run_pretraining, write_weights
    from desam_lite.synthetic.pretraining.recipe import LATER_SHARES, Recipe

    torch.set_num_threads(threads)
    given: dict[str, Any] = {"steps": steps, "decay": decay, "minutes": minutes, "seed": seed}
    given |= {"learning_rate": learning_rate, "contrast": contrast, "dense": dense}
    begun = Recipe(shares=LATER_SHARES) if continue_from else Recipe()
    begun = replace(begun, scenes=tuple(batch * count for count in begun.scenes))
    recipe = replace(begun, **{name: value for name, value in given.items() if value is not None})
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    run = run_pretraining(recipe, folder, where, continue_from=continue_from, probe_every=probe_every)
    weights = folder / f"{recipe.backbone}.safetensors"
    write_weights(run, weights, continue_from)
    typer.echo(f"{weights}: {run.images} images, {run.minutes:.0f} minutes, {run.step} steps")
