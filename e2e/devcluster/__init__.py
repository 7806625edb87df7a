"""The devcluster: a real Kubernetes control plane on loopback, and a node agent that runs pods as processes.

See README.md beside this file.
"""

from e2e.devcluster.client import ApiClient, ApiError, Object
from e2e.devcluster.cluster import DevCluster, DevClusterError
from e2e.devcluster.config import Config, ConfigError, NodeConfig

__all__ = ["ApiClient", "ApiError", "Config", "ConfigError", "DevCluster", "DevClusterError", "NodeConfig", "Object"]
