# shellcheck shell=bash
# shellcheck disable=SC2034 # some constants are used by one script only
# Shared by the scripts in this folder: parsing of --name=value flags, and calls to gcloud.

EXIT_BAD_INPUT=2 # as in tf_lars/errors.py
EXIT_PREEMPTED=42
EXIT_PEER_FAILED=75
readonly EXIT_BAD_INPUT EXIT_PREEMPTED EXIT_PEER_FAILED

REMOTE_FOLDER=tf-lars # in the home folder of every host
REMOTE_PYTHON=.venv/bin/python
TPU_SERVER_UNIT=tf-lars-tpu-server
TPU_SERVER_PORT=8470
readonly REMOTE_FOLDER REMOTE_PYTHON TPU_SERVER_UNIT TPU_SERVER_PORT

fail() {
  echo "error: $*" >&2
  exit "$EXIT_BAD_INPUT"
}

# parse_flags "$help" "name zone ..." "$@": sets the variable of each flag --name=value with a known
# name, to true for a bare --name, and puts the arguments after -- into the array `rest`.
parse_flags() {
  local _help=$1 _known=" $2 " _flag _value # not names of flags
  shift 2
  rest=()
  while (($#)); do
    case $1 in
      --help)
        echo "$_help"
        exit 0
        ;;
      --)
        shift
        rest=("$@")
        return
        ;;
      --*=*)
        _flag=${1%%=*}
        _flag=${_flag#--}
        _value=${1#*=}
        ;;
      --*)
        _flag=${1#--}
        _value=true
        ;;
      *) fail "Only flags of the form --name=value are accepted. Received: '$1'. See --help." ;;
    esac
    [[ $_known == *" $_flag "* ]] || fail "There is no flag --$_flag. See --help."
    [[ -n $_value ]] || fail "--$_flag must have a value. Received: none."
    printf -v "$_flag" '%s' "$_value"
    shift
  done
}

# need name ...: fails unless all of these flags are given and gcloud is installed.
need() {
  local flag
  for flag in "$@"; do
    [[ -n ${!flag:-} ]] || fail "--$flag must be given. Received: none. See --help."
  done
  command -v gcloud >/dev/null || fail "gcloud must be installed. Received: none on PATH."
}

# need_number name ...: fails unless all of these flags are whole numbers.
need_number() {
  local flag
  for flag in "$@"; do
    [[ ${!flag} =~ ^[0-9]+$ ]] || fail "--$flag must be a whole number. Received: '${!flag}'."
  done
}

# tpus COMMAND...: runs gcloud compute tpus COMMAND... with the flags' zone and project.
tpus() {
  # shellcheck disable=SC2154 # zone and project are flags of every script here
  gcloud compute tpus "$@" --zone="$zone" ${project:+"--project=$project"}
}

# on_hosts WORKER COMMAND: runs a shell command on one host of the slice, or on all.
on_hosts() {
  # shellcheck disable=SC2154 # name is a flag of every script here
  tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# queue_state: prints the state of the queued resource, such as ACTIVE, or nothing if there is none.
queue_state() {
  tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || true
}

# host_addresses: prints the internal addresses of the slice's hosts in order, one per line.
host_addresses() {
  tpus tpu-vm describe "$name" --format='value(networkEndpoints[].ipAddress)' | tr ';' '\n'
}
