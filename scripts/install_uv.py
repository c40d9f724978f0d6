"""Installs uv into a folder, for a machine without uv: `install_uv.py FOLDER VERSION`.

Runs before anything is installed, so it uses the standard library only.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path


def main() -> int:
    folder, version = Path(sys.argv[1]), sys.argv[2]
    requirement = f"uv=={version}"
    try:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip"]
        subprocess.run(
            [*pip, "install", "--quiet", "--disable-pip-version-check", requirement], check=True
        )
        return 0
    except (subprocess.CalledProcessError, OSError, SystemExit):
        # Without python3-venv Debian's Python has no ensurepip and ends the program; it may have
        # pip.
        shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--target", str(folder / "lib"), requirement], check=False)
    if done.returncode != 0:
        print(
            f"could not install {requirement}: this Python has neither ensurepip nor pip"
            " (on Debian: python3-venv), or no package index is reachable. Install uv in another"
            " way and run make again.",
            file=sys.stderr,
        )
        return 1
    (folder / "bin").mkdir(exist_ok=True)
    link = folder / "bin" / "uv"
    link.unlink(missing_ok=True)
    link.symlink_to(Path("..") / "lib" / "bin" / "uv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
