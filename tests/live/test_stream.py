"""Sources of frames and positions that are being written: order, gaps, damage, late parts."""

import os
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from ptycho_backends.errors import ConfigError, ScanError
from ptycho_backends.live import frames as frames_module
from ptycho_backends.live.frames import FolderFrames, Hdf5Frames
from ptycho_backends.live.stream import Stream
from ptycho_backends.scans.scan_options import ScanOptions

FRAMES = 80


def everything(stream, ended=True):
    """Scans that a stream hands out, until nothing is left."""
    found = []
    stream.poll(ended)
    while (taken := stream.take(32, ended)) is not None:
        found.append(taken[0])
    return found


def numbers_of(scans):
    return np.concatenate([scan.scan_index for scan in scans]).tolist()


def in_folder(folder, counts, numbers):
    for number in numbers:
        np.save(folder / f"frame_{number:05}.npy", counts[number])


def test_frames_of_a_folder_in_any_order_are_those_of_the_scan(tmp_path, scan, counts, write_positions):
    in_folder(tmp_path, counts, np.random.default_rng(0).permutation(FRAMES))
    write_positions(tmp_path / "positions.csv")
    stream = Stream(tmp_path)
    parts = everything(stream)
    assert numbers_of(parts) == list(range(FRAMES))
    np.testing.assert_array_equal(np.concatenate([part.patterns for part in parts]), counts)
    whole = stream.whole_scan()
    np.testing.assert_array_equal(np.asarray(whole.patterns), counts)
    np.testing.assert_array_equal(whole.scan_positions_px, scan.scan_positions_px)
    assert (whole.measurement, stream.given_up) == ("intensity", [])


def test_frames_wait_for_late_positions(tmp_path, counts, write_positions):
    in_folder(tmp_path, counts, range(40))
    stream = Stream(tmp_path)
    assert everything(stream, ended=False) == []
    time.sleep(0.01)
    write_positions(tmp_path / "positions.csv", 0, 25)
    with open(tmp_path / "positions.csv", "a") as half:
        half.write("12.3")
    stream.poll(ended=True)
    stream.positions._state = None
    stream.positions._read_s = -1e9
    stream.positions.poll()
    assert len(stream.positions.known) == 25
    taken, written_s = stream.take(100, ended=True)
    assert taken.scan_index.tolist() == list(range(25))
    assert (np.abs(written_s - time.time()) < 100).all()
    assert stream.without_position == 15


def test_frames_whose_positions_have_unknown_names_are_counted(tmp_path, counts):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["patterns"] = counts
        file["motor_7"], file["motor_8"] = np.zeros((2, FRAMES))
    stream = Stream(tmp_path / "scan.h5")
    assert everything(stream) == []
    assert stream.trouble.startswith("80 frames wait for positions; name them with --positions-from FILE")


def test_a_half_written_file_is_tried_again_and_a_damaged_one_named(
    tmp_path, counts, write_positions, monkeypatch
):
    monkeypatch.setattr(frames_module, "SETTLE_S", 0.0)
    in_folder(tmp_path, counts, [number for number in range(FRAMES) if number not in (5, 30)])
    write_positions(tmp_path / "positions.csv")
    whole = tmp_path / "whole.bin"
    np.save(tmp_path / "x.npy", counts[5])
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").unlink()
    whole.write_bytes(content)
    for number in (5, 30):
        (tmp_path / f"frame_{number:05}.npy").write_bytes(content[:-20])
    stream = Stream(tmp_path, patience_s=0.05)
    stream.poll()
    time.sleep(0.01)
    stream.poll()
    taken = stream.take(1000)
    assert 5 not in taken[0].scan_index
    assert len(taken[0]) == FRAMES - 2
    assert stream.given_up == []
    os.replace(whole, tmp_path / "frame_00005.npy")
    time.sleep(0.25)
    stream.poll()
    assert stream.take(1000)[0].scan_index.tolist() == [5]
    stream.poll(ended=True)
    assert stream.take(1000, ended=True) is None
    (line,) = stream.given_up
    assert line.startswith("frame_00030.npy: not a readable NPY file")
    assert np.array_equal(
        stream.whole_scan().scan_positions_px, stream.positions.known[np.arange(FRAMES) != 30]
    )


