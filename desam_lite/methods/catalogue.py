"""The methods of this study, registered: one row per name by which runs are chosen. Importing this imports none of them."""

from desam_lite.methods.registry import DECODER, ENCODER, ON_UNET, PROMPTED, TRAINING, Choice, register

_HERE = "desam_lite.methods"
_POINTS, _BOX = {"prompt_mode": "points"}, {"prompt_mode": "box"}
_POINT_ORACLE, _BOX_ORACLE = {"prompt_mode": "point_oracle"}, {"prompt_mode": "box_oracle"}
_ORACLE_GREY = "#767676"  # oracles are no competitors

_PRIOR = Choice("prior", "the mean training mask, the same for every scan: a control", "#6b6b6b")
register("prior", f"{_HERE}.prior:Prior", "Prior", uses=(), choices=[_PRIOR])

_LIGHT, _NNUNET = {"augmentation": "light"}, {"augmentation": "nnunet"}
_RANDOMISED, _SYNTHETIC = {"augmentation": "random"}, {"augmentation": "synthetic"}
_AS_STREAM = "with the random appearances that `sam_tiny` was trained on"
_OF_LABELS = "images of random contrast made of the source's label maps {cite}`synthseg`"
_AUGMENTED_UNET = "the U-Net, its training slices augmented"
register(
    "unet",
    f"{_HERE}.unet:UNetMethod",
    "U-Net",
    uses=ON_UNET,
    choices=[
        Choice("unet", "a U-Net trained from scratch on the source {cite}`unet`", "#d55e00"),
        Choice("unet_light", f"{_AUGMENTED_UNET} in intensity only", "#d55e00", "^", _LIGHT),
        Choice("unet_aug", f"{_AUGMENTED_UNET} as nnU-Net does {{cite}}`nnunet`", "#d55e00", "v", _NNUNET),
        Choice("unet_random", f"{_AUGMENTED_UNET} {_AS_STREAM}: a control", "#d55e00", "s", _RANDOMISED),
        Choice("unet_synth", f"the U-Net on {_OF_LABELS}: a control", "#d55e00", "D", _SYNTHETIC),
    ],
)
for _class, _color, _marker, _meaning in (
    ("RandConv", "#56b4e9", "s", "trained for equal predictions on randomly convolved slices"),
    ("MixStyle", "#117733", "D", "feature statistics mixed between slices"),
    ("CSDG", "#999933", "P", "slices passed through random shallow networks, two results blended"),
    ("AdvBias", "#000000", "<", "trained on adversarial bias fields"),
    ("MaxStyle", "#332288", "h", "trained on adversarial styles"),
    ("SLAug", "#44aa99", "X", "random intensities for each class, fewer where the loss is sensitive"),
):
    _name = _class.lower()
    _ROW = Choice(_name, f"the U-Net, {_meaning} {{cite}}`{_name}`", _color, _marker)
    register(_name, f"{_HERE}.{_name}:{_class}", _class, uses=ON_UNET, choices=[_ROW])

_PDMM_ONLY, _NO_IOU_HEAD = {"variant": "pdmm_only"}, {"variant": "no_iou_head"}
_NO_FUSION, _RANDOM = {"variant": "no_fusion"}, {"weights": "random"}
_NOT_FUSED = "its PDMM without PRIM's mask embedding"
_UNTRAINED = "an untrained encoder: a control"
register(
    "desam",
    f"{_HERE}.desam:DeSAMMethod",
    {"points": "DeSAM-P", "box": "DeSAM-B"},
    uses=(*DECODER, "variant"),
    predicts_iou=True,
    choices=[
        Choice("desam_b", "DeSAM {cite}`desam` with the whole image as box", "#0072b2", "o", _BOX),
        Choice("desam_p", "DeSAM {cite}`desam` with a grid of points", "#009e73", "o", _POINTS),
        Choice("pdmm_only", "DeSAM without prompt: its PDMM alone", "#0072b2", "s", _BOX | _PDMM_ONLY),
        Choice("desam_p_no_iou_head", "DeSAM-P without IoU head", "#009e73", "^", _POINTS | _NO_IOU_HEAD),
        Choice("desam_p_no_fusion", f"DeSAM-P, {_NOT_FUSED}", "#009e73", "s", _POINTS | _NO_FUSION),
        Choice("desam_b_random", f"DeSAM-B on {_UNTRAINED}", fixed=_BOX | _RANDOM),
        Choice("desam_p_random", f"DeSAM-P on {_UNTRAINED}", fixed=_POINTS | _RANDOM),
    ],
)

