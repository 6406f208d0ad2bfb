"""Process 0 decides, alone and with a second process."""

import jax
import numpy as np
import pytest

from ddt_jax import processes
from tests.support import jobs


def test_alone_the_result_is_the_functions_own():
  assert processes.is_first()
  assert processes.from_first(lambda *x, **y: (x, y), 1, b=2) == ((1,), {'b': 2})
  with pytest.raises(ZeroDivisionError):
    processes.from_first(lambda: 1 / 0)
  np.testing.assert_array_equal(
      processes.to_host(jax.numpy.arange(5)), np.arange(5))


@pytest.mark.slow
def test_two_processes_get_what_process_0_decides(tmp_path):
  first, second = jobs.launch('decide', tmp_path)
  text = 'x'.center(300, '.')
  assert first[:2] == second[:2] == [[0, 4, 'äß'], text]
  assert first[2] == 'ValueError' and second[2] == 'FirstFailed'
  assert "'no number'" in first[3] and second[3] == first[3]
