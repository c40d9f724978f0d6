"""Asks pip-audit whether a locked package has a known vulnerability: `make vulnerabilities`.

    python scripts/check_vulnerabilities.py requirements.txt [--ignore-vuln ID ...]

Prints pip-audit's output and exits with its status. Prints NOT CHECKED and exits with 0 if
pip-audit reaches no service, or only a mirror that knows no packages: a machine without a network
must not fail. `--strict` lets no package pass unchecked.

To accept a vulnerability, add `--ignore-vuln ID` to the target in the Makefile, with the reason and
the date of the next look in a comment.
"""

import re
import subprocess
import sys
from pathlib import Path

TIMEOUT_SECONDS = 300
# What pip-audit's traceback ends with when it gets no response; its HTTP library raises these.
UNREACHABLE = re.compile(
    r"requests\.exceptions\.(ConnectionError|ProxyError|ConnectTimeout|ReadTimeout)"
    r"|requests\.exceptions\.ChunkedEncodingError"
    r"|requests\.exceptions\.HTTPError: 5\d\d "
    r"|Could not connect to "
    r"|[^\n:]+ could not be audited"
)


def main() -> int:
    program = Path(sys.executable).with_name("pip-audit")
    # The requirements are complete and have hashes: pip-audit resolves and downloads nothing.
    options = ["--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    command = [str(program), *options, "--requirement", *sys.argv[1:]]
    try:
        ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"vulnerabilities: NOT CHECKED: no response in {TIMEOUT_SECONDS} s", file=sys.stderr)
        return 0
    if ended.returncode and (found := UNREACHABLE.search(ended.stderr)):
        print(f"vulnerabilities: NOT CHECKED: {found.group().strip()}", file=sys.stderr)
        return 0
    sys.stderr.write(ended.stderr)
    return ended.returncode


if __name__ == "__main__":
    raise SystemExit(main())
