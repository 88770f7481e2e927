"""A worker without TensorFlow: python -m tests.helpers.rendezvous_worker CLUSTER OPTIONS.

Joins, prints the cluster, does what the options say, and leaves. Its exit codes are those of a
training process.
"""

import json
import os
import signal
import sys

from tf_lars.cluster import admission, rendezvous, rendezvous_server, secret
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, InputError, PeerFailure


def main(config, options):
    """Runs the worker; returns its exit code."""
    rendezvous_server.BEAT_SECONDS, rendezvous_server.MISMATCH_SECONDS = (
        0.2,
        options.get("mismatch", 60.0),
    )
    rendezvous_server.SILENCE_SECONDS = rendezvous_server.JOIN_SECONDS = 3.0
    rendezvous.TAKEN_SECONDS = secret.FOLDER_SECONDS = 1.0
    admission.HELLO_SECONDS = options.get("hello", admission.HELLO_SECONDS)
    if "secret" in options:
        os.environ[secret.VARIABLE] = options["secret"]
    try:
        member = rendezvous.Rendezvous(
            resolve_cluster({"TF_CONFIG": config}),
            options.get("facts", {}),
            timeout=options.get("timeout", 60.0),
            shared_folder=options["folder"],
            is_restart=options.get("is_restart", False),
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except PeerFailure as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_PEER_FAILED
    member.tensorflow_has_joined()
    print("joined", *member.tensorflow_cluster.workers, flush=True)
    end = options.get("end", "leave")
    if end == "fail":
        member.fail("it has had enough", options.get("exit_code", 1))
        return options.get("exit_code", 1)
    if end in ("SIGKILL", "SIGSTOP"):
        os.kill(os.getpid(), getattr(signal, end))
    if end == "wait":
        signal.pause()
    member.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
