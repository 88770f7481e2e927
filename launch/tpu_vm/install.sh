#!/usr/bin/env bash
# Installs this repository with TensorFlow for TPUs into a Python environment.
# Used on TPU VMs (setup.sh), and for the versions in the container image (make lock).
set -euo pipefail

if [[ $# -lt 1 || $# -gt 2 || $1 == --* || ${2:---list} != --list ]]; then
  echo "usage: install.sh PYTHON [--list]" >&2
  echo "PYTHON is the interpreter of a virtual environment." >&2
  echo "--list prints the requirements and installs nothing." >&2
  [[ ${1:-} == --help ]] && exit 0
  exit 2
fi
python=$1
pip=("$python" -m pip --disable-pip-version-check --quiet)

# tensorflow and tensorflow-tpu install the same files, so only one of them may be present: this
# installs the requirements in setup.cfg without the former and with the extra `tpu`.
without_tensorflow='
import configparser, re
setup = configparser.ConfigParser()
setup.read("setup.cfg")
required = setup["options"]["install_requires"].split("\n")
for line in required + setup["options.extras_require"]["tpu"].split("\n"):
    if line and not re.match(r"tensorflow(?![\w-])", line):
        print(line)
'
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
requirements=$("$python" -c "$without_tensorflow")
if [[ ${2:-} == --list ]]; then
  echo "$requirements"
  exit 0
fi
mapfile -t requirements <<<"$requirements"
"${pip[@]}" install "${requirements[@]}"
"${pip[@]}" install --no-deps --editable .
TF_CPP_MIN_LOG_LEVEL=2 TPU_LOAD_LIBRARY=0 \
  "$python" -c 'import tensorflow as tf; print("TensorFlow", tf.__version__)'
