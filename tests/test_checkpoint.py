"""A model file gives back what went in, and notices any byte that changed since."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensfinder import checkpoint, networks
from lensfinder.errors import MismatchError, RequestError
from lensfinder.model import Spec, create, digest
from lensfinder.pixels import RECIPES, PixelTransform

SPEC = Spec("lensnet", ("g", "r", "i"), 25, 0.2)


def stamps(n=5, seed=0):
    rng = np.random.default_rng(seed)
    image_NCHW = rng.normal(0, 3, (n, 3, 25, 25)).astype(np.float32)
    return image_NCHW, np.zeros(image_NCHW.shape, np.uint8)


def make(recipe="sky", temperature=1.3, seed=0, **kwargs):
    torch.manual_seed(seed)
    fitting = [tuple(torch.from_numpy(a) for a in stamps(n=32, seed=9))]
    transform = PixelTransform.fit(RECIPES[recipe], fitting)
    return create(
        SPEC,
        networks.build("lensnet", transform.channel_count, 25),
        transform,
        temperature=temperature,
        training_prevalence=0.5,
        provenance={"world_size": 1, "devices": ["cpu"], "seed": 1},
        **kwargs,
    )


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_round_trip_keeps_logits_and_model_id(tmp_path, recipe):
    radec_deg_N2 = torch.tensor([[10.0, -30.0]], dtype=torch.float64)
    model = make(recipe, training_radec_deg_N2=radec_deg_N2)
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, model)
    again = checkpoint.load(path, "cpu")
    assert again.model_id == model.model_id
    assert again.spec == model.spec
    assert (again.temperature, again.training_prevalence) == (1.3, 0.5)
    assert again.provenance == model.provenance
    assert torch.equal(again.training_radec_deg_N2, radec_deg_N2)
    np.testing.assert_array_equal(again.logits(*stamps()), model.logits(*stamps()))


def test_saving_twice_writes_the_same_bytes(tmp_path):
    checkpoint.save(tmp_path / "a.safetensors", make())
    checkpoint.save(tmp_path / "b.safetensors", checkpoint.load(tmp_path / "a.safetensors", "cpu"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_thresholds_stand_outside_model_id(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, make())
    before = checkpoint.load(path, "cpu")
    checkpoint.write_thresholds(path, {"1e-2": {"logit": 3.25}})
    after = checkpoint.load(path, "cpu")
    assert after.thresholds == {"1e-2": {"logit": 3.25}}
    assert after.model_id == before.model_id
    np.testing.assert_array_equal(after.logits(*stamps()), before.logits(*stamps()))


def test_model_id_changes_with_weights_transform_and_calibration():
    ids = {make().model_id, make(seed=1).model_id, make("deeplens").model_id}
    ids.add(make(temperature=1.4).model_id)
    assert len(ids) == 4


@pytest.fixture(scope="module")
def model_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    checkpoint.save(path, make())
    return path.read_bytes()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.fault
def test_any_flipped_bit_is_detected(tmp_path, model_bytes, data):
    header_length = 8 + int.from_bytes(model_bytes[:8], "little")
    last = data.draw(st.sampled_from([header_length, len(model_bytes)])) - 1
    position = data.draw(st.integers(0, last))
    damaged = bytearray(model_bytes)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    with pytest.raises((RequestError, MismatchError)):
        checkpoint.load(path, "cpu", verify=False)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, model_bytes, share):
    path = tmp_path / "short.safetensors"
    path.write_bytes(model_bytes[: int(share * len(model_bytes))])
    with pytest.raises(RequestError, match=r"short\.safetensors"):
        checkpoint.load(path, "cpu")


def test_foreign_missing_and_wrongly_named_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match="no such model"):
        checkpoint.load(tmp_path / "none.safetensors")
    safetensors.torch.save_file({"w": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RequestError, match="not a lensfinder model"):
        checkpoint.load(tmp_path / "foreign.safetensors")
    with pytest.raises(RequestError, match="can't be read"):
        checkpoint.load(tmp_path)


def rewrite(model_bytes, path, change):
    """Write a model whose header was changed by somebody who also mended the checksum."""
    tensors = safetensors.torch.load(model_bytes)
    length = int.from_bytes(model_bytes[:8], "little")
    metadata = json.loads(model_bytes[8 : 8 + length])["__metadata__"]
    header = json.loads(metadata["lensfinder_model"])
    del header["checksum"]
    change(header)
    header["checksum"] = digest(header, tensors)
    safetensors.torch.save_file(tensors, path, {"lensfinder_model": json.dumps(header)})


def test_a_changed_temperature_does_not_pass_under_the_old_model_id(tmp_path, model_bytes):
    path = tmp_path / "model.safetensors"
    rewrite(model_bytes, path, lambda header: header["calibration"].update(temperature=2.0))
    with pytest.raises(MismatchError, match="model_id"):
        checkpoint.load(path, "cpu")


@pytest.mark.parametrize("wrong", [{"bands": ["g"] * 10**6}, {"network": "deeplens"}, {"size": 3}])
def test_a_spec_that_the_weights_contradict_is_refused(tmp_path, model_bytes, wrong):
    path = tmp_path / "model.safetensors"
    rewrite(model_bytes, path, lambda header: header["spec"].update(wrong))
    with pytest.raises(RequestError):
        checkpoint.load(path, "cpu")


def test_golden_stamps_notice_other_arithmetic(tmp_path, model_bytes):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model_bytes)
    model = checkpoint.load(path, "cpu")
    assert len(model.golden["logit_N"]) == 8
    with torch.no_grad():
        model.network.head.bias += 0.01
    with pytest.raises(MismatchError, match="golden stamp"):
        model.check_golden()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ((("g", "i", "r"), 0.2, 25), "g,i,r.*g,r,i"),
        ((("g", "r"), 0.2, 25), "g,r .*g,r,i"),
        ((("g", "r", "i"), 0.263, 25), "0.263.*0.2"),
        ((("g", "r", "i"), 0.2, 61), "61 px.*25 px"),
        ((("g", "r", "i"), 0.2, 25, True), "stretched.*fluxes"),
    ],
)
def test_other_data_are_refused_with_both_values(data, named):
    model = make()
    model.check_compatible(("g", "r", "i"), 0.2003, 25)
    with pytest.raises(MismatchError, match=named) as caught:
        model.check_compatible(*data)
    assert caught.value.exit_code == 4


def test_logits_take_any_byte_order_and_read_only_arrays_and_are_finite():
    model = make()
    image_NCHW, mask_NCHW = stamps()
    logit_N = model.logits(image_NCHW, mask_NCHW)
    np.testing.assert_array_equal(model.logits(image_NCHW.astype(">f4"), mask_NCHW), logit_N)
    image_NCHW.flags.writeable = mask_NCHW.flags.writeable = False
    np.testing.assert_array_equal(model.logits(image_NCHW, mask_NCHW), logit_N)
    nothing_NCHW = np.full_like(image_NCHW, np.nan)
    assert np.isfinite(model.logits(nothing_NCHW, mask_NCHW)).all()
    assert model.logits(image_NCHW[:0], mask_NCHW[:0]).shape == (0,)
    with pytest.raises(MismatchError, match="as the model was trained"):
        model.logits(image_NCHW[:, :2], mask_NCHW[:, :2])


def test_batch_size_does_not_change_logits():
    model = make()
    image_NCHW, mask_NCHW = stamps(n=17)
    whole_N = model.logits(image_NCHW, mask_NCHW)
    for step in (1, 4):
        parts = [
            model.logits(image_NCHW[i : i + step], mask_NCHW[i : i + step])
            for i in range(0, 17, step)
        ]
        np.testing.assert_allclose(np.concatenate(parts), whole_N, rtol=0, atol=1e-4)


def test_scores_are_calibrated_probabilities():
    model = make(temperature=2.0)
    np.testing.assert_allclose(
        model.scores(np.array([0.0, 2.0, -1e4])), [0.5, 1 / (1 + np.exp(-1.0)), 0.0], atol=1e-6
    )


def test_targets_within_an_arcsecond_of_a_training_galaxy_are_flagged():
    radec_deg_N2 = torch.tensor([[0.0, 0.0], [359.9999, 60.0], [40.0, -90.0]], dtype=torch.float64)
    model = make(training_radec_deg_N2=radec_deg_N2)
    ra_deg_N = np.array([360.0, 0.9 / 3600, 1.1 / 3600, 0.0001 * 0.5, 220.0, np.nan])
    dec_deg_N = np.array([0.0, 0.0, 0.0, 60.0, -90.0, 0.0])
    seen_N = model.seen_in_training(ra_deg_N, dec_deg_N)
    assert seen_N.tolist() == [True, True, False, True, True, False]
    assert not make().seen_in_training(ra_deg_N, dec_deg_N).any()
