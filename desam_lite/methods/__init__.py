"""The compared methods under one roof: `METHODS` maps each name to what builds it from a specification."""

from collections.abc import Callable

from desam_lite.methods.base import Method, Predictor
from desam_lite.slices import CaseSlices
from desam_lite.spec import RunSpec

__all__ = ["METHODS", "Method", "Predictor"]


def _desam(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.backbones import build_model
    from desam_lite.inference import GridSettings
    from desam_lite.methods.desam import DeSAMMethod, IoULoss

    model = build_model(spec, n_organs)
    grid = GridSettings(
        points_per_side=spec.points_per_side or 1,
        iou_threshold=spec.iou_threshold or 0.0,
        stability_threshold=spec.stability_threshold or 0.0,
        min_area=spec.min_area or 0,
    )
    assert spec.prompt_mode is not None
    judge = IoULoss(spec.iou_loss or "l1", spec.iou_weight or 1.0)
    return DeSAMMethod(model, spec.prompt_mode, grid, judge)


def _unet(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.methods.unet import UNetMethod

    assert spec.unet_width is not None
    assert spec.unet_size is not None
    return UNetMethod(n_organs, spec.unet_width, spec.unet_size, spec.seed)


def _prior(spec: RunSpec, n_organs: int, cases: list[CaseSlices]) -> Predictor:
    from desam_lite.methods.prior import Prior

    return Prior(cases, n_organs)


METHODS: dict[str, Callable[[RunSpec, int, list[CaseSlices]], Predictor]] = {
    "desam": _desam,
    "unet": _unet,
    "prior": _prior,
}
"""Name of a method to what builds it: from the specification, the number of organs and the training cases."""
