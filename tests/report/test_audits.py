"""Laws of the audits: a planted shortcut is flagged, a clean set is not; drift is measured."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from lensfinder.report import audits


def scores(n: int = 1200, seed: int = 0) -> dict[str, np.ndarray]:
    """Stamp statistics of mocks that differ in nothing but what an arc adds to the logit."""
    rng = np.random.default_rng(seed)
    is_lens_N = rng.random(n) < 0.5
    return {
        "logit": rng.normal(0, 1, n) + 4 * is_lens_N,
        "label": is_lens_N.astype(np.int8),
        "host_id": np.array([f"h{i // 2}" for i in range(n)]),
        "stamp_flux_r_njy": rng.lognormal(8, 1, n),
        "stamp_noise_r_njy": rng.normal(3, 0.1, n),
        "stamp_offset_pix": rng.exponential(0.3, n),
        "stamp_masked_fraction": np.where(rng.random(n) < 0.1, 0.05, 0.0),
    }


def shortcut_of(columns: dict[str, np.ndarray], seed: int = 0) -> audits.Probe:
    names = audits.trivial_names(columns)
    assert len(names) == 4
    return audits.probe(columns, names, columns["label"] == 1, columns["host_id"], seed=seed)


def test_flux_added_to_all_positives_is_flagged_and_named() -> None:
    columns = scores()
    columns["stamp_flux_r_njy"] *= 1.0 + 3.0 * (columns["label"] == 1)
    found = shortcut_of(columns)
    assert audits.is_shortcut(found)
    assert found.features[0][0] == "stamp_flux_r_njy"
    assert found.features[0][1] > audits.SHORTCUT_AUROC > found.features[1][1]


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_set_is_not_flagged_and_stands_at_chance(seed: int) -> None:
    found = shortcut_of(scores(seed=seed), seed)
    assert not audits.is_shortcut(found)
    assert found.auroc.low is not None
    assert found.auroc.high is not None
    assert found.auroc.low - 0.03 < 0.5 < found.auroc.high + 0.03
    assert found.n_fitted + found.n_scored == 1200


def test_the_halves_share_no_host() -> None:
    # A host's flux tells its label, and nothing else does: only shared hosts could be learned.
    rng = np.random.default_rng(1)
    columns = scores(800)
    host_N = np.arange(800) // 40
    columns["host_id"] = host_N.astype(str)
    columns["label"] = (np.arange(20) % 2)[host_N]
    for name in audits.trivial_names(columns):
        columns[name] = rng.normal(0, 1, 20)[host_N]
    found = shortcut_of(columns)
    # Twenty hosts are too few to say anything about others of their kind.
    assert not audits.is_shortcut(found)
    assert found.n_fitted == found.n_scored == 400


def test_a_probe_without_columns_or_objects_is_refused_with_its_reason() -> None:
    columns = {"logit": np.zeros(9), "label": np.zeros(9), "host_id": np.full(9, "")}
    nothing = audits.probe(columns, [], columns["label"] == 1, columns["host_id"], seed=0)
    assert "score again" in str(nothing.auroc.reason)
    assert not audits.is_shortcut(nothing)
    few = shortcut_of(scores(30))
    assert "20 objects of each class" in str(few.auroc.reason)


def test_embeddings_are_preferred_and_tell_mocks_from_the_sky() -> None:
    rng = np.random.default_rng(2)
    mocks, sky = scores(600), scores(600, seed=3)
    probe, by = audits.mocks_against_sky(mocks, sky, seed=0)
    assert (by, audits.is_shortcut(probe)) == ("stamp statistics", False)
    for k in range(8):
        mocks[f"embedding_{k}"] = rng.normal(0, 1, 600)
        sky[f"embedding_{k}"] = rng.normal(1.2 * (k == 3), 1, 600)
    probe, by = audits.mocks_against_sky(mocks, sky, seed=0)
    assert by == "embeddings"
    assert audits.is_shortcut(probe)
    # Two unit normals 1.2 apart: AUROC = Phi(1.2 / sqrt 2) = 0.802
    assert probe.auroc.low is not None
    assert probe.auroc.high is not None
    assert probe.auroc.low < 0.802 < probe.auroc.high


def test_drift_is_kolmogorovs_distance_of_the_finite_values() -> None:
    mocks, sky = scores(500), scores(500, seed=4)
    sky["stamp_noise_r_njy"] += 0.1
    mocks["psf_fwhm_r_arcsec"] = np.r_[np.full(499, 0.7), np.nan]
    sky["psf_fwhm_r_arcsec"] = np.full(500, 0.9)
    mocks["mag_z"] = np.full(500, np.nan)
    sky["mag_z"] = np.zeros(500)
    sky["only_there"] = np.zeros(500)
    # A constant that the other's values surround says nothing.
    mocks["psf_fwhm_i_arcsec"] = np.linspace(0.6, 0.8, 500)
    sky["psf_fwhm_i_arcsec"] = np.full(500, 0.7)
    found = {drift.name: drift for drift in audits.drifts(mocks, sky)}
    assert found["psf_fwhm_r_arcsec"].distance == 1.0
    assert found["stamp_noise_r_njy"].distance == pytest.approx(
        ks_2samp(mocks["stamp_noise_r_njy"], sky["stamp_noise_r_njy"]).statistic
    )
    assert found["stamp_noise_r_njy"].drifts
    assert not found["stamp_offset_pix"].drifts
    assert not {"mag_z", "only_there", "logit", "psf_fwhm_i_arcsec"} & found.keys()
    distances = [drift.distance for drift in audits.drifts(mocks, sky)]
    assert distances == sorted(distances, reverse=True)
