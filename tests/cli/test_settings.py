"""From options to configurations: what the files that they name may decide."""

import os
import threading
from pathlib import Path

import pytest

from ptycho_backends.cli.settings import output_or_resumed
from ptycho_backends.config import TrainingConfig
from ptycho_backends.config_file import load_config_with_names


@pytest.mark.parametrize(
    ("output", "resume", "folder"),
    [
        (None, None, None),
        ("given", None, "given"),
        ("given", "run/wts.h5.zip", "given"),
        (None, "run/wts.h5.zip", "run"),
        (None, "run/checkpoints/last.wts.h5.zip", "run"),
    ],
)
def test_a_run_that_is_resumed_by_a_file_is_written_beside_it(output, resume, folder):
    """Not into the folder that the model's configuration names, which is its maker's."""
    path = None if resume is None else Path(resume)
    chosen = output_or_resumed(None if output is None else Path(output), path)
    assert chosen == (None if folder is None else Path(folder))


def test_a_configuration_from_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "config.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("nepochs: 3\nmodel: {N: 128}\n",))
    writer.start()
    config, names = load_config_with_names(pipe, TrainingConfig)
    writer.join(10)
    assert (config.nepochs, config.model.N) == (3, 128)
    assert names == {"nepochs", "model", "N"}
