"""HDF5 files that a user names: each compression, layout and link that detectors write; in threads and processes."""

import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import h5py
import hdf5plugin
import numpy as np
import pytest

from ptycho_backends.errors import ScanError
from ptycho_backends.files import datasets_hdf5
from ptycho_backends.files.budget import Growth
from ptycho_backends.files.datasets_hdf5 import DatasetFile, Hdf5Patterns, write_datasets
from ptycho_backends.files.located_hdf5 import has_circles

PATTERNS = np.random.default_rng(0).poisson(2.0, (11, 30, 31)).astype(np.uint16)


def written(path, array=PATTERNS, name="data", **options):
    file_options = {key: options.pop(key) for key in ("libver", "userblock_size") if key in options}
    with h5py.File(path, "w", **file_options) as file:
        file.create_dataset(name, data=array, **options)
    return path


def both(path, name="data"):
    """The array read at once, and left in the file."""
    with DatasetFile(path) as file:
        return file.array(name), file.patterns(name)


COMPRESSED = {
    "lzf": {"compression": "lzf", "shuffle": True},
    "gzip": {"compression": "gzip", "shuffle": True},
    "checksum": {"fletcher32": True, "chunks": (1, 30, 31)},
    "bitshuffle": {"chunks": (1, 30, 31), **hdf5plugin.Bitshuffle(cname="lz4")},
    "lz4": {"chunks": (1, 30, 31), **hdf5plugin.LZ4()},
    "blosc": {"chunks": (7, 5, 3), **hdf5plugin.Blosc()},
    "zstandard": {"chunks": (4, 30, 31), **hdf5plugin.Zstd()},
}
LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (7, 5, 3)},
    "one chunk": {"chunks": (11, 30, 31)},
    **COMPRESSED,
}


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f4", "<c16", "bool"])
def test_every_layout_is_read_as_h5py_reads_it(layout, dtype, libver, tmp_path):
    array = PATTERNS.astype(dtype)
    got, stored = both(written(tmp_path / "x.h5", array, libver=libver, **LAYOUTS[layout]))
    assert got.flags.writeable
    assert got.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(np.asarray(stored), array)
    for indices in (slice(2, 9, 3), np.array([[3, 10], [3, 0]]), -1, np.array([], int)):
        np.testing.assert_array_equal(stored[indices], array[indices])


@pytest.mark.parametrize("layout", ["contiguous", "gzip"])
@pytest.mark.parametrize("block", [512, 4096])
def test_a_user_block_shifts_nothing(layout, block, tmp_path):
    path = written(tmp_path / "x.mat", userblock_size=block, **LAYOUTS[layout])
    with open(path, "r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")
    for got in both(path):
        np.testing.assert_array_equal(got, PATTERNS)


def test_numbers_that_numpy_has_no_type_for_are_converted(tmp_path):
    """12 bits in 16: NumPy's nearest type is not the stored one, so it must not be mapped."""
    stored = h5py.h5t.STD_U16LE.copy()
    stored.set_precision(12)
    stored.set_offset(4)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((11, 30, 31))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b"data", stored, space))
        dataset[...] = PATTERNS
    for got in both(tmp_path / "x.h5"):
        np.testing.assert_array_equal(got, PATTERNS)


