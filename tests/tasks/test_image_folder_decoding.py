"""Image files of all the kinds that are found in ImageNet's folders become the same RGB bytes that Pillow reads."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from jpeg_folders import picture
from PIL import Image

from tasks.image_folder.decode import BrokenImage, content_of, decoded
from tasks.image_folder.endings import lacks_end

SIZE = (50, 37)


def decoded_file(path: Path) -> torch.Tensor:
    return decoded(content_of(str(path)), str(path))


def as_pillow_reads(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("mode", "kind", "name"),
    [
        ("RGB", "JPEG", "photo.JPEG"),
        ("L", "JPEG", "grey.JPEG"),
        ("CMYK", "JPEG", "n02105855_2933.JPEG"),
        ("RGB", "PNG", "n02105855_2933_is_a_png.JPEG"),
        ("RGBA", "PNG", "transparent.png"),
        ("P", "PNG", "palette.png"),
        ("RGB", "BMP", "bitmap.bmp"),
        ("RGB", "TIFF", "scan.tif"),
        ("RGB", "PPM", "portable.ppm"),
    ],
)
def test_every_kind_of_file_is_read_as_pillow_reads_it(tmp_path: Path, mode: str, kind: str, name: str):
    path = tmp_path / name
    picture(1, SIZE).convert(mode).save(path, kind)
    image = decoded_file(path)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 37, 50)
    assert int((image.int() - as_pillow_reads(path).int()).abs().max()) <= 1


def test_sixteen_bits_keep_their_upper_byte(tmp_path: Path):
    values = np.arange(0, 65536, 4096, dtype=np.uint16).reshape(4, 4)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert torch.equal(decoded_file(tmp_path / "deep.png")[1].int(), torch.from_numpy((values // 256).astype("i4")))


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.97])
def test_a_cut_file_is_refused_with_its_name_and_size(tmp_path: Path, keep: float):
    path = tmp_path / "cut.JPEG"
    picture(1, SIZE).save(path, "JPEG")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(BrokenImage, match=r"cut\.JPEG .*(is empty|cannot be decoded)"):
        decoded_file(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(BrokenImage, match=r"gone\.JPEG cannot be read: No such file"):
        decoded_file(tmp_path / "gone.JPEG")


def stored(kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture(1, SIZE).save(buffer, kind, **settings)
    return buffer.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG whose header holds a whole small JPEG, as cameras write it."""
    small = stored("JPEG")
    segment = b"Exif\0\0" + small
    return b"\xff\xd8\xff\xe1" + (len(segment) + 2).to_bytes(2) + segment + stored("JPEG")[2:]


@pytest.mark.parametrize(
    "data",
    [
        stored("JPEG"),
        stored("JPEG", progressive=True),
        stored("JPEG", restart_marker_rows=1),
        stored("PNG"),
        with_thumbnail(),
    ],
    ids=["plain", "progressive", "restarts", "png", "thumbnail"],
)
def test_an_image_that_ends_in_zeros_lacks_its_end_whatever_follows_or_precedes_it(data: bytes):
    assert not lacks_end(data)
    assert not lacks_end(data + bytes(5000))  # a file system may allocate more
    for lost in (2 if data[0] == 0xFF else 8, len(data) // 3):
        assert lacks_end(data[:-lost] + bytes(lost))
        assert lacks_end(data[:-lost])


def test_formats_without_an_end_marker_are_left_alone():
    assert not lacks_end(stored("BMP")[:-10])
