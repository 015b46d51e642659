"""Reading of files one by one, with a note of all that it costs and does."""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Raised by the interpreter for things that no reader of a file may do (PEP 578).
FORBIDDEN = (
    "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "pty.", "socket.",
    "urllib.", "ftplib.", "smtplib.", "ctypes.dlopen", "pickle.find_class", "webbrowser.", "import",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.symlink", "os.link", "os.truncate", "shutil.",
)  # fmt: skip
WRITING = set("wax+")
# Packages that readers are made of, which may import parts of themselves late.
READERS = {
    "ptycho_backends", "numpy", "scipy", "h5py", "hdf5plugin", "pyfive", "yaml", "tifffile", "imagecodecs",
    *sys.stdlib_module_names,
}  # fmt: skip


def run(
    cases: Callable[[Path], Iterable[Any]], folder: Path, refusal: type[Exception]
) -> list[dict[str, Any]]:
    """One row for each case: what happened, seconds of processor time, megabytes, and forbidden events."""
    events: list[str] = []
    armed = False

    def hook(event: str, arguments: tuple) -> None:
        if not armed or (event != "open" and not event.startswith(FORBIDDEN)):
            return
        if event == "import" and str(arguments[0]).partition(".")[0] in READERS:
            return
        if event in ("os.remove", "os.rmdir") and arguments[-1] not in (-1, None):
            return  # within a folder that is removed, of which there was an event before
        texts = [str(argument) for argument in arguments[:2] if isinstance(argument, str | bytes | Path)]
        # unpacked files go to the folder for temporary ones, which is the tests' own
        if any(text.startswith(str(folder)) for text in texts):
            return
        if event == "open" and not (isinstance(arguments[1], str) and WRITING & set(arguments[1])):
            return
        events.append(f"{event} {' '.join(texts)}"[:200])

    sys.addaudithook(hook)
    rows = []
    for case in cases(folder):
        path = folder / case.file
        path.write_bytes(case.data)
        size = len(case.data)
        events.clear()
        before, started = _reset_peak(), time.process_time()
        # whole files come first, and import all that reading takes
        armed = case.name != "whole"
        try:
            case.read(path)
            outcome = "loaded"
        except refusal as error:
            outcome = "refused" if _is_good(str(error), path) else f"bad message: {error!s:.300}"
        except BaseException as error:
            outcome = f"raw {type(error).__name__}: {error!s:.300}"
        armed = False
        row = {"form": case.form, "name": case.name, "outcome": outcome, "loads": case.loads, "size": size}
        spent = {"seconds": time.process_time() - started, "megabytes": _peak() - before}
        rows.append(row | spent | {"events": list(events)})
    return rows


def _is_good(text: str, path: Path) -> bool:
    """True for a message that names the file and cannot steer a terminal."""
    return path.name in text and not set(text) & set("\x1b\x9b\7\0")


def _reset_peak() -> float:
    """Set the process's peak of memory back to what it has now, in megabytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0
