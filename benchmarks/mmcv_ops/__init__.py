"""The operators of mmcv side by side: ours over torchvision, and compiled ones."""
