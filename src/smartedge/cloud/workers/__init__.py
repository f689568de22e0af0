"""Several processes that train one back together."""
