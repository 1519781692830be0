"""The HTTP API: the same lookups as the SDK, as JSON.

Enter: requests. Leave: values with status, age and watermark. Promise: every error is JSON that names the object
and what to write instead, and none carries our insides.
"""

from featurestore.server.app import make_app
from featurestore.server.run import serve

__all__ = ["make_app", "serve"]
