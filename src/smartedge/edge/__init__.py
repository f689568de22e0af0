"""The edge: owns the images, trains the front with its own exit, releases feature maps."""
