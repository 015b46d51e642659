"""MATLAB, TIFF, NPY with positions in text, folders; files of no use are named."""

import h5py
import numpy as np
import pytest
import scipy.io

from ptycho_backends import load_scan, save_scan
from ptycho_backends.errors import ScanError
from ptycho_backends.scans.geometry import ScanOptions
from ptycho_backends.scans.readers.folder import scans_of_folder
from ptycho_backends.scans.readers.positions import positions_of_file

IN_METRES = ScanOptions(positions_unit="m", pixel_size_m=1e-8)


def test_matlab_5(scan, counts, metres, tmp_path):
    path = tmp_path / "scan.mat"
    content = {
        "dp": np.moveaxis(counts, 0, -1), "positions": metres, "probe": scan.probe_guess, "lambda": 1e-10, "zo": 2.0,
        "dxd": 75e-6, "note": "text", "settings": {"N": 64},
    }  # fmt: skip
    scipy.io.savemat(path, content)
    got = load_scan(path, options=ScanOptions(positions_unit="m"))
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_array_equal(got.probe_guess, scan.probe_guess)
    np.testing.assert_allclose(got.scan_positions_px, metres / (1e-10 * 2.0 / (64 * 75e-6)))
    with pytest.raises(ScanError, match="does not state their unit"):
        load_scan(path)


def test_matlab_73(scan, counts, metres, tmp_path):
    """As MATLAB writes (ky, kx, M): the axes reversed, complex numbers as pairs, a user block before."""
    path = tmp_path / "scan.mat"
    probe = np.empty((64, 64), [("real", "f4"), ("imag", "f4")])
    probe["real"], probe["imag"] = scan.probe_guess.T.real, scan.probe_guess.T.imag
    with h5py.File(path, "w", userblock_size=512) as file:
        file["dp"] = np.swapaxes(counts, 1, 2)
        file["ppX"], file["ppY"] = metres[None, :, 0], metres[None, :, 1]
        file["probe"] = probe
        file["energy"] = np.array([[8.8]])
    with open(path, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    for mapped in (False, True):
        got = load_scan(path, mapped=mapped, options=ScanOptions(pixel_size_m=1e-8))
        np.testing.assert_array_equal(np.asarray(got.patterns), counts)
        np.testing.assert_array_equal(got.probe_guess, scan.probe_guess)
        np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)
        assert got.photon_energy_eV == pytest.approx(8800)


def test_ptychoshelves_pair(scan, counts, metres, tmp_path):
    with h5py.File(tmp_path / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = np.swapaxes(counts, 1, 2)
    with h5py.File(tmp_path / "data_roi0_para.hdf5", "w") as file:
        file["ppX"], file["ppY"], file["dx"], file["lambda"] = metres[:, 0], metres[:, 1], 1e-8, 1e-10
    got = load_scan(tmp_path / "data_roi0_dp.hdf5")
    np.testing.assert_array_equal(got.patterns, counts)
    np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)


