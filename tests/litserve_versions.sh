#!/usr/bin/env bash
# This tree with other releases of what serves: tests/litserve_versions.sh 'REQUIREMENT ...' ...
#
# The releases of each argument lie before those of .venv, in an environment that is removed afterwards.
set -euo pipefail
python=$PWD/.venv/bin/python
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH=$PWD/src

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for requirements in "$@"; do
    echo "== $requirements"
    "$python" -m venv --clear --without-pip "$folder"
    own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # shellcheck disable=SC2086
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$own" $requirements
    echo "import site; site.addsitedir('$packages')" >"$own/beneath.pth"
    "$folder/bin/python" - $requirements <<'END'
import sys
from importlib import import_module, metadata

for requirement in sys.argv[1:]:
    name, _, version = requirement.partition("==")
    assert import_module(name).__file__.startswith(sys.prefix)
    assert metadata.version(name) == (version or metadata.version(name))
    print(name, metadata.version(name))
END
    "$folder/bin/python" -m pytest -p no:cacheprovider -q -n 2 tests/integration/test_litserve_versions.py \
        tests/integration/test_http_process.py::test_uvicorn_calls_every_method_that_is_overridden \
        tests/integration/test_scripts.py::test_a_script_is_compared_with_other_settings_of_itself
done
