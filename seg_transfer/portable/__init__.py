"""``segtl-infer``: segments whole images with an ONNX file of `segtl export`, without torch.

What is imported here needs isal, nibabel, numpy, onnxruntime, pillow, psutil, pydantic, safetensors and scipy; a test
refuses all else.
"""
