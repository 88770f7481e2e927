#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

help="Copies this repository, as committed, to all hosts of a TPU slice and installs it there.

setup.sh --name=NAME --zone=ZONE
  --name, --zone, --project  name, zone and project of the slice
  --python=python3           Python on the hosts, for the virtual environment"

name='' zone='' project='' python=python3
# shellcheck source=common.sh
source "$here/common.sh"
parse_flags "$help" "name zone project python" "$@"
[[ ${#rest[@]} -eq 0 ]] || fail "Only flags are accepted. Received: '${rest[0]}'. See --help."
need name zone

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$here/../.." archive --format=tar.gz --output="$archive" HEAD

tpus tpu-vm scp "$archive" "$name:$REMOTE_FOLDER.tar.gz" --worker=all
python=$(printf '%q' "$python")
on_hosts all "set -eu
  mkdir -p $REMOTE_FOLDER
  tar -xzf $REMOTE_FOLDER.tar.gz -C $REMOTE_FOLDER
  cd $REMOTE_FOLDER
  $python -c 'import ensurepip' || { sudo apt-get update && sudo apt-get install --yes python3-venv; }
  $python -m venv .venv
  bash launch/tpu_vm/install.sh $REMOTE_PYTHON"
