"""Where a training runs: one process on a CPU or a GPU, or several that share every batch."""

from typing import TYPE_CHECKING, Any

from desam_lite.utils.errors import StudyError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(accelerator: str = "auto", devices: int = 1, precision: str | None = None) -> "Fabric":
    """Return a launched Fabric for one process, one GPU or several, which then are a process each and share every batch.

    The accelerator is "auto" (a GPU if there is one), "cpu" or "gpu"; the precision Fabric's name of the number format.
    """
    from lightning_fabric import Fabric  # seconds to import: only a process that trains pays
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    # A box prompt trains no IoU head: some parameters get no gradient, which DDP must be told.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    number_format: Any = precision or "32-true"
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=number_format)
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise StudyError(
            f"{devices} device(s) of accelerator '{accelerator}' cannot be used here ({error}): "
            "see 'desam-lite info', or use accelerator 'cpu'."
        ) from error
    fabric.launch()
    return fabric
