"""The default encoders, written here, compute what timm's do."""

from __future__ import annotations

import pytest
import timm
import torch

from seg_transfer.transfer.efficientnet_lite import SCALES, EfficientNetLite


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", SCALES)
def test_features_names_and_strides_are_timms(name: str) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True, pretrained=False, in_chans=2).eval()
    ours = EfficientNetLite(name, 2).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())  # random weights are drawn in this order
    features = theirs.feature_info.get_dicts(["module", "num_chs", "reduction"])
    assert list(ours.ends.items()) == [
        (row["module"].replace(".", "_"), (row["num_chs"], row["reduction"])) for row in features
    ]
    x = torch.randn(1, 2, 65, 97)  # odd at every stage, where TensorFlow's padding is centred too
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x)[-1], rtol=1e-5, atol=1e-6)
