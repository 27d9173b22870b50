"""Nothing of a step or an attack is left on the CPU where the model is on another device."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration


@pytest.mark.skipif(
    not hasattr(backend_registration, '_setup_privateuseone_for_python_backend'),
    reason='needs a torch that takes a device written in Python',
)
@pytest.mark.exhaustive
def test_steps_and_attacks_stay_on_their_device():
    script = Path(__file__).parents[1] / 'second_device.py'
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, *others = ran.stdout.splitlines()
    steps, evaluated = others[:13], others[13:]
    assert first == 'aten.add.Tensor found tensors on second:0 and on the CPU'
    assert all(line.endswith('elsewhere: []') for line in steps), ran.stdout
    assert len(evaluated) == 7
    assert all(line.endswith(': second:0') for line in evaluated), ran.stdout
