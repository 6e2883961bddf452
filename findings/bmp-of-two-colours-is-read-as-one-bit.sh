#!/usr/bin/env bash
# An 8-bit BMP whose palette has exactly two colours, black and white, is opened by Pillow as a picture of 1 bit a pixel.
# Its bytes are then read as bits, so the pixels are others, without an error or a warning. The same picture with its
# two colours in the other order, or with red for white, is read right, and so is every order by OpenCV.
# Usage: findings/bmp-of-two-colours-is-read-as-one-bit.sh      installs Pillow and OpenCV into a temporary folder
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pillow==13.0.0 numpy==2.4.6 opencv-python-headless==4.13.0.92
cat >"$place/read.py" <<'PYTHON'
import io
import struct

import cv2
import numpy as np
import PIL
from PIL import Image

BLACK, WHITE, RED = (0, 0, 0), (255, 255, 255), (255, 0, 0)
INDICES = np.array([[0, 1, 0, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1, 0]], np.uint8)


def bmp(palette):
    """A BMP of 8 bits a pixel: file header, BITMAPINFOHEADER, palette, rows from the bottom up."""
    height, width = INDICES.shape
    colours = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    rows = INDICES[::-1].tobytes()
    begin = 14 + 40 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, len(rows), 2835, 2835, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", begin + len(rows), 0, 0, begin) + info + colours + rows


found = {}
for name, palette in {
    "black, white": (BLACK, WHITE),
    "white, black": (WHITE, BLACK),
    "black, red": (BLACK, RED),
}.items():
    data, meant = bmp(palette), np.array(palette, np.uint8)[INDICES]
    with Image.open(io.BytesIO(data)) as image:
        mode, pixels = image.mode, np.asarray(image.convert("RGB"))
    other = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    wrong = int((pixels != meant).any(-1).sum())
    found[name] = (mode, wrong > 0, bool((other != meant).any()))
    print(f"palette {name}: Pillow {PIL.__version__} opens mode {mode}; {wrong} of {INDICES.size} pixels are wrong; "
          f"OpenCV {cv2.__version__}: {'wrong' if found[name][2] else 'all right'}")
expected = {"black, white": ("1", True, False), "white, black": ("P", False, False), "black, red": ("P", False, False)}
if found != expected:
    raise SystemExit(f"the behaviour has changed: {found}")
print("A mask of 0 and 1 saved as a BMP with the palette black, white is read as noise, and nothing says so.")
PYTHON
"$place/venv/bin/python" "$place/read.py"
