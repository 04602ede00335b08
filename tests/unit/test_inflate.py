"""Inflation: kernels, and the law that a volume constant along the slice axis keeps its 2D features."""

from __future__ import annotations

import pytest
import torch
from made_weights import resnet18_weights
from torch import nn

from seg_transfer.transfer.encoder import Encoder
from seg_transfer.transfer.inflate import SliceConv3d, inflate_modules, inflate_weight, stages_with_depth
from seg_transfer.transfer.weights import load_weights

RESNET18 = resnet18_weights()


def test_average_spreads_the_kernel_and_centre_keeps_it_in_the_middle():
    weight = torch.tensor([[[[3.0, -6.0]]]])
    average = inflate_weight(weight, 3, "average")
    assert average.shape == (1, 1, 3, 1, 2)
    assert average[0, 0, :, 0].tolist() == [[1.0, -2.0]] * 3
    centre = inflate_weight(weight, 3, "centre")
    assert centre[0, 0, :, 0].tolist() == [[0.0, 0.0], [3.0, -6.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("slice_strides", "expected"),
    [
        ((2, 2, 2), (True, True, True)),
        ((1, 2, 1), (False, True, True)),
        ((1, 1, 2, 2), (False, False, True, True)),
        ((1, 1, 1), (False, False, True)),
        ((1,), (True,)),
    ],
)
def test_kernels_reach_along_the_slice_axis_from_the_first_stride_on(slice_strides, expected):
    assert stages_with_depth(slice_strides) == expected


def test_modules_are_converted_with_their_strides():
    block = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 4, 1),
    )
    stem, norm, pool, pointwise = inflate_modules(block, slice_stride=2)
    assert (stem.kernel_size, stem.stride, stem.padding, stem.bias) == ((3, 7, 7), (2, 2, 2), (0, 3, 3), None)
    assert isinstance(norm, nn.BatchNorm3d)
    assert (pool.kernel_size, pool.stride) == (3, 2)
    assert (pointwise.kernel_size, pointwise.stride) == ((1, 1, 1), (1, 1, 1))
    flat = inflate_modules(nn.MaxPool2d(3, 2, 1), slice_stride=1)
    assert (flat.kernel_size, flat.stride, flat.padding) == ((1, 3, 3), (1, 2, 2), (0, 1, 1))
    assert inflate_modules(nn.Conv2d(3, 8, 3, stride=2), slice_stride=1).stride == (1, 2, 2)


def test_edge_slices_are_repeated_as_padding():
    convolution = SliceConv3d(1, 1, (3, 1, 1), bias=False)
    convolution.weight.data.fill_(1.0)
    x = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 3, 1, 1)
    assert convolution(x).flatten().tolist() == [12.0, 111.0, 210.0]


@pytest.mark.parametrize("inflation", ["average", "centre"])
@pytest.mark.parametrize("slice_strides", [(2, 2, 2, 2, 2), (1, 2, 2, 1, 2), (1, 1, 1, 1, 1)])
def test_constant_volume_keeps_the_2d_features_on_every_stage(inflation, slice_strides):
    flat = Encoder("resnet18", channels=1).eval()
    deep = Encoder("resnet18", channels=1, slice_strides=slice_strides, inflation=inflation).eval()
    load_weights(flat, RESNET18, "resnet18")
    load_weights(deep, RESNET18, "resnet18")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 1, 45, 50, generator=generator)
    with torch.no_grad():
        expected, stages = flat(x), deep(x.repeat(1, 1, 7, 1, 1))
    slices = 7
    for stride, two, three in zip(slice_strides, expected, stages, strict=True):
        slices = -(-slices // stride)
        assert three.shape[2] == slices
        assert two.abs().max() > 0.1
        for index in range(slices):
            torch.testing.assert_close(three[:, :, index], two, rtol=1e-4, atol=1e-4)


def test_average_inflation_blurs_along_the_slice_axis_and_centre_does_not():
    def response(inflation):
        encoder = Encoder("resnet18", channels=1, stages=1, slice_strides=(2,), inflation=inflation).eval()
        load_weights(encoder, RESNET18, "resnet18")
        x = torch.zeros(1, 1, 9, 16, 16)
        x[:, :, 4] = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return (encoder(x)[0] - encoder(torch.zeros_like(x))[0]).abs().amax(dim=(0, 1, 3, 4)) > 1e-6

    assert response("average").tolist() == [False, False, True, False, False]
    shifted = torch.zeros(9, dtype=torch.bool)
    shifted[4] = True
    assert response("centre").tolist() == shifted[::2].tolist()
