"""Print a command of the README: `run` (install and run) or `test` (install and test)."""

import re
import sys
from pathlib import Path

readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
blocks = re.findall(r"```sh\n(.*?)\n```", readme, flags=re.S)
print(blocks[["run", "test"].index(sys.argv[1])])
