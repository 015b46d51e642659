"""The names of the legacy package PtychoPINN, so that programs written for it, Ptychodus above all, find them.

A face without logic of its own: each module re-exports what `ptycho_backends.legacy` does. Which framework
computes is `PTYCHO_BACKEND` or the configuration (docs/ptychodus.md).
"""
