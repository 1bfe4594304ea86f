"""Planning reads declarations, checks spellings and takes fingerprints without importing anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys

PLANNING = """
import json, sys
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
print(json.dumps([name for name in ("torch", "timm", "sklearn", "numpy", "scipy") if name in sys.modules]))
"""


def test_planning_imports_no_heavy_package():
    done = subprocess.run([sys.executable, "-c", PLANNING], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
