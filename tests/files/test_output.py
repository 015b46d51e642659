"""Results are written whole or not at all."""

import os
from pathlib import Path

import pytest

from ptycho_backends.errors import OutputError
from ptycho_backends.files.output import output_directory, replaced_atomically


def write(path: Path, content: bytes) -> None:
    with replaced_atomically(path) as stream:
        stream.write(content)


def test_writes_into_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result.bin"
    write(path, b"content")
    assert path.read_bytes() == b"content"
    assert [p.name for p in path.parent.iterdir()] == ["result.bin"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with replaced_atomically(path) as stream:
        stream.write(b"new")
        stream.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name == "nt", reason="Windows does not rename over a file that is open")
def test_a_reader_of_the_old_file_reads_it_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    with open(path, "rb") as reader:
        write(path, b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with replaced_atomically(path) as stream:
            stream.write(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_error_of_a_failing_disk_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"result\.bin: cannot be written \(No space left on device\)"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    for path in (tmp_path / "file" / "result.bin", tmp_path, tmp_path / ("x" * 300)):
        with pytest.raises(OutputError) as caught:
            write(path, b"content")
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, OSError)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_inner_output_error_keeps_its_own_path(tmp_path: Path) -> None:
    def nested() -> None:
        with replaced_atomically(tmp_path / "outer"), replaced_atomically(tmp_path):
            pass

    with pytest.raises(OutputError, match="^" + str(tmp_path) + ": "):
        nested()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "disk" / "result.bin"
    target.parent.mkdir()
    link = tmp_path / "result.bin"
    link.symlink_to(target)
    write(link, b"content")
    assert link.is_symlink()
    assert target.read_bytes() == b"content"


def test_output_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = output_directory(tmp_path / "a" / "b")
    assert folder.is_dir()
    assert list(folder.iterdir()) == []
    assert output_directory(str(folder)) == folder


def test_output_directory_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")
    for bad in (path, path / "below"):
        with pytest.raises(OutputError, match="cannot be written to"):
            output_directory(bad)


def test_output_directory_notices_a_folder_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    with pytest.raises(OutputError, match=r"cannot be written to \(Permission denied\)"):
        output_directory(tmp_path)


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "link"):
        with pytest.raises(OutputError, match="is a pipe or a device"):
            write(tmp_path / name, b"content")
    assert (tmp_path / "pipe").is_fifo()
    assert Path("/dev/null").is_char_device()
