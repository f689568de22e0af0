"""The embedded faces: ``faces`` draws them by formula, from ``parts`` on a ``canvas``."""
