"""The methods of this study, registered: what each is called, drawn like, made of. Importing this imports none of them."""

from desam_lite.methods.registry import DECODER, ENCODER, ON_UNET, PROMPTED, TRAINING, Choice, register

_HERE = "desam_lite.methods"
_GREY = "#767676"  # of oracles, which are no competitors

register(
    "prior",
    f"{_HERE}.prior:Prior",
    "Prior",
    uses=(),
    choices=[
        Choice(
            "prior", "the average training mask, drawn without looking at the scan: a control", "#6b6b6b", "o"
        )
    ],
)

_AUGMENTED = "the U-Net, its training slices changed at random:"
register(
    "unet",
    f"{_HERE}.unet:UNetMethod",
    "U-Net",
    uses=ON_UNET,
    choices=[
        Choice(
            "unet",
            "a plain convolutional network trained from scratch on the source {cite}`unet`",
            "#d55e00",
            "o",
        ),
        Choice(
            "unet_light",
            f"{_AUGMENTED} grey levels only",
            "#d55e00",
            "^",
            {"augmentation": "light"},
        ),
        Choice(
            "unet_aug",
            f"{_AUGMENTED} as much as nnU-Net does {{cite}}`nnunet`",
            "#d55e00",
            "v",
            {"augmentation": "nnunet"},
        ),
    ],
)


def _on_unet(name: str, kind: str, meaning: str, color: str, marker: str) -> None:
    """Register a way to train the U-Net that has no setting of its own."""
    choice = Choice(name, f"{meaning} {{cite}}`{name}`", color, marker)
    register(name, f"{_HERE}.{name}:{kind}", kind, uses=ON_UNET, choices=[choice])


_on_unet(
    "randconv",
    "RandConv",
    "the U-Net on slices seen through random convolutions, one answer for all of them",
    "#56b4e9",
    "s",
)
_on_unet(
    "mixstyle", "MixStyle", "the U-Net whose slices borrow each other's feature statistics", "#117733", "D"
)
_on_unet(
    "csdg",
    "CSDG",
    "the U-Net on slices seen through random shallow networks, two looks blended",
    "#999933",
    "P",
)
_on_unet(
    "advbias",
    "AdvBias",
    "the U-Net on slices under the shading that confuses it most",
    "#000000",
    "<",
)
_on_unet(
    "maxstyle",
    "MaxStyle",
    "the U-Net on slices redrawn in the style that confuses it most",
    "#332288",
    "h",
)

_TAKEN_AWAY = "DeSAM-P without its"
register(
    "desam",
    f"{_HERE}.desam:DeSAMMethod",
    {"points": "DeSAM-P", "box": "DeSAM-B"},
    uses=(*DECODER, "variant"),
    judges=True,
    choices=[
        Choice(
            "desam_b",
            "DeSAM {cite}`desam` with the whole image as box",
            "#0072b2",
            "o",
            {"prompt_mode": "box"},
        ),
        Choice(
            "desam_p", "DeSAM {cite}`desam` with a grid of points", "#009e73", "o", {"prompt_mode": "points"}
        ),
        Choice(
            "pdmm_only",
            "DeSAM without prompt: its PDMM alone",
            "#0072b2",
            "s",
            {"prompt_mode": "box", "variant": "pdmm_only"},
        ),
        Choice(
            "desam_p_no_iou_head",
            f"{_TAKEN_AWAY} judgement of points",
            "#009e73",
            "^",
            {"prompt_mode": "points", "variant": "no_iou_head"},
        ),
        Choice(
            "desam_p_no_fusion",
            f"{_TAKEN_AWAY} way from the prompt to the mask",
            "#009e73",
            "s",
            {"prompt_mode": "points", "variant": "no_fusion"},
        ),
        Choice(
            "desam_b_random",
            "DeSAM-B on an encoder that has never been trained: a control",
            fixed={"prompt_mode": "box", "weights": "random"},
        ),
        Choice(
            "desam_p_random",
            "DeSAM-P on an encoder that has never been trained: a control",
            fixed={"prompt_mode": "points", "weights": "random"},
        ),
    ],
)

_FITTING = "of its masks the one that fits the source's average mask best"
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
    judges=True,
    choices=[
        Choice(
            "sam_grid",
            f"SAM as it is {{cite}}`sam`, asked with a grid of points; {_FITTING}",
            "#882255",
            "o",
            {"prompt_mode": "points"},
        ),
        Choice(
            "sam_box",
            f"SAM as it is, asked with the whole image as box; {_FITTING}",
            "#cc6677",
            "o",
            {"prompt_mode": "box"},
        ),
        Choice(
            "sam_point_oracle",
            "SAM as it is, asked with the innermost point of the reference: an upper bound, no competitor",
            _GREY,
            "*",
            {"prompt_mode": "point_oracle"},
        ),
        Choice(
            "sam_box_oracle",
            "SAM as it is, asked with the tight box of the reference: an upper bound, no competitor",
            _GREY,
            "s",
            {"prompt_mode": "box_oracle"},
        ),
    ],
)

_TUNED = "SAM's own decoder tuned on the source {cite}`medsam`, the coupled model,"
register(
    "sam_finetuned",
    f"{_HERE}.sam_baselines:SAMFinetuned",
    {"points": "Tuned SAM-P", "box": "Tuned SAM-B", "box_oracle": "Tuned SAM tight box (oracle)"},
    uses=DECODER,
    judges=True,
    choices=[
        Choice(
            "sam_finetuned_b",
            f"{_TUNED} with the whole image as box",
            "#cc79a7",
            "o",
            {"prompt_mode": "box"},
        ),
        Choice(
            "sam_finetuned_p", f"{_TUNED} with a grid of points", "#aa4499", "o", {"prompt_mode": "points"}
        ),
        Choice(
            "sam_finetuned_oracle",
            "SAM's decoder tuned and asked with the tight box of the reference: an upper bound, no competitor",
            _GREY,
            "D",
            {"prompt_mode": "box_oracle"},
        ),
    ],
)

register(
    "samed",
    f"{_HERE}.samed:SAMed",
    "SAMed",
    uses=(*TRAINING, *ENCODER, "lora_rank"),
    choices=[
        Choice(
            "samed",
            "SAM with low-rank changes of its encoder and a tuned decoder, without prompt {cite}`samed`",
            "#a66f00",
            "p",
        )
    ],
)
