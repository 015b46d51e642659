"""`load_and_predict`, under the name that programs written for the port know.

`python -m ptycho_torch.inference --model_path FILE --test_data FILE --output_dir DIR` does the same.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from ptycho_backends.errors import ScanError
from ptycho_backends.images.figures import save_reconstruction_figure
from ptycho_torch.api.image import load_and_predict
from ptycho_torch.backend.device import computing
from ptycho_torch.command import run_command
from ptycho_torch.scan_folder import training_files

__all__ = ["command", "computing", "load_and_predict"]


def command(arguments: Sequence[str] | None = None) -> int:
    """`python -m ptycho_torch.inference`: prints the path of the image; returns the exit code."""
    parser = ArgumentParser(
        prog="python -m ptycho_torch.inference", description="Reconstruct a scan with a trained model."
    )
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", help="wts.h5.zip, its folder, or a .ckpt")
    model.add_argument("--run_id", help="number of an MLflow run")
    scan = parser.add_mutually_exclusive_group(required=True)
    scan.add_argument("--test_data", help="NPZ file of a scan")
    scan.add_argument("--infer_dir", help="folder with *.npz files of scans")
    parser.add_argument(
        "--file_index", type=int, default=0, help="which file of --infer_dir, by name; default 0"
    )
    parser.add_argument("--output_dir", required=True, help="folder for reconstruction.npz and .png")
    parser.add_argument("--relative_mlflow_path", help="folder of the MLflow runs")
    return run_command(parser, _image, arguments)


def _image(options: Namespace) -> Path:
    target = Path(options.output_dir) / "reconstruction.npz"
    image = load_and_predict(
        options.model_path or options.run_id,
        options.test_data or _chosen(options.infer_dir, options.file_index),
        output_path=target,
        relative_mlflow_path=options.relative_mlflow_path,
    )
    save_reconstruction_figure(image, target.with_suffix(".png"))
    return target


def _chosen(folder: str, index: int) -> Path:
    files = training_files(folder)
    if not 0 <= index < len(files):
        raise ScanError(f"file_index: got {index}, want 0 .. {len(files) - 1}, a file of {folder}")
    return files[index]


if __name__ == "__main__":
    sys.exit(command())