_SAM = "SAM as it is {cite}`sam`"
_NEAREST = "of its masks the one nearest to the source's mean mask"
_INNERMOST = "the innermost point of the reference: no competitor"
_TIGHT_BOX = "the tight box of the reference: no competitor"
register(
    "sam_zero_shot",
    f"{_HERE}.sam_baselines:SAMZeroShot",
    {
        "points": "SAM grid",
        "box": "SAM box",
        "point_oracle": "SAM point (oracle)",
        "box_oracle": "SAM tight box (oracle)",
    },
    uses=PROMPTED,
    predicts_iou=True,
    choices=[
        Choice("sam_grid", f"{_SAM}, with a grid of points: {_NEAREST}", "#882255", "o", _POINTS),
        Choice("sam_box", f"{_SAM}, with the whole image as box: {_NEAREST}", "#cc6677", "o", _BOX),
        Choice("sam_point_oracle", f"{_SAM}, with {_INNERMOST}", _ORACLE_GREY, "*", _POINT_ORACLE),
        Choice("sam_box_oracle", f"{_SAM}, with {_TIGHT_BOX}", _ORACLE_GREY, "s", _BOX_ORACLE),
    ],
)

_HANDED = "SAM as it is {cite}`sam_parallel`, prompted with the box of the U-Net's mask"
_ROW = Choice("unet_box", _HANDED, "#882255", ">")
_USES: tuple[str, ...] = (*ON_UNET, *ENCODER, "embedding_format")
register("unet_box", f"{_HERE}.unet_box:UNetBox", "U-Net box in SAM", uses=_USES, choices=[_ROW])

_TUNED_SAM = "SAM's own decoder tuned on the source {cite}`medsam`, the coupled model,"
_OF_BOX, _OF_POINTS = f"{_TUNED_SAM} with the whole image as box", f"{_TUNED_SAM} with a grid of points"
_BY_POINTS, _BY_BOX = _BOX | {"test_prompt": "points"}, _POINTS | {"test_prompt": "box"}
register(
    "sam_finetuned",
    f"{_HERE}.sam_baselines:SAMFinetuned",
    {"points": "Tuned SAM-P", "box": "Tuned SAM-B", "box_oracle": "Tuned SAM tight box (oracle)"},
    uses=DECODER,
    predicts_iou=True,
    choices=[
        Choice("sam_finetuned_b", _OF_BOX, "#cc79a7", "o", _BOX),
        Choice("sam_finetuned_p", _OF_POINTS, "#aa4499", "o", _POINTS),
        Choice("sam_finetuned_b_points", f"{_OF_BOX}, tested with points", "#cc79a7", "s", _BY_POINTS),
        Choice("sam_finetuned_p_box", f"{_OF_POINTS}, tested with that box", "#aa4499", "s", _BY_BOX),
        Choice("sam_finetuned_oracle", f"{_TUNED_SAM} with {_TIGHT_BOX}", _ORACLE_GREY, "D", _BOX_ORACLE),
    ],
)

_SAMED = "SAM with low-rank changes of its encoder and a tuned decoder, without prompt {cite}`samed`"
_ROW, _USES = Choice("samed", _SAMED, "#a66f00", "p"), (*TRAINING, *ENCODER, "mask_loss", "lora_rank")
register("samed", f"{_HERE}.samed:SAMed", "SAMed", uses=_USES, choices=[_ROW])

_DAPSAM = "SAM with adapters in its encoder, and a prompt from learned prototypes {cite}`dapsam`"
_ROW, _USES = Choice("dapsam", _DAPSAM, "#661100", "H"), (*TRAINING, *ENCODER, "mask_loss")
register("dapsam", f"{_HERE}.dapsam:DAPSAM", "DAPSAM", uses=_USES, choices=[_ROW])

register("masks", f"{_HERE}.masks:ToolMasks", "masks of another tool", uses=("tool",), choices=[])
