"""Finds image files, and decodes them to pixels of one size. An edge without torch reads images as training does."""

from __future__ import annotations

import errno
import io
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from smartedge.files import open_regular
from smartedge.images.size import RGB, ImageSize

__all__ = [
    "MOST_BYTES",
    "SUFFIXES",
    "Fit",
    "Item",
    "decode",
    "is_hidden",
    "is_lfs_pointer",
    "looks_like_base64",
    "too_large",
    "walk",
]

SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"}
    | {".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)

_BASE64 = ("iVBORw0KGgo", "R0lGOD", "UklGR", "data:image", "/9j/4")
_HEIC = (b"heic", b"heim", b"heis", b"heix", b"hevc", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_VIDEO = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ")
# How files of other kinds begin, which are often found under the name of an image.
_OTHERS = (
    (0, b"\xff\x0a", "a JPEG XL image, which is not read (save it as JPEG)"),
    (4, b"JXL ", "a JPEG XL image, which is not read (save it as JPEG)"),
    *((4, b"ftyp" + brand, "a video, not an image (save its frames as images)") for brand in _VIDEO),
    (128, b"DICM", "a DICOM file, which is not read (save it as PNG of 8 or 16 bits)"),
    (0, b"%PDF", "a PDF file, not an image (save its pages as images)"),
    (0, b"8BPS", "a Photoshop file, which is not read (save it as PNG)"),
    (0, b"\x89HDF", "an HDF5 file, not an image (save its images as PNG)"),
    (0, b"\x93NUMPY", "an array of NumPy, not an image (save it as PNG)"),
    (0, b"\x1f\x8b", "compressed by gzip (decompress it)"),
    (0, b"PK\x03\x04", "a zip archive, not an image (unpack it)"),
)
_OF_MACOS = "._"  # begins the name of what macOS keeps about a file where the disk has no place for it
_OF_SYSTEMS = ("lost+found", "System Volume Information")
MOST_BYTES = 2**30  # of an image file: more than any image within Pillow's limit of pixels has
_TOO_LARGE = "image too large (over 89 million pixels, or 1 GiB; save it smaller)"
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the reason is told instead

Item = bytes | Path | NDArray[np.uint8] | None
"""One image before decoding: a file's bytes, a file's path, pixels (H, W) or (H, W, C), or None if there is none."""

Pixels = NDArray[np.uint8]
_PICTURE_BANDS = 4  # an array of up to so many bands is a picture: grey or colours, with or without transparency
_SAMPLES = 277  # TIFF: how many channels a page has
_PHOTOMETRIC = 262  # TIFF: what a value means; 0: white is zero
Fit = Literal["crop", "squash", "letterbox"]
"""What becomes of an image of another shape: its middle; all of it, squeezed; or all of it, with black bars."""


def is_hidden(name: str) -> bool:
    """Whether a system or a program keeps files and folders of this name for itself: ``.git`` or ``__MACOSX``."""
    return name.startswith((".", "__", "@", "$")) or name in _OF_SYSTEMS


def walk(folder: Path, others: Counter[str] | None = None) -> Iterator[Path]:
    """The images in a folder and the folders below it, hidden ones left out.

    ``others`` counts the other files by their ending; those of images that are hidden with the word "hidden" before it.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    seen = set()
    above = set(folder.resolve().parents)
    for place, directories, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place)
        if (real := here.resolve()) in seen or real in above:  # a link that leads back
            directories.clear()
            continue
        seen.add(real)
        directories[:] = sorted(name for name in directories if not is_hidden(name))
        for name in sorted(names):
            ending = os.path.splitext(name)[1].lower()
            if is_hidden(name):
                if others is not None and ending in SUFFIXES and not name.startswith(_OF_MACOS):
                    others[f"hidden {ending}"] += 1
            elif ending in SUFFIXES:
                yield here / name
            elif others is not None:
                others[ending] += 1


def too_large(width: int, height: int) -> bool:
    """Whether an image has more pixels than Pillow's limit."""
    return width * height > (Image.MAX_IMAGE_PIXELS or float("inf"))


def is_lfs_pointer(data: bytes) -> bool:
    """Whether these are the first bytes of a git-LFS pointer, which stands for a file that was not fetched."""
    return data.startswith(b"version https://git-lfs")


def decode(item: Item, image_size: int | ImageSize, fit: Fit = "crop") -> Pixels | str:
    """One image as uint8 (H, W, C), or the reason why not.

    The image gets the shape that is asked for as ``fit`` says (the default crops the middle), and is resized with
    antialiasing. An orientation noted by a camera is applied; grey values of 16 bits are divided by 256.

    Three channels are red, green and blue: grey images are repeated, transparency is dropped. One channel is grey.
    Of any other number an image must have exactly as many, as bands of its file (RGBA, CMYK, grey with transparency) or
    as pages of a TIFF file with one band each.
    """
    if item is None:
        return "no image"
    size = ImageSize.of(image_size)
    try:
        found = _read(item) if isinstance(item, Path) else item
        if isinstance(found, str):
            return found
        if isinstance(found, bytes):
            return _decode_bytes(found, size, fit)
        return _decode_array(found, size, fit)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return _TOO_LARGE
    except Exception as error:  # damaged files make decoders raise anything
        return "image truncated" if "truncated" in str(error).lower() else "image cannot be decoded"


def looks_like_base64(name: str) -> bool:
    """Whether a name begins like a PNG, GIF, WebP or JPEG in base64, or like an image's data address."""
    return name.startswith(_BASE64)


def _read(path: Path) -> bytes | str:
    """The bytes of a file, or why it is not read."""
    try:
        with open_regular(path) as file:
            return _TOO_LARGE if os.fstat(file.fileno()).st_size > MOST_BYTES else file.read()
    except FileNotFoundError:
        return "image file missing"
    except PermissionError:
        return "image file may not be read (permissions)"
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return str(error.strerror)


def _decode_array(pixels: Pixels, size: ImageSize, fit: Fit) -> Pixels | str:
    """Pixels (H, W) or (H, W, C)."""
    bands = 1 if pixels.ndim == 2 else pixels.shape[2]
    if size.channels in (1, RGB) and bands <= _PICTURE_BANDS:
        picture = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
        return _picture(Image.fromarray(picture), size, fit)
    planes = np.moveaxis(np.atleast_3d(pixels), 2, 0)
    return _stacked([_fitted(Image.fromarray(plane), size, fit) for plane in planes], size)


def _decode_bytes(encoded: bytes, size: ImageSize, fit: Fit) -> Pixels | str:
    if not encoded:
        return "no image"
    if encoded[4:8] == b"ftyp" and encoded[8:12] in _HEIC:
        return "a HEIC image, which is not read (save it as JPEG)"
    if encoded.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"<", b"{"):
        return "text such as JSON or an HTML page, not an image (the download failed; fetch it again)"
    if is_lfs_pointer(encoded):
        return "a git-LFS pointer, not the image (run 'git lfs pull')"
    if other := next((what for place, magic, what in _OTHERS if encoded.startswith(magic, place)), None):
        return other
    if encoded[4:8] == b"ftyp" and encoded[8:12] not in _AVIF:
        kind = encoded[8:12].decode("latin-1")
        return f"a video or photograph of the kind {kind!r}, which is not read (save it as JPEG)"
    with Image.open(io.BytesIO(encoded)) as image:
        if too_large(image.width, image.height):
            return _TOO_LARGE
        if size.channels not in (1, RGB) or _pages(image) == size.channels == RGB:
            return _decode_planes(image, size, fit)
        shallow = _eight_bits(image)
        if isinstance(shallow, str):
            return shallow
        if shallow is not image:
            return _picture(shallow, size, fit)
        mode = "L" if size.channels == 1 and image.mode == "L" else "RGB"
        image.draft(mode, (2 * max(size.sides),) * 2)  # large JPEGs are decoded at a fraction of their size
        ImageOps.exif_transpose(image, in_place=True)  # which copies nothing where no orientation is noted
        if isinstance(image.info.get("transparency"), bytes):
            return _picture(image.convert("RGBA"), size, fit)  # a palette with transparent colours; Pillow warns else
        return _picture(image, size, fit)


def _pages(image: Image.Image) -> int:
    """Pages of a TIFF file that are channels: as many as it has, where they have one band each; 1 for other files."""
    return getattr(image, "n_frames", 1) if image.format == "TIFF" and len(image.getbands()) == 1 else 1


def _decode_planes(image: Image.Image, size: ImageSize, fit: Fit) -> Pixels | str:
    """The bands of a file, or its pages, as channels."""
    said = getattr(image, "tag_v2", {}).get(_SAMPLES, 1)
    if said > len(image.getbands()):
        return (
            f"its {said} channels lie in one page, of which Pillow reads {len(image.getbands())}; write a page for each"
        )
    planes: list[Pixels] = []
    pages, sides = _pages(image), image.size
    if pages not in (1, size.channels):  # said before they are decoded: a small file may have thousands of large ones
        return _other_channels(pages, size)
    for page in range(pages):
        if pages > 1:
            image.seek(page)
        if too_large(image.width, image.height):
            return _TOO_LARGE
        if image.size != sides:
            return "its pages have different sizes"
        if len(image.getbands()) > 1 and pages > 1:
            return "its pages have several bands each"
        shallow = _eight_bits(image)
        if isinstance(shallow, str):
            return shallow
        whole = ImageOps.exif_transpose(shallow) if shallow is image else shallow
        bands = (
            whole.convert("RGBA" if "transparency" in whole.info else "RGB").split()
            if whole.mode == "P"
            else whole.split()
        )
        planes += [_fitted(band.convert("L"), size, fit) for band in bands]  # at once: pages may be large
    return _stacked(planes, size)


def _stacked(planes: list[Pixels], size: ImageSize) -> Pixels | str:
    """Grey images as the channels of one. Each was resized by itself: transparency does not weigh the others."""
    return np.stack(planes, axis=2) if len(planes) == size.channels else _other_channels(len(planes), size)


def _other_channels(found: int, size: ImageSize) -> str:
    return f"it has {found} channels; data.image_size asks for {size.channels} (HEIGHTxWIDTHxCHANNELS)"


def _picture(image: Image.Image, size: ImageSize, fit: Fit) -> Pixels:
    """An image of one or three channels."""
    if size.channels == 1:
        return _fitted(image.convert("L"), size, fit)[..., None]
    return _fitted(image if image.mode == "RGB" else image.convert("RGB"), size, fit)


def _eight_bits(image: Image.Image) -> Image.Image | str:
    """An image of 16 bits per pixel divided by 256; other images of whole numbers as they are; else the reason."""
    if image.mode == "F":
        return "pixels are not whole numbers (save them as PNG or TIFF of 8 or 16 bits)"
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(ImageOps.exif_transpose(image))
    if values.min() < 0 or values.max() >= 2**16:
        return "more than 16 bits per channel (scale them to 16)"
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # Pillow heeds it with 8 bits alone
        values = 2**16 - 1 - values
    return Image.fromarray((values >> 8).astype(np.uint8))


def _fitted(image: Image.Image, size: ImageSize, fit: Fit) -> Pixels:
    """The image in the size asked for, uint8 (H, W, 3) or, of a grey one, (H, W)."""
    asked = (size.width, size.height)  # as Pillow has it
    if fit == "letterbox":
        return np.asarray(ImageOps.pad(image, asked, Image.Resampling.BICUBIC))
    if fit == "squash":
        return np.asarray(image.resize(asked, Image.Resampling.BICUBIC))
    width: float
    height: float
    width, height = image.size
    if width * size.height > height * size.width:  # the image is wider than what is asked for
        width = height * size.width / size.height
    else:
        height = width * size.height / size.width
    left, top = (image.width - width) / 2, (image.height - height) / 2
    if image.size != asked:
        image = image.resize(asked, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    return np.asarray(image)
