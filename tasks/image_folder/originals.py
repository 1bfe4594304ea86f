"""ImageNet, and folders of images that belong to none of its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.image_folder.folders import IndexedFolders
from tasks.image_folder.index import Header


class ImageNet(IndexedFolders):
    """ROOT/imagenet/train/CLASS/*.JPEG and ROOT/imagenet/val/CLASS/*.JPEG, any classes, the same in both."""

    source = "ImageNet, ILSVRC 2012 (Russakovsky et al. 2015), image-net.org: free for research after registration"
    size = 155_000_000_000
    manual = (
        "ImageNet is not downloaded by this program. Get ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
        "image-net.org and unpack them as imagenet/train/CLASS/*.JPEG and imagenet/val/CLASS/*.JPEG below the data "
        "root, or link the folder there. The val archive has no class folders: sort its images into the same CLASS "
        "folders as train (the script valprep.sh, found with PyTorch's ImageNet example, does)."
    )

    def __init__(self) -> None:
        title = "ImageNet (ILSVRC 2012), or any folders train/CLASS and val/CLASS"
        super().__init__("imagenet", title, {part: f"imagenet/{part}" for part in ("train", "val")})

    def folder(self, root: Path) -> Path:
        return root / "imagenet"

    def mismatches(self, root: Path, headers: Mapping[str, Header]) -> Sequence[str]:
        lines = []
        for here, there in (("train", "val"), ("val", "train")):
            only = sorted(set(headers[here].classes) - set(headers[there].classes))
            if only:
                shown = ", ".join(only[:5]) + (f" and {len(only) - 5} more" if len(only) > 5 else "")
                lines.append(f"{self.part_folder(root, there)} lacks classes of {here}/: {shown}")
        return lines


class OodFolder(IndexedFolders):
    """ROOT/ood/NAME with images anywhere below: inputs that belong to none of a task's classes."""

    source = "a folder of the user's"
    size = 0
    manual = "Put the images, in any sub-folders, into the folder named above; they are read as test images are."

    def __init__(self, name: str) -> None:
        self._folder = f"ood/{name}"
        super().__init__(
            f"ood-{name}", f"out-of-distribution images '{name}'", {"images": self._folder}, with_classes=False
        )

    def folder(self, root: Path) -> Path:
        return root / self._folder
