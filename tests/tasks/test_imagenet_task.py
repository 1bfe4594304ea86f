"""The task imagenet: class folders of real JPEG files, indexed, checked, split, shifted, and trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jpeg_folders import CLASSES, quiet, write_classes, write_imagenet, write_imagenet_c, write_jpeg
from PIL import Image
from pydantic import ValidationError
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmark import ConfigError, MissingData, Split, check_data, normalised
from benchmark.cli.main import main
from benchmark.registry import TASKS
from tasks.image_folder.shifted import ImageNetC
from tasks.image_folder.stream import MEAN, STD
from tasks.imagenet import ORIGINAL, ImageNetConfig, ImageNetTask
from tasks.published_corruptions import CORRUPTIONS

TASK = ImageNetTask()
SMALL = ImageNetConfig(image_size=32, val_per_class=2, augment="none")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BNNBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("BNNBENCH_LOADERS", "0")
    return tmp_path


@pytest.fixture
def data(root: Path) -> Path:
    write_imagenet(root)
    ORIGINAL.prepare(root, quiet)
    return root


def loaded(config: ImageNetConfig, split: str) -> Split:
    found = TASK.load(config, split)
    assert found is not None
    return found


def test_sizes_come_from_the_folders_and_are_what_the_splits_hold(data: Path):
    info = TASK.info(SMALL)
    assert (info.input_shape, info.n_classes) == ((3, 32, 32), 3)
    assert (info.n_train, info.n_val, info.n_test) == (12, 6, 9)
    assert [len(loaded(SMALL, split)) for split in ("train", "val", "test")] == [12, 6, 9]
    assert loaded(SMALL, "val").labels.bincount().tolist() == [2, 2, 2]


def test_the_index_lists_what_torchvision_lists_in_its_order(data: Path):
    extra = data / "imagenet" / "train" / CLASSES[1]
    write_jpeg(extra / "more" / "deep.jpg", 1, (20, 30))
    (extra / "notes.txt").write_text("no image")
    ORIGINAL.prepare(data, quiet)
    index, folder = ORIGINAL.index(data, "train"), data / "imagenet" / "train"
    ours = [(str(folder / index.name(row)), int(index.labels[row])) for row in range(len(index))]
    assert ours == ImageFolder(folder).samples
    assert len(ours) == 19
    assert index.header.size == sum(Path(path).stat().st_size for path, _ in ours)


def test_training_and_validation_data_are_disjoint_and_without_validation_all_train(data: Path):
    train, val = (loaded(SMALL, split).inputs for split in ("train", "val"))
    assert len(torch.unique(torch.cat([train, val]).flatten(1), dim=0)) == 18
    alone = ImageNetConfig(image_size=32, val_per_class=0)
    assert TASK.load(alone, "val") is None
    assert len(loaded(alone, "train")) == TASK.info(alone).n_train == 18


def test_holding_out_more_than_a_class_has_is_refused_while_planning(data: Path):
    with pytest.raises(ConfigError, match=r"val_per_class 6 .* 'n01440764'.*6 training images.*\n.*below 6"):
        TASK.info(ImageNetConfig(val_per_class=6))


def test_the_fingerprint_is_of_the_images_and_not_of_the_place(data: Path, tmp_path_factory, monkeypatch):
    before = TASK.fingerprint(SMALL)
    assert TASK.fingerprint(SMALL.model_copy(update={"val_per_class": 1})) != before
    other = tmp_path_factory.mktemp("elsewhere")
    write_imagenet(other)
    ORIGINAL.prepare(other, quiet)
    monkeypatch.setenv("BNNBENCH_DATA", str(other))
    assert TASK.fingerprint(SMALL) == before
    write_jpeg(other / "imagenet" / "val" / CLASSES[0] / "new.JPEG", 5, (30, 30))
    ORIGINAL.prepare(other, quiet)
    assert TASK.fingerprint(SMALL) != before


def test_missing_folders_are_named_with_the_command(root: Path):
    with pytest.raises(MissingData) as refused:
        check_data(TASK.data(SMALL))
    for part in (f"there is no folder {root}/imagenet/train", "image-net.org", "bnnbench data prepare imagenet"):
        assert part in str(refused.value)
    with pytest.raises(MissingData, match=r"no folder .*imagenet/train"):
        ORIGINAL.prepare(root, quiet)


def test_folders_without_an_index_and_changed_folders_ask_for_an_index(data: Path):
    check_data(TASK.data(SMALL))
    new = data / "imagenet" / "train" / CLASSES[2] / "new.JPEG"
    write_jpeg(new, 9, (30, 30))
    assert [line for line in ORIGINAL.problems(data) if f"{new.parent} has changed" in line]
    ORIGINAL.index_path(data, "train").unlink()
    assert [line for line in ORIGINAL.problems(data) if "is not indexed yet" in line]
    ORIGINAL.prepare(data, quiet)
    assert ORIGINAL.problems(data) == []
    assert TASK.info(SMALL).n_train == 13


def test_a_new_class_is_noticed_and_must_be_in_both_folders(data: Path):
    write_jpeg(data / "imagenet" / "train" / "n09999999" / "a.JPEG", 1, (30, 30))
    assert "has changed since it was indexed" in ORIGINAL.problems(data)[0]
    with pytest.raises(MissingData, match=r"imagenet/val lacks classes of train/: n09999999"):
        ORIGINAL.prepare(data, quiet)
    assert "lacks classes" in ORIGINAL.problems(data)[0]


def test_an_empty_class_folder_is_named(data: Path):
    for split in ("train", "val"):
        (data / "imagenet" / split / "n00000001").mkdir()
    with pytest.raises(MissingData, match="train/n00000001 holds no image"):
        ORIGINAL.prepare(data, quiet)


def test_images_without_class_folders_are_told_apart(root: Path):
    write_imagenet(root, val=0)
    write_jpeg(root / "imagenet" / "val" / "ILSVRC2012_val_00000001.JPEG", 1, (30, 30))
    with pytest.raises(MissingData, match="imagenet/val has no class folders"):
        ORIGINAL.prepare(root, quiet)


def test_a_damaged_index_is_a_problem_that_prepare_mends(data: Path):
    path = ORIGINAL.index_path(data, "val")
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read" in ORIGINAL.problems(data)[0]
    ORIGINAL.prepare(data, quiet)
    assert ORIGINAL.problems(data) == []


def test_planning_lists_no_class_folder(data: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise AssertionError("listed a folder")

    for name in ("os.scandir", "os.listdir", "os.walk"):
        monkeypatch.setattr(name, refuse)
    check_data(TASK.data(SMALL))
    assert TASK.info(SMALL).n_test == 9
    assert len(TASK.fingerprint(SMALL)) == 64


def test_verify_names_every_broken_file_with_any_number_of_processes(data: Path, monkeypatch):
    folder = data / "imagenet" / "train" / CLASSES[0]
    cut, grown = (folder / f"train_0000000{number}.JPEG" for number in (0, 1))
    whole = cut.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    ORIGINAL.index_path(data, "train").unlink()
    ORIGINAL.prepare(data, quiet)  # with the size that the cut file has now
    grown.write_bytes(grown.read_bytes() + b"\0")
    monkeypatch.setattr("tasks.image_folder.checking.CHUNK", 5)
    kept = ORIGINAL.index_path(data, "train").read_bytes()
    for loaders in ("0", "2"):
        ORIGINAL.index_path(data, "train").write_bytes(kept)
        monkeypatch.setenv("BNNBENCH_LOADERS", loaders)
        about_index, first, second = ORIGINAL.verify(data, quiet)
        assert about_index.startswith(f"{ORIGINAL.index_path(data, 'train')} is removed")
        assert f"{cut} ({len(whole) // 2:,} bytes) cannot be decoded" in first
        assert f"{grown} has" in second
        assert "when it was indexed, it had" in second


def test_a_broken_file_stops_reading_with_its_name_and_the_command(data: Path, monkeypatch):
    broken = data / "imagenet" / "val" / CLASSES[2] / "ILSVRC2012_val_00000002.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    test = loaded(SMALL, "test")
    for loaders in ("0", "2"):
        monkeypatch.setenv("BNNBENCH_LOADERS", loaders)
        with pytest.raises(MissingData, match=rf"{broken} .*\n.*bnnbench data verify imagenet"):
            list(test.batches(3))


def test_an_image_overwritten_in_place_is_found_and_prepare_mends_it(data: Path):
    """Writing into a file leaves the time of its folder as it was."""
    before, path = TASK.fingerprint(SMALL), data / "imagenet" / "val" / CLASSES[0] / "ILSVRC2012_val_00000000.JPEG"
    write_jpeg(path, 999, (300, 200), 2)
    assert ORIGINAL.problems(data) == []
    with pytest.raises(
        MissingData, match=rf"{path} has .*when it was indexed, it had.*\n.*data verify imagenet .*prepare"
    ):
        list(loaded(SMALL, "test").batches(4))
    lines = ORIGINAL.verify(data, quiet)
    assert any(f"{path} has" in line for line in lines)
    with pytest.raises(MissingData, match=r"imagenet/val is not indexed yet(.*\n)*.*bnnbench data prepare imagenet"):
        check_data(TASK.data(SMALL))
    ORIGINAL.prepare(data, quiet)
    assert ORIGINAL.verify(data, quiet) == []
    assert TASK.fingerprint(SMALL) != before
    assert len(loaded(SMALL, "test").inputs) == 9


def test_an_image_that_ends_in_zeros_is_decoded_and_yet_not_whole(root: Path):
    """A copy that was interrupted on a disk that had the room laid out; decoders see grey."""
    path = write_imagenet(root) / "train" / CLASSES[0] / "train_00000001.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG", quality=90)
    kept, size = path.stat().st_size // 3, path.stat().st_size
    path.write_bytes(path.read_bytes()[:kept] + bytes(size - kept))
    ORIGINAL.prepare(root, quiet)
    assert loaded(SMALL, "train").inputs.shape[0] == 12
    (line,) = ORIGINAL.verify(root, quiet)[1:]
    assert f"{path} ({size:,} bytes) has no end marker" in line


def test_all_links_that_lead_nowhere_are_named_at_once(root: Path):
    write_imagenet(root)
    dangling = [root / "imagenet" / part / CLASSES[number] / "z.JPEG" for part in ("train", "val") for number in (0, 2)]
    for path in dangling:
        path.symlink_to(root / "nowhere")
    with pytest.raises(MissingData, match=r"imagenet: 4 files .*links") as refused:
        ORIGINAL.prepare(root, quiet)
    assert all(f"{path}: No such file" in str(refused.value) for path in dangling)
    for path in dangling:
        path.unlink()
    ORIGINAL.prepare(root, quiet)
    assert TASK.info(SMALL).n_train == 12


def test_the_view_of_test_images_is_a_setting_with_an_identity_of_its_own(data: Path):
    deit = SMALL.model_copy(update={"test_resize": 36, "interpolation": "bicubic"})
    configs = [SMALL, deit, SMALL.model_copy(update={"interpolation": "bicubic"})]
    assert len({TASK.fingerprint(config) for config in configs}) == 3
    assert len({str(config.identity()) for config in configs}) == 3
    spelt = ImageNetConfig(**{**SMALL.model_dump(), "test_resize": 37})
    assert (spelt.identity(), TASK.fingerprint(spelt)) == (SMALL.identity(), TASK.fingerprint(SMALL))
    index = ORIGINAL.index(data, "val")
    image = Image.open(data / "imagenet" / "val" / index.name(0))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    view = v2.Compose([v2.Resize(36, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)])
    expected = normalised(view(pixels)[None], MEAN, STD)
    assert torch.allclose(loaded(deit, "test")._inputs.read(slice(0, 1)), expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"test_resize": 200}, r"at least 224, or to auto \(256\)"),
        ({"source": "cache", "cache_side": 32}, "cache_side 32 .* at least 256"),
        ({"source": "cache", "image_size": 256}, "cache_side 256 .* at least 293"),
        ({"source": "cache", "test_resize": 288}, "cache_side 256 .* at least 288"),
    ],
)
def test_sides_that_would_enlarge_or_pad_test_images_are_refused_with_the_smallest_legal_one(given: dict, said: str):
    with pytest.raises(ValidationError, match=said):
        ImageNetConfig(**given)
    assert ImageNetConfig(source="cache", test_resize=224, cache_side=224).resized == 224


def test_empty_folders_of_imagenet_c_are_named(root: Path):
    for corruption in CORRUPTIONS:
        for severity in range(1, 6):
            (root / "ImageNet-C" / corruption / str(severity)).mkdir(parents=True)
    data = ImageNetC(224)
    with pytest.raises(MissingData, match="ImageNet-C/gaussian_noise/1 has no class folders"):
        data.prepare(root, quiet)
    with pytest.raises(MissingData, match="has no class folders"):
        check_data([data])


def test_folders_of_other_images_are_read_as_test_images(data: Path):
    config = ImageNetConfig(image_size=32, ood=("textures", "sketches"))
    with pytest.raises(MissingData, match="ood/sketches"):
        check_data(TASK.data(config))
    write_classes(data / "ood" / "textures", {"a/b": 2, "c": 1}, "x", [(50, 40)])
    write_classes(data / "ood" / "sketches", {".": 4}, "y", [(50, 40)])
    for each in TASK.data(config):
        each.prepare(data, quiet)
    check_data(TASK.data(config))
    found = TASK.ood(config)
    assert {name: tuple(inputs.shape) for name, inputs in found.items()} == {
        "sketches": (4, 3, 32, 32),
        "textures": (3, 3, 32, 32),
    }
    black, white = TASK.input_range(config)
    inputs = found["textures"].read(slice(0, 3))
    assert bool((inputs >= black.view(3, 1, 1) - 1e-5).all() & (inputs <= white.view(3, 1, 1) + 1e-5).all())


def test_settings_outside_their_range_are_refused():
    for wrong in ({"image_size": 100}, {"image_size": 24}, {"ood": ("../else",)}, {"augment": "deiT"}):
        with pytest.raises(ValidationError):
            ImageNetConfig(**wrong)


@pytest.fixture(scope="module")
def corrupted_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shift")
    write_imagenet(root, val=2)
    write_imagenet_c(root, CORRUPTIONS, side=32)
    ORIGINAL.prepare(root, quiet)
    ImageNetC(32).prepare(root, quiet)
    return root


def test_imagenet_c_gives_the_same_examples_under_every_corruption(corrupted_root: Path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(corrupted_root))
    config = ImageNetConfig(image_size=32, shift_examples=4)
    check_data(TASK.corruption_data(config))
    fog, frost = TASK.corrupted(config, "fog", 1), TASK.corrupted(config, "frost", 5)
    assert fog.shape == (4, 3, 32, 32)
    assert torch.equal(fog.labels, frost.labels)
    assert torch.equal(fog.inputs, frost.inputs)  # the test writes the same pixels everywhere
    every = TASK.corrupted(ImageNetConfig(image_size=32, shift_examples=0), "fog", 1)
    assert every.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_imagenet_c_of_another_size_is_refused_before_anything_is_trained(corrupted_root: Path, monkeypatch):
    monkeypatch.setenv("BNNBENCH_DATA", str(corrupted_root))
    with pytest.raises(MissingData, match=r"32x32 pixels .* image_size is 64: set image_size: 32"):
        check_data(TASK.corruption_data(ImageNetConfig(image_size=64)))


def test_a_missing_corruption_and_a_lost_file_are_named(corrupted_root: Path, tmp_path: Path):
    partial = write_imagenet_c(tmp_path, CORRUPTIONS[:-1], side=32, val=1)
    with pytest.raises(MissingData, match=r"no folder .*ImageNet-C/jpeg_compression/1"):
        ImageNetC(32).prepare(tmp_path, quiet)
    write_imagenet_c(tmp_path, CORRUPTIONS[-1:], side=32, val=1)
    next((partial / "fog" / "3" / CLASSES[0]).iterdir()).rename(partial / "fog" / "3" / CLASSES[0] / "other.JPEG")
    with pytest.raises(MissingData, match="ImageNet-C/fog/3 holds other files than"):
        ImageNetC(32).prepare(tmp_path, quiet)


def test_an_epoch_of_map_runs_through_the_command_line(data: Path, tmp_path: Path, monkeypatch):
    if "imagenet" not in TASKS.names():
        TASKS.add("imagenet", ImageNetTask, "tasks.imagenet:ImageNetTask")
    monkeypatch.setenv("BNNBENCH_LOADERS", "2")
    study = tmp_path / "study.yaml"
    study.write_text(
        "name: small\ntasks: {imagenet: {image_size: 32, val_per_class: 2}}\nnetworks: resnet20\n"
        "methods: [{map: {epochs: 1, batch_size: 4}}]\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["run", str(study), "--results", str(tmp_path / "results"), "--launcher", "inline: {latency: 'off'}"])
    assert ended.value.code in (0, None)
    (result,) = (tmp_path / "results").glob("runs/*/result.json")
    assert json.loads(result.read_bytes())["status"] == "ok"
