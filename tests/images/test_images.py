from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from datamodules.sampling import draws
from datamodules.transforms import TrainTransform
from images.headers import read_header
from images.line_drawings import canny_edges, sketch_lines
from images.listing import list_images
from images.ranges import from_pixels, to_pixels
from images.reading import read_image, read_image_with_alpha
from images.resizing import resize_short_side
from images.writing import write_image
from metrics.pixels import from_uint8, to_uint8
from tests.datamodules.miniature import save


def test_conversions_undo_each_other():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)[..., None].repeat(3, 2)
    image = from_pixels(pixels)
    assert (image.min(), image.max()) == (-1, 1)
    assert np.array_equal(to_pixels(image), pixels)


def test_tensors_of_eight_bits_are_the_pixels_of_files():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert np.array_equal(from_uint8(levels)[0], from_pixels(levels[0].permute(1, 2, 0).numpy()))
    assert np.array_equal(to_uint8(from_uint8(levels))[0].permute(1, 2, 0), to_pixels(from_uint8(levels)[0]))
    assert to_uint8(torch.tensor([-1.0005, -1.0, 0.0, 1.0, 1.0005])).tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(torch.empty(0, 3, 4, 4)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("wrong", [255.0, -1.01, 1.1, float("nan"), float("inf")])
def test_pixels_outside_the_range_are_refused(wrong):
    for convert in (to_pixels, to_uint8):
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            convert(torch.full((3, 2, 2), wrong))
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            convert(torch.tensor([0.0, wrong]).view(1, 1, 2).expand(3, 1, 2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK"])
def test_every_colour_model_gives_three_channels_of_the_same_picture(mode, tmp_path):
    picture = Image.new("RGB", (6, 4), "white")
    picture.paste("black", (0, 0, 3, 4))
    path = tmp_path / ("x.png" if mode in ("1", "L", "P", "RGB") else "x.tif")
    picture.convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 4, 6)
    assert image[:, :, :3].max() < -0.98
    assert image[:, :, 3:].min() > 0.98


@pytest.mark.parametrize("name", ["ramp.png", "ramp.tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_kept(name, channels, tmp_path):
    ramp = np.arange(32000, 32064, dtype=np.uint16).reshape(4, 16)
    cv2.imwrite(str(tmp_path / name), ramp if channels == 1 else np.dstack([ramp, ramp + 1, ramp + 2]))
    image = read_image(tmp_path / name)
    stored = ((image.astype(float) + 1) * 32767.5).round()
    assert np.array_equal(stored[2], ramp)  # cv2 writes BGR
    assert np.array_equal(stored[0], ramp if channels == 1 else ramp + 2)


@pytest.mark.parametrize("white", [100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_white_is_what_a_ppm_says(kind, white, tmp_path):
    ramp = np.linspace(0, white, 16).round().astype(int)
    channels = 3 if kind in ("P3", "P6") else 1
    pixels = np.repeat(ramp, channels)
    plain = kind in ("P2", "P3")
    body = " ".join(map(str, pixels)).encode() if plain else pixels.astype(">u2" if white > 255 else "u1").tobytes()
    (tmp_path / "x.ppm").write_bytes(f"{kind} # from a camera\n4 4\n# white:\n{white}\n".encode() + body)
    image = read_image(tmp_path / "x.ppm")
    step = 2 / (65535 if white > 255 and not plain else 255)  # of plain files, 8 bits are enough
    np.testing.assert_allclose(image[0].ravel(), 2 * ramp / white - 1, rtol=0, atol=step / 2 + 1e-6)
    assert np.array_equal(image[0], image[2])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_whose_white_is_zero_is_inverted(dtype, tmp_path):
    ramp = np.linspace(0, np.iinfo(dtype).max, 16).astype(dtype).reshape(4, 4)
    tifffile.imwrite(tmp_path / "x.tif", ramp, photometric="miniswhite")
    image = read_image(tmp_path / "x.tif")
    assert np.array_equal(image[1], from_pixels(np.iinfo(dtype).max - ramp[..., None])[0])


def test_sixteen_bit_planes_are_not_mixed_up(tmp_path):
    planes = np.random.default_rng(0).integers(0, 65536, (3, 4, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="rgb", planarconfig="separate")
    stored = ((read_image(tmp_path / "x.tif").astype(float) + 1) * 32767.5).round()
    assert np.array_equal(stored, planes)


def test_of_a_file_of_many_images_only_the_first_is_decoded(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for k in range(50):
            planes = np.full((3, 4, 5), 1000 * k, np.uint16)
            file.write(planes, photometric="rgb", planarconfig="separate", metadata=None)
    assert (read_image(tmp_path / "x.tif") == -1).all()


def test_sixteen_bit_alpha_is_read_as_alpha(tmp_path):
    pixels = np.zeros((2, 3, 4), np.uint16)
    pixels[..., 0], pixels[..., 3] = 65535, 13107  # blue, a fifth opaque
    cv2.imwrite(str(tmp_path / "x.png"), pixels)
    image, alpha = read_image_with_alpha(tmp_path / "x.png")
    np.testing.assert_allclose(image[:, 0, 0], [0.6, 0.6, 1.0], rtol=1e-6)  # a fifth of blue on white
    np.testing.assert_allclose(alpha, np.full((1, 2, 3), 0.2), rtol=1e-6)


def test_transparency_shows_white_and_comes_back(tmp_path):
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    picture.save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [-1, 1]
    image, alpha = read_image_with_alpha(tmp_path / "x.png")
    write_image(tmp_path / "y.png", image, alpha)
    assert np.asarray(Image.open(tmp_path / "y.png")).tolist() == [[[0, 0, 0, 255], [255, 255, 255, 0]]]
    assert read_image_with_alpha(save(tmp_path / "opaque.png"))[1] is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(pixels).save(tmp_path / "8.png", exif=exif)
    reference = to_pixels(read_image(tmp_path / "8.png"))[..., 0]
    assert reference.shape == ((3, 2) if orientation > 4 else (2, 3))
    for name, array in {
        "16.png": pixels.astype(np.uint16) * 257,
        "8.tif": pixels,
        "rgb.tif": np.stack([pixels] * 3, axis=2),
        "16.tif": pixels.astype(np.uint16) * 257,
    }.items():
        Image.fromarray(array).save(tmp_path / name, exif=exif)
        assert np.array_equal(to_pixels(read_image(tmp_path / name))[..., 0], reference), name
        assert read_header(tmp_path / name) == reference.shape, name


def test_a_picture_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = save(tmp_path / "x.png")
    before = target.read_bytes()

    def full(self, content):
        with self.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="space"):
        write_image(target, torch.zeros(3, 4, 4))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "x.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"x\.jpg"):
        read_image(tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_image(tmp_path / "nowhere.png")


def test_listing_is_sorted_and_leaves_hidden_files_out(tmp_path):
    for name in ("b/1.PNG", "b/0.png", "a.pnm", ".hidden/x.png", "b/._1.png"):
        save(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a.pnm", "b/0.png", "b/1.PNG"]


def test_linked_folders_are_listed_and_a_link_back_is_not_followed(tmp_path):
    save(tmp_path / "elsewhere" / "0.png")
    save(tmp_path / "data" / "own" / "1.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "own" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "elsewhere")
    listed = [path.relative_to(tmp_path / "data").as_posix() for path in list_images(tmp_path / "data")]
    assert listed == ["linked/0.png", "own/1.png"]


def test_resizing_is_antialiased_and_stays_in_range():
    stripes = np.ones((3, 64, 96), np.float32)
    stripes[:, :, ::2] = -1
    small = resize_short_side(stripes, 16)
    assert small.shape == (3, 16, 24)
    assert abs(small).max() < 0.2  # what aliases would keep its contrast
    edge = resize_short_side(np.concatenate([-stripes[:, :8, 1:9:2], stripes[:, :8, 1:9:2]], axis=2), 32)
    assert abs(edge).max() == 1
    assert resize_short_side(stripes, 64) is stripes


def test_one_draw_serves_the_whole_pair():
    image = torch.rand(3, 20, 30) * 2 - 1
    transform = TrainTransform(resize=18, crop=8, flip=True)
    crops = []
    for index in range(20):
        a, b = transform([image, image.clone()], draws(0, 0, index))
        assert torch.equal(a, b)
        crops.append(a)
    assert len({crop.sum().item() for crop in crops}) > 15
    again = transform([image], draws(0, 0, 3))[0]
    assert torch.equal(again, crops[3])


def test_centre_crop_and_small_images():
    image = torch.linspace(-1, 1, 12).expand(3, 4, 12)
    crop = TrainTransform(resize=4, crop=4, flip=False, random_crop=False)([image], draws(0, 0, 0))[0]
    assert torch.equal(crop, image[:, :, 4:8])
    assert TrainTransform(32, 32, False)([image], draws(0, 0, 0))[0].shape == (3, 32, 32)
    with pytest.raises(ValueError, match="crop 33 and resize 32"):
        TrainTransform(32, 33, False)


@pytest.mark.parametrize("lines", [canny_edges, sketch_lines])
def test_lines_are_white_on_black_where_the_contour_is(lines):
    image = -torch.ones(3, 48, 48)
    image[:, 12:36, 12:36] = 1
    drawn = lines(image)
    assert drawn.shape == (3, 48, 48)
    assert set(np.unique(drawn)) == {-1, 1}
    outline = torch.zeros(48, 48, dtype=torch.bool)
    outline[6:42, 6:42] = True
    outline[18:30, 18:30] = False
    assert (drawn[0] == 1).sum() > 80
    assert not (drawn[0] == 1)[~outline].any()


def test_sketches_have_broader_strokes_than_edges():
    image = -torch.ones(3, 48, 48)
    image[:, 12:36, 12:36] = 1
    assert (sketch_lines(image) == 1).sum() > 1.5 * (canny_edges(image) == 1).sum()
