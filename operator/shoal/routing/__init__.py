"""The xDS server that configures the routers."""
