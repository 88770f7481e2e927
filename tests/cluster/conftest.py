"""Worker processes, and addresses at which they meet."""

import pytest

from tests.helpers.rendezvous_processes import Workers
from tf_lars.cluster import supervisor


@pytest.fixture
def workers(tmp_path):
    all_of_them = Workers(tmp_path)
    yield all_of_them
    all_of_them.kill()


@pytest.fixture
def addresses():
    return [f"127.0.0.1:{port}" for port in supervisor.free_ports(3)]
