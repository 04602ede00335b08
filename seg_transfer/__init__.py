"""segtl: self-configuring medical image segmentation on an ImageNet-pretrained encoder."""
