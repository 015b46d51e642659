"""The names of the legacy package PtychoPINN, for programs written for it, Ptychodus above all.

The modules re-export those of `ptycho_backends.legacy`, without logic of their own. `PTYCHO_BACKEND` or the
configuration selects the framework (docs/ptychodus.md).
"""
