"""A run on two devices, of one process or of two, as the environment says; run by test_training.py.

python two_devices.py RUN_FOLDER
"""

import sys
from pathlib import Path

from agents.cli import prepare_jax

if __name__ == "__main__":
    prepare_jax()
    import jax
    from test_training import UPDATES, WINDOWS, run_all
    from toy import ToyParams

    from agents.training import Arena

    assert len(jax.devices()) == 2, jax.devices()
    (result,) = run_all(Path(sys.argv[1]), validation=Arena(ToyParams(episode_length=10), WINDOWS))
    assert result.updates == UPDATES
    assert result.best_validation is not None
