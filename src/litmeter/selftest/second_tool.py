"""A second, independent load tool to compare with: wrk, or hey where there is no wrk."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from litmeter.errors import VerifyError
from litmeter.system.processes import process_group
from litmeter.system.temporary import scratch

WRK_SCRIPT = """\
function init(arguments)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.body = io.open(arguments[1], "rb"):read("*a")
end
"""
RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
FAILURES = re.compile(r"Non-2xx.*|Socket errors.*|Error distribution.*|\[[1345]\d\d\]\s.*responses")


def find_tool() -> str:
    """Path of wrk or hey.

    Raises:
        VerifyError: neither is installed.
    """
    tool = shutil.which("wrk") or shutil.which("hey")
    if tool is None:
        raise VerifyError(
            "no second tool to compare with: neither wrk nor hey is installed; `apt-get install wrk`"
        )
    return tool


def rate_by(tool: str, url: str, body: bytes, users: int, seconds: int) -> float:
    """Requests per second that ``tool`` measures: ``users`` connections, each a closed loop of POSTs.

    Raises:
        VerifyError: the tool failed, or one of its requests did.
    """
    with scratch() as folder:
        body_file, script = folder / "body", folder / "post.lua"
        body_file.write_bytes(body)
        script.write_text(WRK_SCRIPT, encoding="utf-8")
        if Path(tool).name == "wrk":
            options = ["-t1", f"-c{users}", f"-d{seconds}s", "-s", str(script), url, "--", str(body_file)]
        else:
            post = ["-m", "POST", "-T", "application/json", "-D", str(body_file)]
            options = ["-c", str(users), "-z", f"{seconds}s", *post, url]
        with process_group([tool, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            output = process.communicate()[0].decode(errors="replace")
    return read_rate(Path(tool).name, process.returncode, output)


def read_rate(name: str, status: int, output: str) -> float:
    """Parse the rate from the output of wrk or hey.

    Raises:
        VerifyError: the tool failed, or some of its requests did.
    """
    rate, failures = RATE.search(output), FAILURES.search(output)
    if status != 0 or rate is None:
        raise VerifyError(f"{name} failed (exit status {status}): {' '.join(output.split())[-200:]}")
    if failures is not None:
        raise VerifyError(f"{name} had requests that failed: {failures[0].strip()}")
    return float(rate[1])
