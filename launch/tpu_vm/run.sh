#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

help="Trains on a TPU slice prepared by setup.sh, and restarts after preemptions and failures.

run.sh --name=NAME --zone=ZONE -- --data_dir=DATA --model_dir=RUN --global_batch_size=4096 ...
  --name, --zone, --project  name, zone and project of the slice
  --max_restarts=10          maximum number of restarts after failures; preemptions that saved a
                             checkpoint do not count
  --retry_seconds=30         wait before a restart
  arguments after --         flags of launch.tpu, on the first host

A slice of one host trains on its own chips. On a slice of several hosts, each start runs a fresh
TensorFlow TPU server on every host, and the first host drives them all. Paths are those on the
hosts; the data must be at the same path on all of them. Bad flags or input (exit code 2) are not
retried."

name='' zone='' project='' max_restarts=10 retry_seconds=30
# shellcheck source=common.sh
source "$here/common.sh"
parse_flags "$help" "name zone project max_restarts retry_seconds" "$@"
need name zone
need_number max_restarts retry_seconds
[[ ${#rest[@]} -gt 0 ]] || fail "Training flags must follow --. Received: none. See --help."

mapfile -t hosts < <(host_addresses)
[[ -n ${hosts[0]:-} ]] || fail "There is no TPU '$name' in $zone. Create it with create.sh."

tpu=local
environment="TF_LARS_JOB=$(date +%s)-$$ " # only the first start obeys --resume=never
if [[ ${#hosts[@]} -gt 1 ]]; then
  tpu=$(printf "grpc://%s:$TPU_SERVER_PORT," "${hosts[@]}")
  tpu=${tpu%,}
  environment+='TPU_LOAD_LIBRARY=0 ' # the chips belong to the servers, not to the coordinator
fi

# A server that has lost its client must not be reused.
start_servers() {
  [[ ${#hosts[@]} -gt 1 ]] || return 0
  on_hosts all "set -eu
    cd $REMOTE_FOLDER
    sudo systemctl stop $TPU_SERVER_UNIT 2> /dev/null || true
    sudo systemd-run --quiet --collect --unit=$TPU_SERVER_UNIT --uid=\"\$(id -u)\" \
      \"\$PWD/.venv/bin/start_grpc_tpu_worker\""
}

# The lock keeps a second run from starting beside one whose connection was lost.
command="cd $REMOTE_FOLDER && ${environment}flock --nonblock --conflict-exit-code $EXIT_PEER_FAILED"
command+=" train.lock $REMOTE_PYTHON -m launch.tpu --tpu=$tpu $(printf '%q ' "${rest[@]}")"

failures=0
while true; do
  code=0
  if start_servers; then
    on_hosts 0 "$command" || code=$?
  else
    code=1 # the shell's exit codes have other meanings than the program's
  fi
  case $code in
    0 | "$EXIT_BAD_INPUT") exit "$code" ;;
    "$EXIT_PREEMPTED") echo "preempted after saving a checkpoint; restarting" >&2 ;;
    *)
      failures=$((failures + 1))
      if ((failures > max_restarts)); then
        echo "error: exit code $code after $max_restarts restarts. See the messages above." >&2
        exit "$code"
      fi
      echo "exit code $code; restart $failures of $max_restarts in $retry_seconds s" >&2
      ;;
  esac
  sleep "$retry_seconds"
  state=$(queue_state)
  if [[ -n $state && $state != ACTIVE ]]; then
    echo "error: $name is $state. Run delete.sh, create.sh and setup.sh, and then run.sh again." >&2
    exit "$EXIT_PREEMPTED"
  fi
done
