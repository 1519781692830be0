"""Real servers on this machine, with nothing but Python on it: for the demo, for development, for tests.

Enter: a folder. Leave: addresses of a running Apache Kafka and Valkey, and our own processes beside them.
Promise: they are ready when `start` returns, end with their parent, and find their data again.
"""

from featurestore.local.process import ChildServer, free_port
from featurestore.local.services import command, environment_of, local_settings, start_server, start_worker
from featurestore.local.stack import LocalStack

__all__ = [
    "ChildServer",
    "LocalStack",
    "command",
    "environment_of",
    "free_port",
    "local_settings",
    "start_server",
    "start_worker",
]
