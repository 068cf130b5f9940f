"""A run on two devices, of one process or of two, as the environment says; run by test_training.py.

python two_devices.py RUN_FOLDER
"""

import sys
from pathlib import Path

from agents.cli import prepare_jax

if __name__ == "__main__":
    prepare_jax()
    import jax
    from test_training import UPDATES, run

    assert len(jax.devices()) == 2, jax.devices()
    assert run(Path(sys.argv[1])).updates == UPDATES
