"""Train, reconstruct, load and write, in the legacy package's steps."""

from ptycho_backends.legacy.components import (
    load_data,
    load_inference_bundle,
    run_cdi_example,
    save_outputs,
    train_cdi_model,
)

__all__ = ["load_data", "load_inference_bundle", "run_cdi_example", "save_outputs", "train_cdi_model"]
