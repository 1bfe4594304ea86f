"""Planning reads declarations, checks spellings and takes fingerprints without importing anything heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from image_files import write_cifar10, write_mnist
from jpeg_folders import write_imagenet

HEAVY = ("torch", "torchvision", "timm", "sklearn", "numpy", "scipy", "PIL")
REPORT = f"""
import json, sys
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""
PLANNING = """
from tasks.digits import Digits
from tasks.gaussian_mixture import GaussianMixture
from tasks.networks.catalogue import CifarResNet, Mlp, SmallDeiT, Timm, WideResNet

for task in (Digits(), GaussianMixture()):
    task.info(task.Config())
    task.fingerprint(task.Config())
CifarResNet().check("resnet20")
WideResNet().check("wrn-16-4")
SmallDeiT().check("deit-micro")
Mlp().check("mlp-64-64")
Timm().check("timm:vit_tiny_patch16_224")
"""
FROM_FILES = """
from benchmark import check_data, data_root
from tasks.{module} import {task}

task = {task}()
config = task.Config(val_per_class=1)
check_data(task.data(config))
print(task.info(config).n_train, task.fingerprint(config), task.corruptions(config))
[each.problems(data_root()) for each in task.corruption_data(config)]
"""


def heavy_after(code: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_planning_imports_no_heavy_package():
    assert heavy_after(PLANNING) == []


def write_indexed_imagenet(root):
    from tasks.imagenet import ImageNetTask

    write_imagenet(root)
    for each in ImageNetTask().data(ImageNetTask.Config()):
        each.prepare(root, lambda line: None)


@pytest.mark.parametrize(
    ("module", "task", "write", "allowed"),
    [
        ("mnist", "MnistTask", write_mnist, []),
        ("cifar", "Cifar10Task", write_cifar10, []),
        # Its index is an array of a million rows.
        ("imagenet", "ImageNetTask", write_indexed_imagenet, ["numpy"]),
    ],
)
def test_planning_a_task_whose_files_are_there_imports_no_heavy_package(module, task, write, allowed, tmp_path):
    root = tmp_path / "data"
    write(root)
    code = FROM_FILES.format(module=module, task=task)
    found = heavy_after(code, BNNBENCH_DATA=str(root), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert [name for name in found if name not in allowed] == []
