"""Many replicas of the server on Ray Serve: `deploy` starts them, `front` is what clients reach, `replica` answers."""
