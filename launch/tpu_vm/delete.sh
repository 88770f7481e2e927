#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

help="Deletes a TPU slice and its queued resource. The data on its disks is lost.

delete.sh --name=NAME --zone=ZONE
  --name, --zone, --project  name, zone and project of the slice
  --quiet                    no confirmation"

name='' zone='' project='' quiet=''
# shellcheck source=common.sh
source "$here/common.sh"
parse_flags "$help" "name zone project quiet" "$@"
[[ ${#rest[@]} -eq 0 ]] || fail "Only flags are accepted. Received: '${rest[0]}'. See --help."
need name zone

tpus queued-resources delete "$name" --force ${quiet:+--quiet}