def test_tiff_files_that_are_cut_short_wait(tmp_path, counts):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "a_0.tif", counts[0])
    tifffile.imwrite(tmp_path / "a_1.tif", counts[1])
    content = (tmp_path / "a_1.tif").read_bytes()
    (tmp_path / "a_1.tif").write_bytes(content[:-100])
    frames = FolderFrames(tmp_path)
    frames.poll(ended=True)
    frames._ended = False
    taken = frames.take(10, 10)
    np.testing.assert_array_equal(taken.frames, counts[:1])
    assert frames.left_out == []
    (tmp_path / "a_1.tif").write_bytes(content)
    time.sleep(0.25)
    np.testing.assert_array_equal(frames.take(10, 10).frames, counts[1:2])


def test_files_of_several_frames_and_strange_files(tmp_path, counts):
    np.save(tmp_path / "stack_1.npy", counts[:8])
    np.save(tmp_path / "stack_2.npy", counts[8:16])
    np.save(tmp_path / "stack_4.npy", counts[24:28])
    np.save(tmp_path / "stack_5.npy", counts[0, :4])
    np.save(tmp_path / "dark.npy", counts[0])
    (tmp_path / "notes.log").write_text("9")
    frames = FolderFrames(tmp_path)
    frames.poll(ended=True)
    taken = frames.take(100, 100)
    assert taken.numbers.tolist() == [*range(16), *range(24, 28)]
    np.testing.assert_array_equal(taken.frames, counts[taken.numbers])
    assert sorted(line.partition(":")[0] for line in frames.left_out) == ["dark.npy", "stack_5.npy"]
    np.testing.assert_array_equal(frames.stored(np.array([3, 25])).patterns, counts[[3, 25]])


def test_frames_that_no_scan_takes_are_named(tmp_path, scan, counts, write_positions):
    broken = counts.astype(np.float32)
    broken[40] = np.nan
    in_folder(tmp_path, broken, range(FRAMES))
    write_positions(tmp_path / "positions.csv")
    stream = Stream(tmp_path)
    assert numbers_of(everything(stream)) == [number for number in range(FRAMES) if number != 40]
    (line,) = stream.given_up
    assert line.startswith("frame 40: ")


def grow(path, counts, positions, length, claimed=None):
    """Write the first `length` frames, in a data set of `claimed` ones, and close the file."""
    with h5py.File(path, "a") as file:
        if "frames" not in file:
            shape = counts.shape[1:]
            file.create_dataset(
                "frames", (0, *shape), counts.dtype, maxshape=(None, *shape), chunks=(8, *shape)
            )
            for name in ("x", "y"):
                file.create_dataset(name, (0,), maxshape=(None,), chunks=(64,))
                file[name].attrs["units"] = "px"
        claimed = length if claimed is None else claimed
        file["frames"].resize(claimed, axis=0)
        file["frames"][:length] = counts[:length]
        for axis, name in enumerate("xy"):
            file[name].resize(claimed, axis=0)
            file[name][:claimed] = positions[:claimed, axis]


def test_a_file_that_grows(tmp_path, scan, counts):
    path, positions = tmp_path / "scan.h5", scan.scan_positions_px
    stream = Stream(path)
    stream.poll()
    assert stream.take(100) is None
    path.write_bytes(b"\x89HDF\r\n")
    stream.poll()
    assert "scan.h5" in stream.trouble
    path.unlink()
    grow(path, counts, positions, 30)
    (first,) = everything(stream, ended=False)
    assert numbers_of([first]) == list(range(30))
    # longer than what was written of it
    grow(path, counts, positions, 50, claimed=70)
    assert numbers_of(everything(stream, ended=False)) == list(range(30, 50))
    assert stream.frames.seen == 50
    grow(path, counts, positions, FRAMES)
    assert numbers_of(everything(stream)) == list(range(50, FRAMES))
    whole = stream.whole_scan()
    np.testing.assert_array_equal(np.asarray(whole.patterns), counts)
    np.testing.assert_allclose(whole.scan_positions_px, positions, atol=1e-4)


