#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

help="Requests a TPU slice as a queued resource, and waits until it is ready.

create.sh --name=NAME --zone=ZONE --accelerator_type=v5litepod-8
  --name                  name of the TPU and of its queued resource
  --zone                  zone, such as us-west4-a
  --project               project; by default gcloud's
  --accelerator_type      type, such as v4-32, v5litepod-8, v5p-8, v6e-8
  --runtime_version       image; by default the plain one for the accelerator
  --spot                  spot capacity: cheaper, and may be preempted at any time
  --reserved              capacity from a reservation
  --valid_until_duration  time limit for the request, such as 6h
  --service_account       service account of the machines, for access to buckets
  --network, --subnetwork network of the machines
  --internal_ips          no public addresses
  --data_disk             disk, such as source=projects/P/zones/Z/disks/D,mode=read-only
  --poll_seconds=30       interval between checks of the state

A queued resource that already exists is not requested again. delete.sh deletes the slice."

name='' zone='' project='' accelerator_type='' runtime_version='' spot='' reserved=''
valid_until_duration='' service_account='' network='' subnetwork='' internal_ips='' data_disk=''
poll_seconds=30
flags="name zone project accelerator_type runtime_version spot reserved valid_until_duration"
flags+=" service_account network subnetwork internal_ips data_disk poll_seconds"

# shellcheck source=common.sh
source "$here/common.sh"
parse_flags "$help" "$flags" "$@"
[[ ${#rest[@]} -eq 0 ]] || fail "Only flags are accepted. Received: '${rest[0]}'. See --help."
need name zone accelerator_type
need_number poll_seconds
[[ $spot && $reserved ]] && fail "Only one of --spot and --reserved may be given. Received: both."

if [[ -z $runtime_version ]]; then
  # Images without a framework, by generation, from Google's page "TPU software versions".
  case $accelerator_type in
    v2-* | v3-* | v4-*) runtime_version=tpu-ubuntu2204-base ;;
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    *) fail "--runtime_version must be given for --accelerator_type='$accelerator_type'." ;;
  esac
fi

if [[ -z $(queue_state) ]]; then
  tpus queued-resources create "$name" \
    --node-id="$name" \
    --accelerator-type="$accelerator_type" \
    --runtime-version="$runtime_version" \
    ${spot:+--spot} \
    ${reserved:+--reserved} \
    ${internal_ips:+--internal-ips} \
    ${valid_until_duration:+"--valid-until-duration=$valid_until_duration"} \
    ${service_account:+"--service-account=$service_account"} \
    ${network:+"--network=$network"} \
    ${subnetwork:+"--subnetwork=$subnetwork"} \
    ${data_disk:+"--data-disk=$data_disk"}
fi

last=''
while true; do
  state=$(tpus queued-resources describe "$name" --format='value(state.state)')
  [[ $state == "$last" ]] || echo "$name is $state"
  last=$state
  case $state in
    ACTIVE) exit 0 ;;
    FAILED | SUSPENDING | SUSPENDED)
      echo "error: $name is $state. Delete it with delete.sh and create it again." >&2
      exit 1
      ;;
  esac
  sleep "$poll_seconds"
done
