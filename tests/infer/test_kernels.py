"""Laws of the kernels of `infer`: what is conserved, what changes nothing, what is found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from lensfinder import networks, schema
from lensfinder.infer import adapt, forward, histogram
from lensfinder.infer.ahead import ahead
from lensfinder.infer.ensemble import Ensemble, identity
from lensfinder.infer.groups import group
from lensfinder.infer.score import Scorer
from lensfinder.model import Model, Spec, create
from lensfinder.pixels import RECIPES, PixelTransform

BANDS, SIZE = ("g", "r"), 41


def make_model(network: str = "deeplens", seed: int = 0, temperature: float = 1.0) -> Model:
    """Draw a model whose batch norms have seen something."""
    torch.manual_seed(seed)
    image, mask = torch.randn(16, 2, SIZE, SIZE), torch.zeros(16, 2, SIZE, SIZE, dtype=torch.uint8)
    transform = PixelTransform.fit(RECIPES["sky"], [(image, mask)])
    built = networks.build(network, 2, SIZE)
    with torch.no_grad():
        for _ in range(3):
            built.train()(transform(image, mask))
    return create(
        Spec(network, BANDS, SIZE, 0.2),
        built,
        transform,
        temperature=temperature,
        training_prevalence=0.5,
        provenance={},
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model()


def stamps(n: int, seed: int = 3, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).normal(0, 2, (n, 2, size, size)).astype(np.float32)
    return image, np.zeros(image.shape, np.uint8)


def test_folding_batch_norm_changes_no_logit_and_leaves_the_model_alone(model: Model) -> None:
    before = model.model_id
    fast, said = forward.prepare(model)
    norms = [m for m in fast.network.modules() if isinstance(m, nn.BatchNorm2d)]
    here = [m for m in model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) < len(here) / 2
    assert not said
    image, mask = stamps(10)
    np.testing.assert_allclose(fast.logits(image, mask), model.logits(image, mask), atol=1e-4)
    assert model.model_id == before


def test_half_precision_that_moves_a_golden_logit_is_not_used(model: Model) -> None:
    class Wrong(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logit: torch.Tensor = self.network(x)
            return logit + torch.is_autocast_enabled("cpu")

    fast, said = forward.prepare(replace(model, network=Wrong(model.network)), half=True)
    assert "scored in float32" in " ".join(said)
    assert forward.shift(replace(model, network=Wrong(model.network)), fast) <= 1e-4


def test_an_ensemble_is_the_mean_and_the_spread_of_its_members(model: Model) -> None:
    members = [model, make_model(seed=5, temperature=3.0)]
    image, mask = stamps(9)
    each = np.array([member.logits(image, mask) for member in members])
    found = Scorer(members, 4)(image, mask)
    np.testing.assert_allclose(found.logit_N, each.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.spread_N, each.std(axis=0), atol=1e-5)
    ids = [member.model_id for member in members]
    assert identity(ids) == identity(ids[::-1]) != identity(ids[:1]) == ids[0]
    same = Ensemble((model, model), "")
    np.testing.assert_allclose(same.scores(found.logit_N), model.scores(found.logit_N), rtol=1e-5)


@pytest.mark.parametrize("network", ["lensnet", "deeplens"])
def test_features_give_the_logit_by_the_last_layer(network: str) -> None:
    one = make_model(network)
    image, mask = stamps(7)
    with Scorer([one], 3, embed=True) as scorer:
        found = scorer(image, mask)
    assert found.feature_NK is not None
    head = [m for m in one.network.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        again = head(torch.from_numpy(found.feature_NK))[:, 0].numpy()
    np.testing.assert_allclose(again, found.logit_N, atol=1e-4)


def test_out_of_memory_halves_the_batch_once_and_says_so(model: Model) -> None:
    class Small(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > most:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return x.mean(dim=(1, 2, 3))

    most = 8
    small = replace(model, network=Small())
    image, mask = stamps(9)
    wanted = Scorer([small], 5)(image, mask).logit_N
    scorer = Scorer([small], 12)
    np.testing.assert_array_equal(scorer(image, mask).logit_N, wanted)
    assert scorer.notices == ["out of memory at 12 stamps a forward pass: 6 from there on"]
    most = 2
    with pytest.raises(MemoryError):
        scorer(image, mask)


@pytest.mark.parametrize("zoom", [0.6, 1.0, 1.7])
def test_resampling_conserves_flux_and_keeps_the_centre(zoom: float) -> None:
    y, x = np.mgrid[:61, :61] - 30.0
    spot = np.exp(-((x - 2.0) ** 2 + (y + 1.0) ** 2) / (2 * 3.0**2)) * 100
    image = np.broadcast_to(spot, (2, 2, 61, 61)).astype(np.float32)
    size = int(60 / zoom) // 2 * 2 - 1
    out, mask = adapt.resample(image, np.zeros(image.shape, np.uint8), zoom, size)
    assert not mask.any()
    assert out.sum(axis=(2, 3)) == pytest.approx(spot.sum(), rel=1e-4)
    b, a = np.mgrid[:size, :size] - size // 2
    assert (out[0, 0] * a).sum() / out[0, 0].sum() * zoom == pytest.approx(2.0, abs=0.02)
    assert (out[0, 0] * b).sum() / out[0, 0].sum() * zoom == pytest.approx(-1.0, abs=0.02)
    if zoom == 1.0:
        np.testing.assert_allclose(out[0, 0], spot[1:-1, 1:-1], atol=1e-3)


def test_what_is_bad_or_outside_stays_so_when_resampled() -> None:
    image, mask = stamps(2, size=31)
    mask[0, 1, 15, 15], image[0, 1, 15, 15] = schema.MASK_BAD, np.nan
    out, spoilt = adapt.resample(image, mask, 1.5, 41)
    assert spoilt[0, 1, 20, 20] == schema.MASK_BAD
    assert not spoilt[:, 0, 12:29, 12:29].any()
    assert (spoilt[:, :, 0] == schema.MASK_NO_DATA).all()
    assert np.isnan(out[spoilt & schema.MASK_NO_DATA != 0]).all()
    assert np.isfinite(out[spoilt == 0]).all()


def test_a_narrow_psf_is_widened_to_the_wanted_one_and_a_wide_one_left_alone() -> None:
    point = np.zeros((61, 61))
    point[30, 30] = 1000.0
    image = np.stack([gaussian_filter(point, sigma) for sigma in (1.5, 3.0)])[:, None]
    image = image.astype(np.float32)
    fwhm = np.array([[1.5], [3.0]]) * adapt.FWHM_PER_SIGMA
    wanted = np.array([2.5]) * adapt.FWHM_PER_SIGMA
    out, widened = adapt.widen(image, np.zeros(image.shape, np.uint8), fwhm, wanted)
    assert widened.tolist() == [True, False]
    np.testing.assert_array_equal(out[1], image[1])
    assert np.abs(out[0, 0] - gaussian_filter(point, 2.5)).max() < 0.03 * out[0].max()
    assert out[0].sum() == pytest.approx(1000.0, rel=1e-3)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 10.0), (180.0, -60.0), (77.0, 89.9995)])
def test_near_neighbours_are_grouped_under_the_best_everywhere_on_the_sky(
    ra: float, dec: float
) -> None:
    arcsec = 1 / 3600
    east = arcsec / np.cos(np.radians(dec))
    # Best first: a leader, one 2" west of it (across RA 0), one 4" east, one 2" from that.
    ras = np.array([ra, ra - 2 * east, ra + 4 * east, ra + 2 * east, np.nan]) % 360
    decs = np.array([dec, dec, dec, dec, np.nan])
    leader, place = group(ras, decs)
    assert leader.tolist() == [0, 0, 2, 0, 4]
    assert place.tolist() == [1, 2, 1, 3, 1]


def test_histograms_count_every_score_once_however_they_are_split() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-3, 20, 1000).astype(np.float32)
    logit[::50] = np.nan
    clean = rng.random(1000) < 0.7
    whole = histogram.histogram(logit, clean)
    parts = [histogram.histogram(logit[k::3], clean[k::3]) for k in range(3)]
    assert histogram.add(parts) == whole
    assert sum(whole["scored"]) == np.isfinite(logit).sum()
    assert sum(whole["clean"]) == (np.isfinite(logit) & clean).sum()
    edges = whole["width"] * (whole["first"] + np.arange(len(whole["scored"]) + 1))
    inside = np.abs(logit) < 50
    counts, _ = np.histogram(logit[inside].astype(float), edges)
    middle = np.abs(edges[:-1]) < 49
    np.testing.assert_array_equal(counts[middle], np.array(whole["scored"])[middle])


def test_reading_ahead_keeps_order_and_errors_and_is_bounded_and_closed() -> None:
    made: list[int] = []
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            for k in range(100):
                made.append(k)
                yield k
                if k == 50:
                    raise ValueError("in the middle")
        finally:
            closed.set()

    seen = []

    def read() -> None:
        for k in ahead(source(), 2):
            seen.append(k)
            assert len(made) <= k + 4

    with pytest.raises(ValueError, match="in the middle"):
        read()
    assert seen == list(range(51))
    closed.clear()
    early = ahead(source(), 2)
    assert next(early) == 0
    early.close()
    assert closed.is_set()
