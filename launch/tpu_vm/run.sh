#!/usr/bin/env bash
# shellcheck source-path=SCRIPTDIR
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

help="Trains on a TPU slice that setup.sh has prepared, and starts again after preemptions and failures.

run.sh --name=NAME --zone=ZONE -- --data_dir=DATA --model_dir=RUN --global_batch_size=4096 ...
  --name, --zone, --project  of the slice
  --max_restarts=10          after failures; preemptions that saved a checkpoint do not count
  --retry_seconds=30         before starting again
  what follows --            is for launch.tpu, on the first host

A slice of one host trains on its own chips. On one of several hosts, TensorFlow's server for TPUs is
started anew on each of them, and the first host drives them all. Paths are those on the hosts, and
data must be at the same path on all of them. Bad flags and bad input (exit code 2) end at once."

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
environment="TF_LARS_JOB=$(date +%s)-$$ " # --resume=never starts anew once
if [[ ${#hosts[@]} -gt 1 ]]; then
  tpu=$(printf "grpc://%s:$TPU_SERVER_PORT," "${hosts[@]}")
  tpu=${tpu%,}
  environment+='TPU_LOAD_LIBRARY=0 ' # the servers have the chips, not the program that drives them
fi

# A server that has lost its client is not to be used again.
start_servers() {
  [[ ${#hosts[@]} -gt 1 ]] || return 0
  on_hosts all "set -eu
    cd $REMOTE_FOLDER
    sudo systemctl stop $TPU_SERVER_UNIT 2> /dev/null || true
    sudo systemd-run --quiet --collect --unit=$TPU_SERVER_UNIT --uid=\"\$(id -u)\" \
      \"\$PWD/.venv/bin/start_grpc_tpu_worker\""
}

# With the lock, a run whose connection was lost is not joined by a second one.
command="cd $REMOTE_FOLDER && ${environment}flock --nonblock --conflict-exit-code $EXIT_PEER_FAILED"
command+=" train.lock $REMOTE_PYTHON -m launch.tpu --tpu=$tpu $(printf '%q ' "${rest[@]}")"

failures=0
while true; do
  code=0
  if start_servers; then
    on_hosts 0 "$command" || code=$?
  else
    code=1 # the shell's own exit codes do not mean what the program's do
  fi
  case $code in
    0 | "$EXIT_BAD_INPUT") exit "$code" ;;
    "$EXIT_PREEMPTED") echo "preempted, with a checkpoint; starting again" >&2 ;;
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
    echo "error: $name is $state. Run delete.sh, create.sh and setup.sh, and then this again." >&2
    exit "$EXIT_PREEMPTED"
  fi
done
