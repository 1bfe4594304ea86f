"""Folders of images, one folder per class: index, decoding, augmentation, reading while training goes on."""
