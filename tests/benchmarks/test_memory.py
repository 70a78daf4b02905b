import subprocess
import sys

import pytest

from benchmarks.kit import memory
from hiera_mm.errors import UserError

MIB = memory.MIB
CODE = """
import torch
from benchmarks.kit.memory import give_pages_back, memory_of_pass, peak_memory

torch.ones(2**26).sum()  # an earlier peak
print(peak_memory(lambda: torch.ones(2**24).sum(), torch.device('cpu')))

class Keeping(torch.nn.Module):
    kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.ones(2**24)
        return (x + 1).sum()

give_pages_back()
image = torch.ones(2**23)
for count_kept in (True, False):
    model = Keeping()
    print(memory_of_pass(lambda: model(image), 'cpu', count_kept=count_kept))
"""


def test_memory_is_that_of_the_pass_and_of_what_is_kept():
    """In a process of its own: in an old one, freed memory is used again and does not count."""
    done = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True, check=True)
    plain, with_kept, without = (int(line) / MIB for line in done.stdout.split())
    assert 60 < plain < 90
    assert with_kept == pytest.approx(64 + 32, abs=4)
    assert without == pytest.approx(32, abs=4)


def test_where_memory_cannot_be_measured(monkeypatch, tmp_path):
    memory.check_memory('cpu')
    monkeypatch.setattr(memory, 'CLEAR_PEAK', tmp_path / 'clear_refs')
    memory.check_memory('cuda')
    with pytest.raises(UserError, match='on Linux only'):
        memory.check_memory('cpu')
