"""Training slices: which there are, that pictures, masks and embeddings of a batch belong together, wherever they are held."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from desam_lite.data.datasets import (
    Batch,
    EmbeddingData,
    Placement,
    SliceData,
    SliceRef,
    list_slices,
    organ_maps,
    standardise,
)
from desam_lite.data.embeddings import EmbeddingStore
from desam_lite.data.tasks import Task
from desam_lite.model.prompts import Prompts
from desam_lite.model.resize import fit_square
from desam_lite.utils.errors import StudyError

CPU = torch.device("cpu")


def labels_of(task: Task, ref: SliceRef) -> np.ndarray:
    return task.slices.load(ref.domain, ref.case).labels[ref.row]


def embedded(store: EmbeddingStore, refs: list[SliceRef], placement: Placement = "memory") -> EmbeddingData:
    return EmbeddingData(store, refs, 1, size=16, square=32, device=CPU, placement=placement)


def test_rules_choose_slices_by_their_labels(task: Task) -> None:
    every = list_slices(task.slices, "A", ["A0", "A1"], "all")
    assert [(r.case, r.row) for r in every] == [(c, z) for c in ("A0", "A1") for z in range(6)]
    drawn = [r for r in every if labels_of(task, r).any()]
    assert 4 < len(drawn) < 12
    assert list_slices(task.slices, "A", ["A0", "A1"], "foreground") == drawn
    last = {case: max(r.row for r in drawn if r.case == case) for case in ("A0", "A1")}
    assert list_slices(task.slices, "A", ["A0", "A1"], "published") == [
        r for r in drawn if r.row != last[r.case]
    ]


def test_a_domain_too_small_to_validate_on_is_named(task: Task) -> None:
    with pytest.raises(StudyError, match=r"domain A has no case left .* two patients or more"):
        list_slices(task.slices, "A", [], "all")


def test_cases_of_which_no_slice_counts_are_named(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    case = task.slices.load("A", "A0")
    blank = replace(case, labels=np.zeros_like(case.labels))
    monkeypatch.setattr(task.slices, "load", lambda *_: blank)
    with pytest.raises(StudyError, match=r"no slice of A \(A0\) is selected by the rule 'foreground'"):
        list_slices(task.slices, "A", ["A0"], "foreground")


def test_a_batch_of_slices_holds_each_slice_with_its_own_mask(task: Task) -> None:
    refs = list_slices(task.slices, "A", ["A0", "A2"], "foreground")
    rows = np.array([len(refs) - 1, 0, 3])
    data = SliceData(task.slices, refs, 1, 40)
    batch = data.batch(rows)
    assert len(data) == len(refs)
    assert batch.embeddings is None and batch.images is not None
    assert batch.cases == tuple(refs[r].case for r in rows)
    assert (
        batch.sizes == ((40, 32),) * 3
    )  # the slices are 40 x 32: nothing is resampled, 8 columns are padding
    for number, row in enumerate(rows):
        ref = refs[row]
        volume = task.slices.load(ref.domain, ref.case).images.astype(np.float64)
        expected = (volume[ref.row] - volume.mean()) / volume.std()
        np.testing.assert_allclose(batch.images[number, 0, :, :32].numpy(), expected, atol=1e-5)
        np.testing.assert_array_equal(batch.masks[number, 0, :, :32].numpy(), labels_of(task, ref) == 1)
    assert batch.images[..., 32:].abs().sum() == batch.masks[..., 32:].sum() == 0


@pytest.mark.parametrize("placement", ["memory", "disk", "device"])
def test_a_batch_of_embeddings_is_that_of_its_slices_wherever_it_is_held(
    placement: Placement, task: Task, store: EmbeddingStore
) -> None:
    refs = [
        *list_slices(task.slices, "A", ["A1"], "all"),
        *list_slices(task.slices, "B", ["B0"], "published"),
    ]
    rows = np.array([len(refs) - 1, 2, 0, 5])
    data = embedded(store, refs, placement)
    batch = data.batch(rows)
    assert (data.held is None) is (placement == "disk")
    assert batch.images is None and batch.embeddings is not None
    for number, row in enumerate(rows):
        ref = refs[row]
        alone = store.load(ref.domain, ref.case, [ref.row])
        assert torch.equal(batch.embeddings.neck[number], alone.neck[0])
        for found, expected in zip(batch.embeddings.levels, alone.levels, strict=True):
            assert torch.equal(found[number], expected[0])
        drawn = fit_square(organ_maps(labels_of(task, ref)[None], 1), 32)[0, 0]
        covered = drawn.unflatten(0, (16, 2)).unflatten(2, (16, 2)).mean((1, 3))  # of four pixels
        assert batch.masks[number].min() >= 0 and batch.masks[number].max() <= 1
        assert ((batch.masks[number, 0] - covered).abs() < 0.3).all()
        assert batch.masks[number].any() == bool(labels_of(task, ref).any())
    assert batch.sizes == ((16, 13),) * 4
    assert batch.cases == tuple(refs[r].case for r in rows)


@pytest.mark.parametrize("kind", ["slices", "memory"])
def test_slices_listed_in_any_order_keep_their_masks(kind: str, task: Task, store: EmbeddingStore) -> None:
    ordered = list_slices(task.slices, "A", ["A0", "A1"], "all")
    mixed = [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))]
    data = SliceData(task.slices, mixed, 1, 40) if kind == "slices" else embedded(store, mixed)
    plain = SliceData(task.slices, ordered, 1, 40) if kind == "slices" else embedded(store, ordered)
    batch = data.batch(np.arange(len(mixed)))
    assert sorted(map(str, data.refs)) == sorted(map(str, mixed))
    same = plain.batch(np.array([ordered.index(ref) for ref in data.refs]))
    assert batch.cases == same.cases
    assert torch.equal(batch.masks, same.masks)
    for mine, other in ((batch.images, same.images), (batch.embeddings, same.embeddings)):
        assert (mine is None) is (other is None)
    if batch.images is not None and same.images is not None:
        assert torch.equal(batch.images, same.images)
    if batch.embeddings is not None and same.embeddings is not None:
        assert torch.equal(batch.embeddings.neck, same.embeddings.neck)


def test_maps_go_where_they_fit(task: Task, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = list_slices(task.slices, "A", ["A0", "A1"], "all")
    maps = store.load("A", "A0", [0])
    needed = 12 * 4 * (maps.neck.numel() + sum(level.numel() for level in maps.levels))
    monkeypatch.setattr(EmbeddingData, "_hold", lambda *_: None)

    def chosen(device: str, memory: float, graphics: float = 0) -> str:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=memory))
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (graphics, 2 * graphics))
        where = torch.device(device)
        return EmbeddingData(store, refs, 1, size=16, square=32, device=where).placement

    enough, short = 2 * needed + 2, 2 * needed - 2
    assert chosen("cpu", memory=enough) == "memory"
    assert chosen("cpu", memory=short) == "disk"
    assert chosen("cuda", memory=0, graphics=enough) == "device"
    assert chosen("cuda", memory=enough, graphics=short) == "memory"
    assert chosen("cuda", memory=short, graphics=short) == "disk"


def test_every_organ_has_a_map_of_its_own() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (2, 5, 6)).astype(np.uint8)
    maps = organ_maps(labels, 3)
    assert maps.shape == (2, 3, 5, 6)
    for organ in range(3):
        np.testing.assert_array_equal(maps[:, organ].numpy(), (labels == organ + 1).astype(np.float32))


def test_a_standardised_volume_has_mean_zero_and_deviation_one() -> None:
    volume = np.random.default_rng(0).integers(0, 256, (3, 20, 20)).astype(np.uint8)
    found = standardise(volume)
    assert (found.mean(), found.std()) == (pytest.approx(0, abs=1e-5), pytest.approx(1, abs=1e-5))
    assert np.isfinite(standardise(np.full((2, 3, 3), 7, np.uint8))).all()


def test_a_batch_moves_as_a_whole_and_in_full_precision(task: Task, store: EmbeddingStore) -> None:
    batch = embedded(store, list_slices(task.slices, "A", ["A0"], "all")).batch(np.array([1, 2]))
    assert batch.embeddings is not None
    half = replace(
        batch,
        embeddings=batch.embeddings.to(dtype=torch.float16),
        prompts=Prompts.points(torch.ones(2, 1, 2), torch.ones(2, 1)),
        iou_targets=torch.ones(2, 1, dtype=torch.float64),
    )
    moved: Batch = half.to(torch.device("meta"))
    assert moved.embeddings is not None and moved.prompts is not None and moved.iou_targets is not None
    tensors = [moved.masks, moved.embeddings.neck, *moved.embeddings.levels, moved.iou_targets]
    assert {(t.device.type, t.dtype) for t in tensors} == {("meta", torch.float32)}
    assert moved.prompts.xy is not None and moved.prompts.xy.device.type == "meta"
    assert moved.images is None and moved.cases == batch.cases