def test_a_file_that_a_detector_is_writing(tmp_path):
    path = tmp_path / "live.h5"
    program = (
        "import h5py, sys; import numpy as np\n"
        f"file = h5py.File({os.fspath(path)!r}, 'w', libver='latest')\n"
        "data = file.create_dataset('data', (0, 4, 4), 'u2', chunks=(1, 4, 4), maxshape=(None, 4, 4))\n"
        "file.swmr_mode = True\n"
        "data.resize(3, axis=0); data[:] = 7; data.flush()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout.readline() == "ready\n"
        got, stored = both(path)
        assert (got == 7).all()
        assert (np.asarray(stored) == 7).all()
        writer.stdin.close()


def test_a_file_open_for_writing_elsewhere_is_refused_with_a_cure(tmp_path):
    path = written(tmp_path / "busy.h5")
    program = (
        f"import h5py, sys; f = h5py.File({os.fspath(path)!r}, 'r+'); print(1, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        writer.stdout.readline()
        with pytest.raises(ScanError, match=r"busy\.h5: another program has it open for writing"):
            DatasetFile(path)
        writer.stdin.close()


# --- links and virtual data sets


def test_links_are_followed_within_the_folder(tmp_path):
    (tmp_path / "raw").mkdir()
    written(tmp_path / "raw" / "data_000001.h5", name="entry/data/data", **COMPRESSED["bitshuffle"])
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data/first"] = h5py.ExternalLink("raw/data_000001.h5", "/entry/data/data")
        file["entry/again"] = h5py.SoftLink("/entry/data/first")
        file["entry/beside"] = h5py.SoftLink("data/first")
        file["group"] = h5py.ExternalLink("raw/data_000001.h5", "/entry")
        # an absolute path of the computer that wrote it
        file["moved"] = h5py.ExternalLink("/facility/2019/raw/data_000001.h5", "/entry/data/data")
    for name in ("entry/data/first", "/entry/again", "entry/beside", "group/data/data"):
        got, stored = both(tmp_path / "master.h5", name)
        np.testing.assert_array_equal(got, PATTERNS)
        np.testing.assert_array_equal(stored[3:5], PATTERNS[3:5])
    with pytest.raises(ScanError, match=r"moved: an external link to /facility.*which is not there"):
        both(tmp_path / "master.h5", "moved")
    (tmp_path / "raw" / "data_000001.h5").rename(tmp_path / "data_000001.h5")
    np.testing.assert_array_equal(both(tmp_path / "master.h5", "moved")[0], PATTERNS)


@pytest.mark.parametrize("how", ["relative", "absolute", "symbolic link", "in two steps"])
def test_links_that_leave_the_folder_are_refused(how, tmp_path):
    secret = written(tmp_path / "secret.h5")
    folder = tmp_path / "scan"
    folder.mkdir()
    target = {"relative": "../secret.h5", "absolute": os.fspath(secret), "symbolic link": "near.h5"}.get(how)
    if how == "symbolic link":
        (folder / "near.h5").symlink_to(secret)
    if how == "in two steps":
        target = "second.h5"
        with h5py.File(folder / target, "w") as file:
            file["data"] = h5py.ExternalLink("../secret.h5", "/data")
    with h5py.File(folder / "scan.h5", "w") as file:
        file["data"] = h5py.ExternalLink(target, "/data")
        layout = h5py.VirtualLayout(PATTERNS.shape, PATTERNS.dtype)
        layout[:] = h5py.VirtualSource(target, "data", PATTERNS.shape)
        file.create_virtual_dataset("virtual", layout)
    for name in ("data", "virtual"):
        with pytest.raises(
            ScanError, match=rf"scan\.h5: {name}: .* to .*, which lies outside the scan's folder"
        ):
            both(folder / "scan.h5", name)


def test_links_in_circles(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
        file["c"] = h5py.ExternalLink("x.h5", "/c")
    for name in "abc":
        with pytest.raises(ScanError, match=f"{name}: its links lead in circles"):
            both(tmp_path / "x.h5", name)


def virtual(path, sources, shape=PATTERNS.shape, frames=1):
    layout = h5py.VirtualLayout(shape, PATTERNS.dtype)
    for number, source in enumerate(sources):
        here = slice(number * frames, (number + 1) * frames)
        layout[here] = h5py.VirtualSource(source, "data", (frames, *shape[1:]))
    with h5py.File(path, "w", libver="latest") as file:
        file.create_virtual_dataset("data", layout)
    return path


def test_virtual_data_sets(tmp_path):
    names = [f"frame_{number}.h5" for number in range(len(PATTERNS))]
    for name, pattern in zip(names, PATTERNS, strict=True):
        written(tmp_path / name, pattern[np.newaxis], **{**COMPRESSED["bitshuffle"], "chunks": (1, 30, 31)})
    path = virtual(tmp_path / "x.h5", names)
    outer = virtual(tmp_path / "outer.h5", ["x.h5"], frames=len(PATTERNS))
    for one in (path, outer):
        got, stored = both(one)
        np.testing.assert_array_equal(got, PATTERNS)
        np.testing.assert_array_equal(stored[[5, 0, 5]], PATTERNS[[5, 0, 5]])
    (tmp_path / names[4]).unlink()
    # the C library would fill in zeros
    for one in (path, outer):
        with pytest.raises(ScanError, match=r"frame_4\.h5, which is not there"):
            both(one)


def test_virtual_data_sets_within_a_file_and_of_numbered_files(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file["raw"] = PATTERNS
        layout = h5py.VirtualLayout(PATTERNS.shape, PATTERNS.dtype)
        layout[:] = h5py.VirtualSource(file["raw"])
        file.create_virtual_dataset("data", layout)
    np.testing.assert_array_equal(both(tmp_path / "x.h5")[0], PATTERNS)
    for number in range(3):
        written(tmp_path / f"part_{number}.h5", PATTERNS[number][np.newaxis])
    with h5py.File(tmp_path / "y.h5", "w", libver="latest") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((0, 30, 31), (h5py.h5s.UNLIMITED, 30, 31))
        space.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (1, 30, 31), (1, 30, 31))
        source = h5py.h5s.create_simple((1, 30, 31))
        properties.set_virtual(space, b"part_%b.h5", b"data", source)
        h5py.h5d.create(
            file.id, b"data", h5py.h5t.NATIVE_UINT16,
            h5py.h5s.create_simple((0, 30, 31), (h5py.h5s.UNLIMITED, 30, 31)), properties,
        )  # fmt: skip
    np.testing.assert_array_equal(both(tmp_path / "y.h5")[0], PATTERNS[:3])


# --- refused


TRICKS = {
    "external storage": (
        lambda f, n: f.create_dataset(n, (4,), "f8", external=[("/etc/passwd", 0, 32)]), "in external files"),
    "never written": (lambda f, n: f.create_dataset(n, (4,), "f8"), "never written"),
    "huge and empty": (lambda f, n: f.create_dataset(n, (10**9, 10**6), "f8", chunks=(10**3, 100)), "never written"),
    "huge": (
        lambda f, n: f.create_dataset(n, (10**4, 10**4), "f8", chunks=(10**4, 10**4), compression="gzip",
                                      fillvalue=0).id.write_direct_chunk((0, 0), b"x"), "claims shape"),
    "huge chunks": (
        lambda f, n: f.create_dataset(n, (3, 4), "f8", chunks=(2**20, 2**8), maxshape=(None, None)), "chunks of"),
    "missing chunks": (
        lambda f, n: f.create_dataset(n, (64, 64), "f8", chunks=(8, 8)).__setitem__((0, 0), 1.0),
        "63 of its 64 parts were never written, or are lost"),
    "text": (lambda f, n: f.create_dataset(n, data="text"), "want numbers"),
    "records": (lambda f, n: f.create_dataset(n, data=np.zeros(3, "i4,f8")), "want numbers"),
    "group": (lambda f, n: f.create_group(n), "a group, want an array"),
    "no data": (lambda f, n: f.create_dataset(n, data=h5py.Empty("f8")), "want numbers"),
    "below an array": (lambda f, n: f.__setitem__(n, h5py.SoftLink("/other/x")), "an array, want a group"),
    "nowhere": (lambda f, n: f.__setitem__(n, h5py.SoftLink("/nowhere")), "data missing; the file holds data, other"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TRICKS)
def test_tricks_are_refused_before_room_is_made(kind, tmp_path):
    make, text = TRICKS[kind]
    path = write_datasets(tmp_path / "x.h5", {"other": np.arange(3.0)}, {})
    with h5py.File(path, "r+") as file:
        make(file, "data")
    with DatasetFile(path) as file:
        with pytest.raises(ScanError, match=text) as caught:
            file.array("data")
        assert str(path) in str(caught.value)
        np.testing.assert_array_equal(file.array("other"), np.arange(3.0))


def test_a_filter_that_nobody_has_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((4,))
        properties.set_filter(31_999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((4,))
        h5py.Dataset(h5py.h5d.create(file.id, b"data", h5py.h5t.NATIVE_DOUBLE, space, properties))[:] = 1
    with pytest.raises(ScanError, match=r"data: compressed with filter 31999 .* hdf5plugin does not have"):
        both(tmp_path / "x.h5")


def test_damaged_parts_name_the_file_when_they_are_read(tmp_path):
    path = written(tmp_path / "x.h5", **COMPRESSED["checksum"])
    with h5py.File(path) as file:
        place = file["data"].id.get_chunk_info(5).byte_offset
    with open(path, "r+b") as stream:
        stream.seek(place + 9)
        stream.write(b"damage")
    with DatasetFile(path) as file:
        stored = file.patterns("data")
        with pytest.raises(ScanError, match=r"x\.h5: not a readable HDF5 file"):
            file.array("data")
    np.testing.assert_array_equal(stored[:5], PATTERNS[:5])
    with pytest.raises(ScanError, match=r"x\.h5"):
        stored[5]


def test_attributes_that_are_many_or_odd(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["text"], file.attrs["fixed"] = "ä" * 20000, np.bytes_(b"abc")
        file.attrs["vector"], file.attrs["empty"] = np.arange(3), h5py.Empty("f8")
        file.attrs["yes"], file.attrs["count"] = True, np.int32(-7)
    with DatasetFile(tmp_path / "x.h5") as file:
        assert file.attributes() == {"text": "ä" * 20000, "fixed": "abc", "yes": 1, "count": -7}
    with h5py.File(tmp_path / "y.h5", "w", libver="latest") as file:
        group = file.create_group("group")
        for number in range(20):
            group.attrs[f"a{number}"] = number
    with DatasetFile(tmp_path / "y.h5") as file:
        assert file.attributes("group") == {f"a{number}": number for number in range(20)}


# --- open files


@pytest.fixture
def stored(tmp_path):
    return both(written(tmp_path / "x.h5", **COMPRESSED["bitshuffle"]))[1]


def open_files(path):
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    return sum(os.path.exists(link) and os.path.realpath(link) == os.fspath(path) for link in links)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_files_are_closed_with_the_last_reference(tmp_path):
    path = written(tmp_path / "x.h5", **COMPRESSED["bitshuffle"])
    with DatasetFile(path) as file:
        stored = file.patterns("data")
        assert open_files(path) == 1
    assert open_files(path) == 0
    stored[3]
    assert open_files(path) == 1
    del stored
    gc.collect()
    assert open_files(path) == 0
    with h5py.File(path, "w"):
        pass  # nothing holds it


def test_only_the_patterns_asked_for_are_in_memory(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (400, 512, 512), "u2", chunks=(1, 512, 512), compression="gzip")
        for number in range(400):
            data[number] = number
    program = (
        "import resource, sys; import numpy as np; from ptycho_backends import open_patterns\n"
        "patterns = open_patterns(sys.argv[1], 'data'); patterns[0]\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for number in range(400): assert (patterns[number] == number).all()\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # MB; the patterns are 200


def test_threads_read_at_the_same_time(stored):
    wrong = []

    def reads(seed):
        draw = np.random.default_rng(seed)
        for _ in range(40):
            indices = draw.integers(0, len(PATTERNS), 5)
            if not np.array_equal(stored[indices], PATTERNS[indices]):
                wrong.append(indices)

    threads = [threading.Thread(target=reads, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _sum(patterns):
    return os.getpid(), int(np.asarray(patterns).sum())


def test_pickled_by_name_for_processes_that_are_spawned(stored):
    stored[0]
    sent = pickle.dumps(stored)
    assert len(sent) < 1000
    np.testing.assert_array_equal(np.asarray(pickle.loads(sent)), PATTERNS)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_a_forked_process_opens_the_file_for_itself(stored):
    stored[0]
    mine = stored._opened
    reader, writer = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: writer.send((_sum(stored), stored._opened[0]))
    )
    process.start()
    assert reader.poll(60)
    (pid, total), opened_by = reader.recv()
    process.join()
    assert pid == opened_by == process.pid
    assert total == PATTERNS.sum()
    assert stored._opened is mine
    np.testing.assert_array_equal(stored[2], PATTERNS[2])


def test_chunks_of_one_pattern_are_kept_however_large(tmp_path, monkeypatch):
    """The C library would unpack a chunk beyond its cache, 1 MB by default, for each pattern anew."""
    array = np.broadcast_to(np.arange(20, dtype=np.uint16)[:, None, None], (20, 256, 256))
    path = written(tmp_path / "x.h5", array, chunks=(20, 256, 128), compression="gzip")
    monkeypatch.setattr("ptycho_backends.files.datasets_hdf5.MAX_KEPT_BYTES", 1)
    with DatasetFile(path) as file:
        stored = file.patterns("data")
    np.testing.assert_array_equal(stored[[7, 0]], array[[7, 0]])
    assert isinstance(stored, Hdf5Patterns)
    _, cache, _ = stored._opened[1].id.get_access_plist().get_chunk_cache()
    assert cache == 2 * array.nbytes


def test_sane_sizes_follow_the_files(tmp_path, monkeypatch):
    """A mask of zeros shrinks to nearly nothing and is still read; a scan of the same ratio is refused."""
    path = written(
        tmp_path / "x.h5", np.zeros((40, 512, 512), np.uint8), chunks=(40, 512, 512), **hdf5plugin.Zstd()
    )
    assert both(path)[0].sum() == 0
    monkeypatch.setattr(datasets_hdf5, "BY_FRAME", Growth(1 << 20, 1100))
    with pytest.raises(ScanError, match="claims shape"):
        both(path)


@pytest.mark.parametrize(
    ("links", "circular"),
    [
        ({}, False),
        ({"a/again": "b"}, False),
        ({"a/again": "a"}, True),
        ({"a/again": "/"}, True),
        # two paths to each of twenty: a million to the last
        ({f"g{i}/{name}": f"g{i + 1}" for i in range(20) for name in "xy"}, True),
    ],
)
def test_groups_that_contain_themselves_are_found(tmp_path, links, circular):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w") as file:
        file["a/numbers"], file["b/numbers"] = np.arange(3), np.arange(4)
        for i in range(21):
            file.create_group(f"g{i}")
        for name, target in links.items():
            file[name] = file[target]
        file["soft"] = h5py.SoftLink("/")
    assert has_circles(path) == circular
