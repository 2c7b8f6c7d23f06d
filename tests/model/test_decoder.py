"""PRIM is SAM's mask decoder up to the masks; PDMM draws without biases; parts a variant does not use do not exist."""

import pytest
import torch
from small_model import MICRO, random_embeddings, sam_decoder
from torch import nn

from desam_lite.model.decoder import PDMM, PRIM, SqueezeResidualBlock


def make_prim(n_classes: int = 1, *, iou_head: bool = True) -> PRIM:
    torch.manual_seed(3)
    return PRIM(MICRO, n_classes, iou_head=iou_head).eval()


def make_pdmm(n_classes: int = 1, *, fusion: bool = True) -> PDMM:
    torch.manual_seed(4)
    return PDMM(MICRO, n_classes, fusion=fusion).eval()


def prompt_tokens(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positional encoding, sparse tokens and dense map of ``count`` prompts."""
    generator = torch.Generator().manual_seed(5)
    grid = (MICRO.grid, MICRO.grid)
    sparse = torch.randn(count, 2, MICRO.neck, generator=generator)
    dense = torch.randn(1, MICRO.neck, *grid, generator=generator).expand(count, -1, -1, -1)
    return torch.randn(1, MICRO.neck, *grid, generator=generator), sparse, dense


@torch.no_grad()
def test_prim_is_the_mask_decoder_of_segment_anything_up_to_the_masks() -> None:
    prim, sam = make_prim(), sam_decoder(MICRO).eval()
    sam.transformer.load_state_dict(prim.transformer.state_dict())
    sam.iou_token.load_state_dict(prim.iou_token.state_dict())
    sam.mask_tokens.load_state_dict(prim.mask_tokens.state_dict())
    assert prim.iou_head is not None
    sam.iou_prediction_head.load_state_dict(prim.iou_head.state_dict())
    updated: list[torch.Tensor] = []
    sam.transformer.register_forward_hook(lambda _m, _i, out: updated.append(out[1]))
    neck = random_embeddings().neck
    position, sparse, dense = prompt_tokens()
    _, expected = sam.predict_masks(neck, position, sparse, dense)
    embedding, iou = prim(neck, position, sparse, dense)
    torch.testing.assert_close(iou, expected[:, :1])
    torch.testing.assert_close(embedding.flatten(2).transpose(1, 2), updated[0])


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [1, 3, 6])
def test_prim_predicts_the_iou_of_every_organ(n_classes: int) -> None:
    embedding, iou = make_prim(n_classes)(random_embeddings().neck, *prompt_tokens())
    assert iou.shape == (3, n_classes)
    assert embedding.shape == (3, MICRO.neck, MICRO.grid, MICRO.grid)


@torch.no_grad()
def test_prim_without_head_gives_the_embedding_alone() -> None:
    prim, whole = make_prim(iou_head=False), make_prim()
    prim.load_state_dict(whole.state_dict(), strict=False)
    neck, tokens = random_embeddings().neck, prompt_tokens()
    embedding, iou = prim(neck, *tokens)
    assert iou is None
    assert torch.equal(embedding, whole(neck, *tokens)[0])


@torch.no_grad()
def test_a_prompt_has_the_same_answer_alone_and_among_others() -> None:
    prim, neck = make_prim(), random_embeddings().neck
    position, sparse, dense = prompt_tokens()
    embedding, iou = prim(neck, position, sparse, dense)
    for number in range(3):
        row = slice(number, number + 1)
        alone = prim(neck, position, sparse[row], dense[row])
        torch.testing.assert_close(alone[0], embedding[row])
        torch.testing.assert_close(alone[1], iou[row])


def test_pdmm_has_convolution_and_squeeze_weights_and_nothing_else() -> None:
    pdmm = make_pdmm()
    kinds = {type(m) for m in pdmm.modules() if list(m.parameters(recurse=False))}
    assert kinds == {nn.Conv2d, nn.ConvTranspose2d, nn.Linear}
    assert {name.rpartition(".")[2] for name, _ in pdmm.named_parameters()} == {"weight"}
    assert not list(pdmm.buffers())


@torch.no_grad()
def test_a_block_of_one_width_keeps_its_input_where_the_convolutions_are_silent() -> None:
    same, wider = SqueezeResidualBlock(16, 16), SqueezeResidualBlock(16, 32)
    for block in (same, wider):
        block.conv2.weight.zero_()
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(same(x), nn.functional.leaky_relu(x, 0.01))
    assert same.shortcut is None
    assert wider.shortcut is not None
    expected = nn.functional.leaky_relu(nn.InstanceNorm2d(32)(wider.shortcut(x)), 0.01)
    torch.testing.assert_close(wider(x), expected)


@torch.no_grad()
def test_squeeze_after_instance_norm_sees_zero_and_halves_every_channel_as_published() -> None:
    block, x = SqueezeResidualBlock(16, 16), torch.randn(2, 16, 6, 6)
    scale_seen: list[torch.Tensor] = []
    block.excite.register_forward_hook(lambda _m, _i, out: scale_seen.append(out.sigmoid()))
    block(x)
    torch.testing.assert_close(scale_seen[0], torch.full((2, 16), 0.5))


@torch.no_grad()
def test_contexts_go_from_the_deepest_level_at_the_coarsest_size_to_the_shallowest_at_the_finest() -> None:
    pdmm = make_pdmm()
    shallow, middle, deep = random_embeddings(2).levels
    context = pdmm.read_context((shallow, middle, deep))
    assert [tuple(m.shape) for m in context] == [(2, 48, 4, 4), (2, 32, 8, 8), (2, 16, 16, 16)]
    other = pdmm.read_context((torch.zeros_like(shallow), middle, deep))
    assert torch.equal(other.coarse, context.coarse)
    assert torch.equal(other.middle, context.middle)
    assert not torch.equal(other.fine, context.fine)


@torch.no_grad()
@pytest.mark.parametrize("n_classes", [1, 3])
def test_pdmm_draws_one_map_per_organ_at_four_times_the_grid(n_classes: int) -> None:
    context = make_pdmm().read_context(random_embeddings().levels)
    embedding = torch.randn(2, MICRO.neck, 4, 4)
    assert make_pdmm(n_classes)(context, embedding).shape == (2, n_classes, 16, 16)
    assert make_pdmm(n_classes, fusion=False)(context, None).shape == (1, n_classes, 16, 16)


@torch.no_grad()
def test_the_mask_embedding_changes_the_mask_it_is_fused_into() -> None:
    pdmm = make_pdmm()
    context = pdmm.read_context(random_embeddings().levels)
    drawn = pdmm(context, torch.randn(2, MICRO.neck, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert not torch.allclose(drawn[0], drawn[1], atol=1e-3)
