"""Formats that are not read, by the first bytes of a file and by the ending of its name, so that they can be named."""

from __future__ import annotations

import re

BEGIN = 132  # bytes of a file that decide: DICOM's mark is the last of them

# brands of the ISO base media file format, whose file begins with a box "ftyp"
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    b"crx ": "camera raw",
    b"jpx ": "JPEG 2000",
    b"jp2 ": "JPEG 2000",
}
# how a file begins -> its format
SIGNATURES = (
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\x00\x00\x00\x0cJXL \r\n\x87\n|\xff\x0a", "JPEG XL"),
    (rb"II\x2b\x00|MM\x00\x2b", "BigTIFF"),
    (rb"IIRO|IIRS|IIU\x00|FUJIFILMCCD-RAW|FOVb", "camera raw"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"8BP[SX]", "Photoshop"),
    (rb"%PDF-", "PDF"),
    (rb"%!PS", "PostScript"),
    (rb"\x00\x00\x01\x00[^\x00]\x00|\x00\x00\x02\x00[^\x00]\x00", "icon (ICO)"),
    (rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!DOCTYPE svg|<svg)", "SVG"),
    (rb"P[1-7][\s#]|P[Ff]\s", "PNM"),
    (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"gimp xcf ", "GIMP"),
    (rb"DDS ", "DDS"),
    (rb"SIMPLE  =", "FITS"),
    (rb".{128}DICM", "DICOM"),
    (rb"\x5c\x01\x00\x00|\x00\x00\x01\x5c", "NIfTI"),
    (rb"\x93NUMPY", "NumPy"),
    (rb"\x89HDF\r\n\x1a\n", "HDF5"),
    (rb"MATLAB", "MATLAB"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "archive"),
    (rb"\x1a\x45\xdf\xa3|RIFF....AVI |\x00\x00\x01\xba", "video"),
)
PATTERNS = [(re.compile(pattern, re.DOTALL), name) for pattern, name in SIGNATURES]

ENDINGS = {
    "HEIC": "heic heif hif",
    "AVIF": "avif avifs",
    "camera raw": "3fr arw cr2 cr3 crw dcr dng erf iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw "
    "x3f",
    "SVG": "svg svgz",
    "Photoshop": "psd psb",
    "JPEG 2000": "j2c j2k jp2 jpc jpf jpm jpx",
    "JPEG XL": "jxl",
    "JPEG XR": "jxr wdp hdp",
    "icon (ICO)": "cur icns ico",
    "PDF": "pdf",
    "PostScript": "ai eps ps",
    "DICOM": "dcm dicom ima",
    "NIfTI": "nii nii.gz",
    "medical volume": "mha mhd nrrd mgh mgz",
    "microscope or slide": "czi lif mrxs nd2 ndpi oib oif scn svs vms vsi",
    "PNM": "pam pbm pfm pgm pnm ppm",
    "Radiance HDR": "hdr rgbe",
    "OpenEXR": "exr",
    "GIMP": "xcf",
    "Targa": "tga",
    "PCX": "pcx",
    "DDS": "dds",
    "FITS": "fit fits fts",
    "NumPy": "npy npz",
    "HDF5": "h5 hdf hdf5",
    "MATLAB": "mat",
    "TFRecord": "tfrecord tfrecords",
    "archive": "7z bz2 gz rar tar tgz xz zip zst",
    "video": "avi m4v mkv mov mp4 mpeg mpg mts webm wmv",
}
BY_ENDING = {ending: name for name, endings in ENDINGS.items() for ending in endings.split()}


def by_content(begin: bytes) -> str | None:
    """The format of a file that is not read, from its first ``BEGIN`` bytes; None where they say nothing."""
    if begin[4:8] == b"ftyp":
        named = [BRANDS[begin[place : place + 4]] for place in range(8, 32, 4) if begin[place : place + 4] in BRANDS]
        return "AVIF" if "AVIF" in named else named[0] if named else "video"
    return next((name for pattern, name in PATTERNS if pattern.match(begin)), None)


def by_name(name: str) -> str | None:
    """The format that the ending of a file's name stands for, of those that are not read."""
    _, *endings = name.lower().split(".")
    for ending in (".".join(endings[-2:]), *endings[-1:]):
        if ending in BY_ENDING:
            return BY_ENDING[ending]
    return None
