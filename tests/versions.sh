#!/usr/bin/env bash
# One end of the ranges in pyproject.toml, as a new user meets it: tests/versions.sh newest|oldest PYTHON
#
# A new environment in a clone of the last commit has what pip finds without constraints, extra indexes or links, or
# the oldest versions that pyproject.toml allows. The tests that ask most of what others wrote, `make quick` and a
# comparison of a LitAPI run there, by an ordinary user ("nobody", where root calls). Deprecations are errors.
set -euo pipefail
end=$1
python=$("$2" -c 'import sys; print(sys.executable)')
unset MAKEFLAGS PYTHONPATH VIRTUAL_ENV PIP_CONSTRAINT PIP_EXTRA_INDEX_URL PIP_FIND_LINKS
export PIP_CONFIG_FILE=/dev/null UV_NO_CONFIG=1

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet . "$folder/litmeter"
as_user=()
if [ "$(id -u)" = 0 ]; then
    mkdir "$folder/home"
    chown -R nobody "$folder"
    export HOME=$folder/home USER=nobody LOGNAME=nobody
    export PIP_NO_CACHE_DIR=1  # it would be removed with the folder
    as_user=(setpriv --reuid nobody --regid "$(id -g nobody)" --clear-groups)
    if ! "${as_user[@]}" "$python" -c '' 2>/dev/null; then
        # Only root can read root's own Python.
        cp -r "$("$python" -c 'import sys; print(sys.base_prefix)')" "$folder/python"
        export LD_LIBRARY_PATH=$folder/python/lib
        python=$folder/python/bin/$(basename "$python")
    fi
fi
cd "$folder/litmeter"

"${as_user[@]}" bash -euxo pipefail -s "$end" "$python" <<'END'
if [ "$1" = oldest ]; then
    "$2" -m venv .venv
    .venv/bin/pip install --quiet uv
    .venv/bin/uv pip install --quiet --resolution lowest-direct -e '.[test]'
    touch .venv/installed .venv/installed-test
else
    make .venv/installed-test PYTHON="$2"
fi
.venv/bin/pytest -n 2 --dist loadfile tests/integration/test_{http_process,imports,predictor,stages}.py \
    tests/unit/test_{recorded_runs,params,cli,init,openapi,files,temporary,machine,gpu,telemetry,pieces,channel}.py \
    tests/unit/test_{image,preprocess,training,compiled,own_model,ceilings,costs,charts,report_page,llm_example}.py
PYTHONWARNINGS=error::DeprecationWarning,error::PendingDeprecationWarning,error::FutureWarning
PYTHONWARNINGS+=,ignore:_NoneStep:DeprecationWarning  # what DVC itself uses of pygtrie
PYTHONWARNINGS+=,ignore:websockets:DeprecationWarning  # what the oldest uvicorn itself uses
export PYTHONWARNINGS
make quick
cd examples/torch
../../.venv/bin/litmeter compare one='server:ImageAPI' two='server:ImageAPI workers_per_device=2' \
    --body bodies.jsonl --seconds 20
END