def test_tiff(scan, counts, metres, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    np.savetxt(tmp_path / "positions.txt", metres, header="x y")
    tifffile.imwrite(tmp_path / "stack.tif", counts, photometric="minisblack")
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(counts):
        tifffile.imwrite(folder / f"frame_{number}.tif", frame)
    np.savetxt(folder / "stage.csv", metres, delimiter=";")
    for path in (tmp_path / "stack.tif", folder):
        for mapped in (False, True):
            got = load_scan(path, mapped=mapped, options=IN_METRES)
            np.testing.assert_array_equal(np.asarray(got.patterns), counts)
            np.testing.assert_array_equal(got.patterns[[9, 1]], counts[[9, 1]])
            np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)
    tifffile.imwrite(tmp_path / "colour.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(ScanError, match="want grey images"):
        load_scan(tmp_path / "colour.tif")
    (tmp_path / "damaged.tif").write_bytes(b"II*\0" + b"numbers" * 100)
    with pytest.raises(ScanError, match=r"damaged\.tif: not a readable TIFF"):
        load_scan(tmp_path / "damaged.tif")


def test_npy_with_text(scan, counts, metres, tmp_path):
    np.save(tmp_path / "scan.npy", counts)
    with pytest.raises(ScanError, match="without positions"):
        load_scan(tmp_path / "scan.npy")
    np.savetxt(tmp_path / "scan.csv", metres * 1e9, delimiter=",", header="x (nm), y (nm)", comments="# ")
    for mapped in (False, True):
        got = load_scan(tmp_path / "scan.npy", mapped=mapped, options=ScanOptions(pixel_size_m=1e-8))
        np.testing.assert_array_equal(np.asarray(got.patterns), counts)
        np.testing.assert_allclose(got.scan_positions_px, scan.scan_positions_px)
    np.save(tmp_path / "other.npy", scan.scan_positions_px)
    options = ScanOptions(positions_from=str(tmp_path / "other.npy"), positions_unit="px")
    np.testing.assert_array_equal(
        load_scan(tmp_path / "scan.npy", options=options).scan_positions_px, scan.scan_positions_px
    )


@pytest.mark.parametrize(
    ("text", "unit", "first"),
    [
        ("1 2\n3 4\n", None, [1, 2]),
        ("number,y_um,x_um\n0,2,1\n1,4,3\n", "um", [1, 2]),
        ("# posy\tposx\n2\t1\n4\t3\n", None, [1, 2]),
        ("1;2;9\n3;4;9\n", None, [1, 2]),
        ("x;y\n1,5;2,5\n3,5;4,5\n", None, [1.5, 2.5]),
        ("y [mm]\tx [mm]\n2,5\t1,5\n4,5\t3,5\n", "mm", [1.5, 2.5]),
        ("number,stage_y (μm),stage_x (μm)\n0,2,1\n1,4,3\n", "um", [1, 2]),
        ("x in nanometres,y in nanometres\n1,2\n3,4\n", "nm", [1, 2]),
    ],
)
def test_text(text, unit, first, tmp_path):
    path = tmp_path / "positions.csv"
    for encoding in ("utf-8", "utf-16", "cp1252"):
        path.write_text(text if encoding != "cp1252" else text.replace("μ", "µ"), encoding)
        positions, found, _ = positions_of_file(path)
        assert found == unit
        assert positions[0].tolist() == first
    path.write_text(text + "a word\n", "utf-8")
    with pytest.raises(ScanError, match=r"line .*want numbers"):
        positions_of_file(path)


def test_columns_without_a_known_name_are_not_guessed(tmp_path):
    path = tmp_path / "positions.csv"
    path.write_text("frame,horizontal,vertical\n0,1,2\n1,3,4\n")
    with pytest.raises(
        ScanError, match=r"columns frame, horizontal, vertical, of which none are called x and y"
    ):
        positions_of_file(path)


def test_frames_are_found_from_another_working_directory(scan, counts, tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "stack.tif", counts, photometric="minisblack")
    np.savetxt(tmp_path / "positions.txt", scan.scan_positions_px)
    np.save(tmp_path / "stack.npy", counts)
    with h5py.File(tmp_path / "stack.h5", "w") as file:
        file.create_dataset("patterns", data=counts, chunks=(1, 64, 64), compression="gzip")
        file["xcoords"], file["ycoords"] = scan.xcoords, scan.ycoords
    monkeypatch.chdir(tmp_path)
    names = ("stack.tif", "stack.npy", "stack.h5")
    scans = [load_scan(name, mapped=True, options=ScanOptions(positions_unit="px")) for name in names]
    monkeypatch.chdir("/")
    for got in scans:
        np.testing.assert_array_equal(np.asarray(got.patterns), counts)


def test_folder_of_scans(scan, tmp_path):
    for number in (10, 2):
        save_scan(scan, tmp_path / f"scan_{number}.npz")
    (tmp_path / "notes.md").write_text("text")
    assert [path.name for path in scans_of_folder(tmp_path)] == ["scan_2.npz", "scan_10.npz"]
    with pytest.raises(ScanError, match=r"a folder of 2 scans, scan_2\.npz, scan_10\.npz; name one"):
        load_scan(tmp_path)
    (tmp_path / "scan_2.npz").unlink()
    assert load_scan(tmp_path).name == "scan_10"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ScanError, match="a folder without images and without scans"):
        scans_of_folder(empty)
    with pytest.raises(ScanError, match="a folder without images"):
        load_scan(empty)


USELESS = {
    "Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "web page": b"\n<!DOCTYPE html><html>",
    "empty file": b"",
    "a video": b"\0\0\0\x18ftypmp42" + bytes(40),
    "a video, .*AVI|a video": b"RIFF\x10\0\0\0AVI LIST" + bytes(40),
    "JPEG image": b"\xff\xd8\xff\xe0" + bytes(40),
    "PDF document": b"%PDF-1.7" + bytes(40),
    "no known kind": b"some words about a scan" * 4,
}


@pytest.mark.parametrize("kind", USELESS)
def test_useless_files_in_one_sentence(kind, tmp_path):
    path = tmp_path / "scan.npz"
    path.write_bytes(USELESS[kind])
    with pytest.raises(ScanError, match=rf"scan\.npz: .*({kind})") as error:
        load_scan(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
