"""The command `convert`: scans of any format to one of those that are written."""

from pathlib import Path
from typing import Annotated

import typer

from ptycho_backends.cli.groups import Messages, takes_groups
from ptycho_backends.cli.options import option
from ptycho_backends.cli.reading import READ_AS_IT_IS, Reading
from ptycho_backends.errors import ConfigError


@takes_groups
@takes_groups
def convert(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Scans to read, and last the file to write (.npz, .h5, .cxi, .nxs, .ptyd); of several, a folder.",
            metavar="IN... OUT",
        ),
    ],
    reading: Reading = READ_AS_IT_IS,
    suffix: Annotated[
        str, typer.Option("--to", help="Suffix of the files in a folder.", metavar=".npz|.h5|.cxi|.nxs|.ptyd")
    ] = ".npz",
    uncompressed: Annotated[
        bool, option("--uncompressed", help="Write patterns that can be mapped; the files are larger.")
    ] = False,
    *,
    messages: Messages,
) -> None:
    """Write scans of any format as NPZ, Ptychodus's HDF5, CXI, NXcxi_ptycho or PtyPy's .ptyd.

    Example: ptycho-backends convert scan.cxi scan.npz --size 128 --centre auto

    Lengths that a scan lacks: ptycho-backends convert scan.npz scan.cxi --energy 8.8keV --distance 2m --pixel-size 10nm
    """
    with messages.session() as say:
        from ptycho_backends.cli.settings import scan_of
        from ptycho_backends.scans.readers.folder import scans_of_folder
        from ptycho_backends.scans.scan_files import export_training_data

        if len(paths) < 2:
            raise ConfigError(f"OUT: got {paths[0]} alone, want scans to read and a file or folder to write")
        *given, out = paths
        sources = [one for path in given for one in (scans_of_folder(path) if path.is_dir() else [path])]
        into_folder = len(sources) > 1 or out.is_dir() or not out.suffix
        for source in sources:
            scan = scan_of(source, reading)
            target = out / f"{scan.name}.{suffix.lstrip('.')}" if into_folder else out
            if target.exists() and target.resolve() == source.resolve():
                raise ConfigError(f"OUT: got {target}, which is the scan itself; name another file")
            written = export_training_data(scan, target, compressed=not uncompressed)
            for note in scan.notes:
                say(f"  {note}")
            say(f"wrote {written}: {len(scan)} patterns of {scan.N} x {scan.N} pixels, {scan.measurement}")
