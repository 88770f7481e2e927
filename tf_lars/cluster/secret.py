"""The secret of a job, and the handshake by which its workers prove that they know it.

Worker 0 sends a challenge to every client; the client answers it and sends a challenge in return,
so that each proves itself to the other before anything else is believed:

    key = SHA-256(TF_LARS_SECRET, NUL, content of the file)
    answer of a worker = HMAC-SHA-256(key, "worker" + challenge of worker 0 + own challenge)
    answer of worker 0 = HMAC-SHA-256(key, "server" + challenge of the worker + own challenge)

The file is one of mode 0600 that worker 0 writes into the folder that all workers share and removes
when they have met. A worker that knows its content therefore sees the same folder.
"""

import contextlib
import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Mapping
from typing import TypeGuard

from tf_lars.cluster import messages
from tf_lars.cluster.messages import Connection
from tf_lars.errors import InputError

VARIABLE = "TF_LARS_SECRET"
"""Environment variable with a secret that all workers of a job share; it need not be set."""
FOLDER_SECONDS = 60.0
"""Time limit for a network file system to show a file created on another host."""
_FILE = re.compile(r"\.workers-[0-9a-f]{32}")
_CHALLENGE = re.compile(r"[0-9a-f]{64}")


class Impostor(OSError):
    """Something other than worker 0 of this job answers at its address."""


@dataclasses.dataclass(frozen=True)
class Secret:
    """What the workers of a job know, and strangers do not.

    Attributes:
      key: Key of the answers; that of two empty secrets if there are none.
      path: File of worker 0, if there is a shared folder.
      of_environment: Whether `VARIABLE` is set.
    """

    key: bytes = dataclasses.field(repr=False)
    path: str | None = None
    of_environment: bool = False

    @property
    def exists(self) -> bool:
        """Whether there is a secret at all."""
        return self.of_environment or self.path is not None

    def remove(self) -> None:
        """Removes the file."""
        if self.path:
            with contextlib.suppress(OSError):
                os.remove(self.path)


def create(folder: str | None, environment: Mapping[str, str] = os.environ) -> Secret:
    """Returns the secret of a new job, whose file worker 0 must remove.

    Args:
      folder: Existing folder that all workers share; None for no file.
      environment: Environment variables of the process.

    Raises:
      OSError: The file cannot be written.
    """
    given, path, content = environment.get(VARIABLE, ""), None, b""
    if folder:
        path = os.path.join(folder, f".workers-{secrets.token_hex(16)}")
        content = secrets.token_bytes(32)
        own = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(path, own, 0o600), "wb") as file:
            file.write(content)
    return Secret(_key(given, content), path, bool(given))


def new_challenge() -> str:
    """Returns a challenge, 64 hexadecimal digits."""
    return secrets.token_hex(32)


def is_challenge(text: object) -> TypeGuard[str]:
    """Returns whether a message holds a challenge."""
    return isinstance(text, str) and _CHALLENGE.fullmatch(text) is not None


def greeting(secret: Secret, challenge: str) -> dict[str, object]:
    """Returns the first message of worker 0 on a connection."""
    name = os.path.basename(secret.path) if secret.path else None
    return {"challenge": challenge, "file": name, "secret": secret.of_environment}


def of_greeting(
    greeting: Mapping[str, object],
    folder: str | None,
    environment: Mapping[str, str] = os.environ,
) -> bytes:
    """Returns the key that a greeting asks for.

    Args:
      greeting: First message of worker 0.
      folder: The folder that this worker shares with it.
      environment: Environment variables of the process.

    Raises:
      InputError: This worker cannot know the secret.
    """
    given = environment.get(VARIABLE, "")
    if bool(given) != bool(greeting.get("secret")):
        has = ("set here, and not on worker 0", "set on worker 0, and not here")[not given]
        raise InputError(
            f"All workers must have the same secret. Received: {VARIABLE} {has}. Set it everywhere."
        )
    name = greeting.get("file")
    if not isinstance(name, str) or not _FILE.fullmatch(name):
        return _key(given, b"")
    if folder is None:
        raise InputError(
            "Workers must be started alike. Received: a shared folder on worker 0, and none here."
        )
    return _key(given, _content(folder, name))


def answer(key: bytes, side: str, *challenges: str) -> str:
    """Returns the answer of a side, "worker" or "server", to the challenge that comes first."""
    return hmac.digest(key, "".join((side, *challenges)).encode(), "sha256").hex()


def is_answer(text: object, key: bytes, side: str, *challenges: str) -> bool:
    """Returns whether an answer proves that the other side knows the key."""
    expected = answer(key, side, *challenges)
    return isinstance(text, str) and hmac.compare_digest(text.encode(), expected.encode())


def prove(connection: Connection, folder: str | None, keys: dict[str, bytes], server: str) -> None:
    """Proves to worker 0 that this worker knows the secret, and has it prove the same.

    Args:
      connection: Connection to worker 0 on which nothing has been received yet.
      folder: The folder that this worker shares with it.
      keys: Keys by file, to which a new one is added. Finding it may take longer than worker 0
        waits; another connection then has it.
      server: Name of worker 0 in messages.

    Raises:
      InputError: This worker does not know the secret.
      OSError: Worker 0 does not, or is gone.
    """
    greeting = connection.next(messages.CONNECT_SECONDS)
    theirs, own = greeting.get("challenge"), new_challenge()
    if not is_challenge(theirs):
        raise Impostor("something else listens at its address")
    name = str(greeting.get("file"))
    try:
        if name not in keys:
            keys[name] = of_greeting(greeting, folder)
    except InputError as error:
        with contextlib.suppress(OSError):  # the reason counts
            connection.send({"cannot": str(error)})
        raise
    key = keys[name]
    connection.send({"answer": answer(key, "worker", theirs, own), "challenge": own})
    answered = connection.next(messages.CONNECT_SECONDS)
    if answered.get("refused"):
        raise InputError(
            f"All workers must have the same secret. Received: another {VARIABLE} than that of "
            f"{server}. Set the same everywhere."
        )
    if not is_answer(answered.get("answer"), key, "server", own, theirs):
        raise Impostor("what listens at its address does not know the secret of this job")


def _content(folder: str, name: str) -> bytes:
    deadline = time.monotonic() + FOLDER_SECONDS
    try:
        while name not in os.listdir(folder):  # exists() may answer from a cache
            if time.monotonic() > deadline:
                raise InputError(
                    "All workers must see the same model folder as worker 0. Received: "
                    f"{folder}, a different folder on each host. Put it on a file system that all "
                    "hosts share."
                )
            messages.pause(deadline)
        path = os.path.join(folder, name)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(1024)
    except OSError as error:
        raise InputError(
            "All workers must be able to read the secret that worker 0 writes into the model "
            f"folder. Received: {error}. Run them all as the same user, with the same folder."
        ) from error


def _key(given: str, content: bytes) -> bytes:
    return hashlib.sha256(given.encode() + b"\0" + content).digest()
