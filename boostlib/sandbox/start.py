"""Where a helper process begins: `python -s -P -S start.py ROLE CONTROL_FD CONFIG`.

It must not import the `boostlib` package itself, which brings torch. So both packages are put in place as empty ones
that know their folder, and the sandbox's own files are found in them by their ordinary names.
"""

import json
import sys
import types
from pathlib import Path


def _empty_package(name: str, folder: Path) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(folder)]
    sys.modules[name] = module


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    _empty_package("boostlib", here.parent)
    _empty_package("boostlib.sandbox", here)
    role, control, config = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    sys.argv = [""]
    sys.path += config["paths"]  # after the standard library, which nothing there may replace
    from boostlib.sandbox.helper import main

    main(role, control, config["preload"], config["contained"])
