"""Pretrain an encoder as a classifier of images in class folders."""
