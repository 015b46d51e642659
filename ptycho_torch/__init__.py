"""The PyTorch and Lightning implementation of `ptycho_backends`.

`physics`, `network`, `losses` and `model` mirror the files of that name in `ptycho_backends.reference`,
function by function; `data`, `training` and `inference` drive them; `backend` is the protocol's face.
"""
