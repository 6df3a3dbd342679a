"""``make data``: download a public data set, or say where to register for it and unpack its archives."""

import argparse
from pathlib import Path

from commands.cli.errors import user_errors
from datamodules.public import DATASETS, PublicDataset
from datamodules.public.archives import unpack
from datamodules.public.download import DownloadError, download
from storage import check_writable, did_you_mean


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="one-step data", description=__doc__, allow_abbrev=False)
    p.add_argument("--name", required=True, help=f"one of {', '.join(DATASETS)}")
    p.add_argument("--archive", help="downloaded zip or tar file to unpack")
    p.add_argument("--out", default="data", help="folder the data sets are put into (default %(default)s)")
    options = p.parse_args(args)
    name, out = options.name, Path(options.out).expanduser()
    if name not in DATASETS:
        raise ValueError(f"Unknown data set {name!r}. Known: {', '.join(DATASETS)}.{did_you_mean(name, DATASETS)}")
    data = DATASETS[name]
    print(data.about)
    if options.archive and not data.files:
        raise ValueError(f"{name} needs no archive: {data.how}")
    if options.archive or data.download is not None:
        check_writable(out / f".{name}.zip")
    if options.archive:
        print(f"{unpack(Path(options.archive).expanduser(), data.files, out)} files unpacked into {out}.")
    elif data.needed and not data.missing(out):
        print(f"Already in {out}.")
    elif data.download is None:
        print(_instructions(data))
    else:
        archive = out / f".{name}.zip"
        try:
            download(data.download, archive)
        except DownloadError as error:
            advice = "The same command continues the download; or download it by other means and give ARCHIVE=file."
            raise ValueError(f"{error} {advice}") from error
        print(f"{unpack(archive, data.files, out)} files unpacked into {out}.")
        archive.unlink()
    missing = ", ".join(map(str, data.missing(out)))
    folder = out / data.folder if data.files else "FOLDER"
    print(f"Still missing: {missing}" if missing else f"make train EXP={data.experiment} DATA={folder}")
    return 0


def _instructions(data: PublicDataset) -> str:
    lines = [data.how]
    if data.files:
        lines.append(f"Then for each file: make data NAME={data.name} ARCHIVE=file")
    lines += [f"EXP={data.experiment} also needs {other}: make data NAME={other}" for other in data.together_with]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
