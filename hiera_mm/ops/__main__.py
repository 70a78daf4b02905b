"""``python -m hiera_mm.ops SCRIPT [ARGUMENTS]``: run a script with mmcv's operators supplied.

For scripts that ask for operators before they read a config, such as mmdet's ``tools/test.py``.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the script named on the command line as ``__main__``, operators being in place.

    Raises:
        SystemExit: Without a script, or if there is no such file.
    """
    if len(sys.argv) < 2:
        sys.exit('usage: python -m hiera_mm.ops SCRIPT [ARGUMENTS]')
    script = Path(sys.argv[1])
    if not script.is_file():
        sys.exit(f'There is no script {script} (looked for {script.resolve()}).')
    del sys.argv[0]
    sys.path[0] = str(script.resolve().parent)  # as `python SCRIPT` would have it
    runpy.run_path(str(script), run_name='__main__')


if __name__ == '__main__':
    main()  # the finder was installed when Python imported the package hiera_mm
