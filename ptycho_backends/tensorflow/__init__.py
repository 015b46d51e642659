"""The TensorFlow implementation of `ptycho_backends`; imported only when its backend is asked for.

`physics`, `network`, `losses` and `model` mirror the files of that name in `ptycho_backends.reference`,
function by function; `data`, `training` and `inference` drive them; `backend` is the protocol's face.
It is plain TensorFlow, functions over a dictionary of variables: no Keras layer, no global state.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from ptycho_backends.images.matplotlib_import import import_matplotlib

_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# What every start of TensorFlow says on standard error, before any log level is heeded.
_STARTUP_NOISE = re.compile(
    rb"WARNING: All log messages before absl|[IW]\d{4} |To enable the following instructions|"
    rb"E\d{4} .*(failed call to cuInit|Unable to register cu)"
)


@contextlib.contextmanager
def _startup_noise_removed() -> Iterator[None]:
    """Pass on what is written to standard error meanwhile, but for `_STARTUP_NOISE`."""
    with contextlib.ExitStack() as stack:
        try:
            sys.stderr.flush()
            saved = os.dup(2)
        except (OSError, ValueError, AttributeError):  # no standard error at all
            yield
            return
        stack.callback(os.close, saved)
        heard = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(heard.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            heard.seek(0)
            for line in heard:
                if not _STARTUP_NOISE.match(line):
                    os.write(2, line)


def _start_tensorflow() -> None:
    """Import TensorFlow quietly, unless the user has said how much it may tell."""
    # so that another framework in this process gets its share of a GPU's memory
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    if "tensorflow" in sys.modules or _LOG_LEVEL in os.environ:
        import tensorflow
    else:
        os.environ[_LOG_LEVEL] = "2"
        with _startup_noise_removed():
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")  # the rest of the noise comes here


import_matplotlib()  # first: TensorFlow imports Keras, which imports matplotlib
_start_tensorflow()
