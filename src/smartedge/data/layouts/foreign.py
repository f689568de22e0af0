"""Data sets of other programs, which are not read here: by what they are recognised, and what to do with them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["is_archive", "recognise"]

_GIVE = "give the data set to smartedge.train(config, data=...)"
_IN_PYTHON = f"read them in Python, and {_GIVE}"
_UNPACK = "unpack it, and give its folder"

_ARCHIVE = r"\.(zip|tar\.\w+|tgz|gz|bz2|xz|zst|7z|rar)$"
_KINDS = (  # a pattern of file names, what they are, what to do
    (r"\.tfrecords?($|-\d+-of-\d+$)", "TensorFlow's TFRecord files", _IN_PYTHON),
    (r"\.mdb$", "an LMDB database", _IN_PYTHON),
    (r"-ubyte(\.gz)?$", "MNIST's IDX files", f"open them with torchvision.datasets.MNIST, and {_GIVE}"),
    (r"\.(h5|hdf5)$", "HDF5 files", _IN_PYTHON),
    (r"\.mat$", "MATLAB's files", _IN_PYTHON),
    (r"\.beton$", "FFCV's files", _IN_PYTHON),
    (r"\.npz$", "NumPy's arrays", "give the file itself, not its folder"),
    (r"\.npy$", "NumPy's arrays", "write an .npz with train_images and train_labels (numpy.savez)"),
    (r"\.(pt|pth|pkl|pickle)$", "pickles, which could run code", _IN_PYTHON),
    (r"\.(xlsx?|ods)$", "a spreadsheet", "save it as CSV with the columns file_name and label"),
    (r"\.json$", "JSON, such as COCO's", "write a table metadata.csv with the columns file_name and label"),
    (
        r"\.xml$|^data\.ya?ml$|\.names$",
        "annotations of objects",
        "write a table metadata.csv with the columns file_name and label",
    ),
    (r"\.(dcm|dicom|nii|nii\.gz|mha|nrrd)$", "medical scans", "save each as PNG of 8 or 16 bits"),
    (r"\.(heic|heif)$", "HEIC photographs", "save them as JPEG"),
    (r"\.(cr2|cr3|nef|arw|dng)$", "raw photographs", "save them as JPEG"),
    (r"\.(jxl|svg|psd|eps|ico|exr|hdr|pfm)$", "pictures of a kind that is not read", "save them as PNG or JPEG"),
    (r"\.(mp4|avi|mov|mkv)$", "videos", "save their frames as images"),
    (r"\.(mpo|j2k|jpx)$", "pictures under an ending that is not known", "save them as JPEG or PNG"),
    (_ARCHIVE, "an archive", _UNPACK),
)


def recognise(files: Iterable[Path]) -> str:
    """What the first known kind of these files is and what to do with it, in words; empty where none is known."""
    names = [file.name.lower() for file in files]
    for pattern, what, remedy in _KINDS:
        if found := next((name for name in names if re.search(pattern, name)), None):
            return f"{found} looks like {what}: {remedy}"
    return ""


def is_archive(file: Path) -> bool:
    """Whether a file is called like an archive."""
    return re.search(_ARCHIVE, file.name.lower()) is not None