def test_an_unwritten_end_is_named_and_dark_frames_within_are_not(tmp_path, scan, counts):
    path = tmp_path / "scan.h5"
    counts = counts.copy()
    counts[10:20] = 0
    grow(path, counts, scan.scan_positions_px, 40, claimed=60)
    frames = Hdf5Frames(path)
    frames.poll()
    parts = []
    while (taken := frames.take(10, FRAMES)) is not None:
        parts.append(taken)
    assert np.concatenate([part.numbers for part in parts]).tolist() == list(range(40))
    frames.poll(ended=True)
    assert frames.take(10, FRAMES) is None
    assert frames.left_out == ["scan.h5: frames 40 .. 59 at its end are empty, or were never written"]


def test_axes_and_windows_are_those_of_the_finished_scan(tmp_path, scan, counts):
    path = tmp_path / "scan.h5"
    wide = np.pad(counts, ((0, 0), (4, 6), (5, 5)))
    grow(path, wide, scan.scan_positions_px, FRAMES)
    options = ScanOptions(size=16, centre=(12, 13), swap_xy=True, flip_y=True)
    stream = Stream(path, options)
    parts = everything(stream)
    np.testing.assert_array_equal(np.concatenate([part.patterns for part in parts]), counts)
    live = np.concatenate([part.scan_positions_px for part in parts])
    whole = stream.whole_scan().scan_positions_px
    np.testing.assert_allclose(whole - live, np.broadcast_to((whole - live)[0], live.shape), atol=1e-6)
    np.testing.assert_allclose(stream.whole_scan(as_live=True).scan_positions_px, live, atol=1e-6)


def test_options_that_do_not_fit(tmp_path, counts, write_positions):
    with pytest.raises(ConfigError, match="patterns_from"):
        Stream(tmp_path, ScanOptions(patterns_from="other.h5"))
    in_folder(tmp_path, counts, range(20))
    np.savetxt(tmp_path / "positions.txt", np.arange(40.0).reshape(20, 2))
    with pytest.raises(ScanError, match="--positions-unit"):
        everything(Stream(tmp_path))


WRITER = """
import sys, time
import h5py, numpy as np
counts = np.load(sys.argv[2])
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    shape = counts.shape[1:]
    frames = file.create_dataset("frames", (0, *shape), counts.dtype, maxshape=(None, *shape), chunks=(8, *shape))
    xy = file.create_dataset("positions", (0, 2), maxshape=(None, 2), chunks=(64, 2))
    xy.attrs["units"] = "px"
    file.swmr_mode = True
    for start in range(0, len(counts), 16):
        stop = start + 16
        frames.resize(stop, axis=0)
        frames[start:stop] = counts[start:stop]
        frames.flush()
        xy.resize(stop, axis=0)
        xy[start:stop] = np.arange(2 * start, 2 * stop).reshape(-1, 2)
        xy.flush()
        print(stop, flush=True)
        sys.stdin.readline()
"""


def test_a_file_that_another_process_is_writing(tmp_path, counts):
    path = tmp_path / "scan.h5"
    np.save(tmp_path / "counts.npy", counts)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(tmp_path / "counts.npy")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        stream, found = Stream(path), []
        for stop in range(16, FRAMES + 1, 16):
            assert writer.stdout.readline().strip() == str(stop)
            found += everything(stream, ended=False)
            assert numbers_of(found) == list(range(stop))
            writer.stdin.write("\n")
            writer.stdin.flush()
        assert writer.wait(60) == 0
    finally:
        writer.kill()
        writer.communicate()
    np.testing.assert_array_equal(np.concatenate([part.patterns for part in found]), counts)
    np.testing.assert_array_equal(np.asarray(stream.whole_scan().patterns), counts)
