"""Views of transformed stamps are those of stamps."""

import numpy as np
import torch

from lensfinder.pixels import RECIPES, PixelTransform
from lensfinder.train import augment, data, seen
from lensfinder.train.augment import Augmentation, Ranges


def test_views_follow_the_transform_and_are_laid_out_channels_last(tmp_path, write_shard):
    stamps = data.open_set([write_shard(tmp_path / f"{i}.h5", seed=i) for i in range(2)])
    pixels, train_N = data.Pixels(stamps), stamps.members("train")
    transform = PixelTransform.fit(RECIPES["sky"], [pixels.gather(train_N)])
    cpu = torch.device("cpu")
    looked = seen.SeenStamps(pixels, transform, train_N, cpu, torch.float32)
    index_B = np.random.default_rng(1).permutation(train_N)[:50]
    view_B4 = augment.draw(1, 0, 50, Ranges(shift_pixels=3))
    x_NCHW = looked.gather(index_B, view_B4)
    assert x_NCHW.is_contiguous(memory_format=torch.channels_last)
    plain_NCHW = transform(*pixels.gather(index_B)).numpy()
    for i, view in enumerate(view_B4):
        expected = augment.view_onto(plain_NCHW[i], Augmentation(*view))
        np.testing.assert_allclose(x_NCHW[i].numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(looked.gather(index_B).numpy(), plain_NCHW, rtol=0, atol=1e-6)
