"""Results that find another place, and writers that keep out of each other's way."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ptycho_backends.errors import OutputError
from ptycho_backends.files.datasets_hdf5 import write_datasets
from ptycho_backends.files.leftovers import remove_leftovers
from ptycho_backends.files.output import output_directory, replaced_atomically
from ptycho_backends.training.rescue import carried, carry, saved_somewhere, without_failure
from ptycho_backends.training.run_folder import one_writer


def write(path):
    with replaced_atomically(path) as stream:
        stream.write(b"model")
    return path


@pytest.fixture
def full(tmp_path):
    """A path below a file, which nobody can write to."""
    (tmp_path / "run").write_text("")
    return tmp_path / "run" / "wts.h5.zip"


def test_a_result_goes_where_it_was_asked_to_go(tmp_path):
    assert saved_somewhere(write, tmp_path / "run" / "wts.h5.zip").read_bytes() == b"model"


def test_else_into_the_working_folder_which_the_error_names(full, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rescued_run_wts.h5.zip", "rescued_run_wts_2.h5.zip"):
        with pytest.raises(OutputError, match=name):
            saved_somewhere(write, full)
        assert (tmp_path / name).read_bytes() == b"model"


def test_else_into_the_temporary_folder(full, tmp_path, monkeypatch):
    gone, temporary = tmp_path / "gone", tmp_path / "temporary"
    gone.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with pytest.raises(OutputError, match=str(temporary)):
        saved_somewhere(write, full)
    assert len(list(temporary.iterdir())) == 1
    temporary.joinpath("rescued_run_wts.h5.zip").unlink()
    temporary.rmdir()
    temporary.write_text("")
    with pytest.raises(OutputError, match="did not take it either"):
        saved_somewhere(write, full)


def test_a_copy_that_fails_is_a_warning(full, caplog):
    assert not without_failure(lambda: write(full), "checkpoint last")
    assert "no checkpoint last" in caplog.text


def test_errors_carry_the_first_model_that_they_get():
    error = ValueError()
    carry(error, "first")
    carry(error, "second")
    assert carried(error) == "first"
    assert carried(ValueError()) is None


def test_one_writer_may_nest_and_others_are_refused(tmp_path):
    refused = []

    def other():
        try:
            with one_writer(tmp_path):
                pass
        except OutputError as error:
            refused.append(str(error))

    with one_writer(tmp_path), one_writer(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        code = "import sys; from pathlib import Path; from ptycho_backends.training.run_folder import one_writer\n"
        code += "with one_writer(Path(sys.argv[1])): pass"
        process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert "another thread of this program writes into it" in refused[0]
    assert "another process writes into it" in process.stderr
    other()
    assert len(refused) == 1
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_killed_writers_are_removed_and_others_stay(tmp_path):
    left = tmp_path / ".0123456789abcdef.part"
    left.write_bytes(b"half")
    (tmp_path / "scan.part").write_bytes(b"of somebody else")
    with replaced_atomically(tmp_path / "new") as stream:
        stream.write(b"x")
        stream.flush()
        assert len(list(tmp_path.glob(".*.part"))) == 2
        output_directory(tmp_path)
        assert len(list(tmp_path.glob(".*.part"))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"scan.part", "new"}
    remove_leftovers(tmp_path / "nowhere")
    assert os.listdir(tmp_path)


def test_a_limit_on_the_size_of_files_is_an_error_and_not_the_end(tmp_path):
    """HDF5 would end the process, because it cannot close what it cannot write."""
    resource = pytest.importorskip("resource", reason="not on Windows")
    write_datasets(tmp_path / "a.h5", {"x": np.arange(10.0)}, {"x": {"unit": "m"}})
    before = (tmp_path / "a.h5").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            write_datasets(tmp_path / "a.h5", {"x": np.arange(10_000.0)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "a.h5").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
