"""Nothing of a step is left on the CPU where the model is on another device."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, '_setup_privateuseone_for_python_backend'),
    reason='needs a torch that takes a device written in Python',
)
def test_every_step_stays_on_its_device():
    script = Path(__file__).parents[1] / 'second_device.py'
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, *steps = ran.stdout.splitlines()
    assert first == 'aten.add.Tensor found tensors on second:0 and on the CPU'
    assert len(steps) == 8
    assert all(line.endswith('elsewhere: []') for line in steps), ran.stdout
